//! The transports that MCP clients use.

pub mod http;
pub mod stdio;
