//! The agent's side of an MCP session with the proxy, from a network of containers.

use bytes::Bytes;
use serde_json::Value;

use crate::http;

/// A session that is ready for calls.
#[derive(Clone)]
pub(super) struct Session {
    address: String,
    token: String,
    id: String,
}

impl Session {
    /// Opens a session with the proxy at `address`.
    pub(super) async fn open(address: &str, token: &str) -> Self {
        let body = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"agent","version":"1"}}}"#;
        let answer = post(address, token, "", body).await;
        let id = answer.header("mcp-session-id").expect("a session").to_owned();
        answer.text().await;
        let ready = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        assert_eq!(post(address, token, &id, ready).await.status, 202);
        Self { address: address.to_owned(), token: token.to_owned(), id }
    }

    /// Calls a tool without arguments of its own. Returns the response.
    pub(super) async fn call(&self, tool: &str, profile: &str) -> Value {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{{"aws_profile":"{profile}"}}}}}}"#
        );
        post(&self.address, &self.token, &self.id, &body).await.message().await
    }
}

/// Posts a message, outside of a session if `session` is empty.
pub(super) async fn post(address: &str, token: &str, session: &str, body: &str) -> http::Answer {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("authorization", bearer.as_str()),
    ];
    if !session.is_empty() {
        headers.extend([("mcp-session-id", session), ("mcp-protocol-version", "2025-11-25")]);
    }
    let body = Bytes::copy_from_slice(body.as_bytes());
    http::request(address, "POST", "/mcp", &headers, body).await
}
