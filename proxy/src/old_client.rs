//! Supports clients that hang if `initialize` is answered with an error.
//!
//! The CLIs of Kiro and Amazon Q use a Rust SDK that ignored such errors (modelcontextprotocol/rust-sdk#569). As in
//! mcp-proxy-for-aws, they get a successful handshake in place of the error. Their next request opens the session
//! again, and gets the error.

use crate::budget::Message;
use crate::wire::{self, Envelope, Object};

/// Parts of the names of these clients, in lower case.
const NAMES: [&str; 2] = ["kiro cli", "q dev cli"];

/// The response to the `initialize` in `request`. For one of these clients, an error is replaced by a handshake.
pub(crate) fn without_error(request: &str, response: Message) -> Message {
    match handshake(request, &response.text) {
        Some((handshake, error)) => {
            tracing::error!(
                error,
                "the server can't be initialized; the client gets the error with its next request"
            );
            handshake.into()
        }
        None => response,
    }
}

fn handshake(request: &str, response: &str) -> Option<(String, String)> {
    let answered = Envelope::parse(response).ok()?;
    let error = Object::parse(answered.error?).ok()?.find_string("message")?;
    let sent = Envelope::parse(request).ok()?;
    let params = sent.params_object()?;
    let client = params.find_object("clientInfo")?.find_string("name")?.to_lowercase();
    if !NAMES.iter().any(|name| client.contains(name)) {
        return None;
    }
    let version = params.find_string("protocolVersion")?;
    let result = format!(
        r#"{{"protocolVersion":{},"capabilities":{{"tools":{{}}}},"serverInfo":{{"name":"sigward-proxy","version":{}}},"instructions":{}}}"#,
        wire::quote(&version),
        wire::quote(env!("CARGO_PKG_VERSION")),
        wire::quote(&error),
    );
    Some((wire::result_response(&sent.owned_id(), &result), error.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: &str =
        r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32000,"message":"no \"way\""}}"#;

    fn answer(client: &str, response: &str) -> String {
        let request = format!(
            r#"{{"jsonrpc":"2.0","id":7,"method":"initialize","params":{{"protocolVersion":"2025-03-26","clientInfo":{{"name":"{client}","version":"1"}}}}}}"#
        );
        without_error(&request, response.to_owned().into()).text
    }

    #[test]
    fn only_clients_that_would_hang_get_a_handshake() {
        for client in ["Q DEV CLI", "Kiro CLI", "my kiro cli 2"] {
            let text = answer(client, ERROR);
            let response: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(response["id"], 7);
            assert_eq!(response["result"]["protocolVersion"], "2025-03-26");
            assert_eq!(response["result"]["instructions"], "no \"way\"");
        }
        assert_eq!(answer("claude", ERROR), ERROR);
        let result = r#"{"jsonrpc":"2.0","id":7,"result":{}}"#;
        assert_eq!(answer("kiro cli", result), result);
    }
}
