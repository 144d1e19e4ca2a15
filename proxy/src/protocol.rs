//! The requirements of MCP over HTTP for a message: its generation, and the headers that mirror it.
//!
//! Versions up to 2025-11-25 bind messages to a session. 2026-07-28 has no sessions, and repeats
//! parts of each message in headers (SEP-2243). All functions are pure functions of the final text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::upstream::SESSION_ID;
use crate::wire::{self, Envelope, Object};

/// `MCP-Protocol-Version`
pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// `Last-Event-ID`
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const MCP_METHOD: HeaderName = HeaderName::from_static("mcp-method");
const MCP_NAME: HeaderName = HeaderName::from_static("mcp-name");

/// The key in `params._meta` of the protocol version (2026-07-28).
pub const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// The key of the sender's description.
pub const META_CLIENT: &str = "io.modelcontextprotocol/clientInfo";
/// The key of the sender's capabilities.
pub const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// The prefix of all keys that describe the sender.
pub const META_PREFIX: &str = "io.modelcontextprotocol/";

/// The error code for a header that doesn't mirror the body.
pub const HEADER_MISMATCH: i64 = -32020;
/// AWS's error code for a lost session.
pub const AWS_SESSION_EXPIRED: i64 = -30001;
/// AWS's error code for throttling: the server didn't act.
pub const THROTTLED: i64 = -32004;

/// How a message is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Generation {
    /// Up to 2025-11-25: with a session.
    Sessions,
    /// From 2026-07-28 on: without a session, with the version that the message names.
    Stateless(HeaderValue),
}

impl Generation {
    /// The generation of a message, by its `_meta`.
    #[must_use]
    pub fn of(params: Option<&Object<'_>>) -> Self {
        params
            .and_then(|params| params.find_object("_meta"))
            .and_then(|meta| meta.find_string(META_VERSION).map(std::borrow::Cow::into_owned))
            .and_then(|version| HeaderValue::try_from(version).ok())
            .map_or(Self::Sessions, Self::Stateless)
    }

    /// Whether it is the generation without sessions.
    #[must_use]
    pub fn is_stateless(&self) -> bool {
        matches!(self, Self::Stateless(_))
    }
}

/// The headers of every POST.
#[must_use]
pub fn post_headers() -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(10);
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
}

/// Sets the headers that bind a request to its session.
pub fn bind(headers: &mut HeaderMap, id: Option<&HeaderValue>, version: Option<&HeaderValue>) {
    if let Some(id) = id {
        headers.insert(SESSION_ID, id.clone());
    }
    if let Some(version) = version {
        headers.insert(PROTOCOL_VERSION, version.clone());
    }
}

/// Sets the headers that mirror a message of 2026-07-28: version, method, name, and the parameters
/// that its tool requires.
pub fn mirror(
    headers: &mut HeaderMap,
    version: &HeaderValue,
    envelope: &Envelope<'_>,
    parameters: &[ParameterHeader],
) {
    headers.insert(PROTOCOL_VERSION, version.clone());
    insert(headers, MCP_METHOD, &envelope.method);
    let Some(params) = envelope.params_object() else { return };
    if let Some(name) = name_field(&envelope.method).and_then(|field| params.find_string(field)) {
        insert(headers, MCP_NAME, &name);
    }
    if parameters.is_empty() {
        return;
    }
    let Some(arguments) = params.find_object("arguments") else { return };
    for parameter in parameters {
        if let Some(text) = parameter.value(&arguments) {
            insert(headers, parameter.header.clone(), &text);
        }
    }
}

/// The member of `params` that `Mcp-Name` repeats.
fn name_field(method: &str) -> Option<&'static str> {
    match method {
        "tools/call" | "prompts/get" => Some("name"),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => Some("uri"),
        "tasks/get" | "tasks/update" | "tasks/cancel" | "tasks/result" => Some("taskId"),
        _ => None,
    }
}

/// A parameter that is mirrored in a header: `x-mcp-header` in a tool's schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterHeader {
    /// The names from the arguments to the value.
    pub path: Vec<String>,
    /// The header, `Mcp-Param-…`.
    pub header: HeaderName,
}

impl ParameterHeader {
    fn value(&self, arguments: &Object<'_>) -> Option<String> {
        let (last, parents) = self.path.split_last()?;
        let mut object = arguments.clone();
        for name in parents {
            object = object.find_object(name)?;
        }
        let value = object.find(last)?;
        match value.as_bytes().first()? {
            b'"' => wire::string(value).map(std::borrow::Cow::into_owned),
            // For null, no header is sent; objects and arrays can't be mirrored.
            b'n' | b'{' | b'[' => None,
            _ => Some(value.to_owned()),
        }
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::try_from(encode(text)) {
        headers.insert(name, value);
    }
}

/// A value for a header: unchanged, or in the specification's Base64 form (Streamable HTTP, "Value
/// Encoding").
fn encode(text: &str) -> String {
    let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && !text.starts_with(' ')
        && !text.ends_with(' ')
        // The signature collapses runs of spaces, and intermediaries may change tabs.
        && !text.contains("  ");
    let looks_encoded = text.starts_with("=?base64?") && text.ends_with("?=");
    if plain && !looks_encoded {
        text.to_owned()
    } else {
        format!("=?base64?{}?=", BASE64.encode(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded_as_the_specification_shows() {
        for (text, encoded) in [
            ("us-west1", "us-west1"),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            ("two  spaces", "=?base64?dHdvICBzcGFjZXM=?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ] {
            assert_eq!(encode(text), encoded);
        }
    }

    #[test]
    fn a_message_of_2026_is_mirrored() {
        let text = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"q","arguments":{"region":"eu","n":{"deep":42},"gone":null},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
        let envelope = Envelope::parse(text).unwrap();
        let Generation::Stateless(version) = Generation::of(envelope.params_object().as_ref())
        else {
            panic!("not recognised");
        };
        let parameter = |path: &[&str], header: &'static str| ParameterHeader {
            path: path.iter().map(|&name| name.to_owned()).collect(),
            header: HeaderName::from_static(header),
        };
        let mut headers = HeaderMap::new();
        let parameters = [
            parameter(&["region"], "mcp-param-region"),
            parameter(&["n", "deep"], "mcp-param-deep"),
            parameter(&["gone"], "mcp-param-gone"),
            parameter(&["absent"], "mcp-param-absent"),
        ];
        mirror(&mut headers, &version, &envelope, &parameters);
        let expected = [
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", "q"),
            ("mcp-param-region", "eu"),
            ("mcp-param-deep", "42"),
        ];
        assert_eq!(headers.len(), expected.len());
        for (name, value) in expected {
            assert_eq!(headers[name], value);
        }
    }

    #[test]
    fn a_message_without_a_version_needs_a_session() {
        let params = Object::parse(r#"{"_meta":{"progressToken":1}}"#).unwrap();
        assert_eq!(Generation::of(Some(&params)), Generation::Sessions);
        assert_eq!(Generation::of(None), Generation::Sessions);
    }
}
