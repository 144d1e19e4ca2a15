//! What speaks to MCP clients.

pub mod http;
pub mod stdio;
