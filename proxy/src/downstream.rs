//! What speaks to MCP clients.

pub mod stdio;
