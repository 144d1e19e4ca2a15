//! The stateless version, 2026-07-28: every request has its protocol version in `_meta`, and its method and name in
//! headers. The headers must match the body, or the request is refused with `-32020`.
//!
//! Source: MCP 2026-07-28, *Streamable HTTP*, sections "Request Metadata" and "Server Validation".

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::message::Message;
use super::record::Received;
use super::tools::{self, Tools};

/// The version of this module.
pub(super) const VERSION: &str = "2026-07-28";

const META_VERSION: &str = "/_meta/io.modelcontextprotocol~1protocolVersion";
const META_CAPABILITIES: &str = "/_meta/io.modelcontextprotocol~1clientCapabilities";

/// The additional members of every result.
const EXTRA: &str = r#","resultType":"complete""#;
/// The additional members of cacheable results.
const CACHED: &str = r#","resultType":"complete","ttlMs":60000,"cacheScope":"public""#;

/// Whether a request uses this version.
pub(super) fn speaks(request: &Received) -> bool {
    request.param(META_VERSION).is_string()
        || request.header("mcp-protocol-version").is_some_and(|version| version >= VERSION)
}

/// An error has the status and the text with which the request must be refused.
pub(super) fn check(
    tools: &Tools,
    request: &Received,
    message: &Message,
) -> Result<(), (u16, String)> {
    let mismatch =
        |text: String| Err((400, message.error(-32020, &format!("Header mismatch: {text}"), None)));
    let version = request.param(META_VERSION);
    let version = version.as_str().unwrap_or_default();
    if request.header("mcp-protocol-version") != Some(version) {
        return mismatch(format!("MCP-Protocol-Version is not {version:?}"));
    }
    if version != VERSION {
        let requested = Value::from(version);
        let data = format!(r#"{{"supported":["{VERSION}"],"requested":{requested}}}"#);
        let text = "Unsupported protocol version";
        return Err((400, message.error(-32022, text, Some(&data))));
    }
    if !request.param(META_CAPABILITIES).is_object() {
        let text = "clientCapabilities is missing in _meta";
        return Err((400, message.error(-32602, text, None)));
    }
    if request.header("mcp-method") != message.method.as_deref() {
        return mismatch(format!("Mcp-Method is not {:?}", request.method()));
    }
    let named = match request.method() {
        "tools/call" | "prompts/get" => Some(request.param("/name")),
        "resources/read" => Some(request.param("/uri")),
        _ => None,
    };
    if let Some(name) = named
        && decoded(request, "mcp-name").as_deref() != name.as_str()
    {
        return mismatch(format!("Mcp-Name is not {name}"));
    }
    if request.method() == "tools/call" {
        let tool = request.param("/name");
        for (header, parameter) in tools.mirrored(tool.as_str().unwrap_or_default()) {
            let expected = match request.param(&format!("/arguments/{parameter}")) {
                Value::Null => None,
                Value::String(text) => Some(text),
                other => Some(other.to_string()),
            };
            if decoded(request, &format!("mcp-param-{header}")) != expected {
                return mismatch(format!("Mcp-Param-{header} is not {expected:?}"));
            }
        }
    }
    Ok(())
}

/// A header's value, decoded if it is in the base64 form.
fn decoded(request: &Received, name: &str) -> Option<String> {
    let value = request.header(name)?;
    let encoded = value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?="));
    match encoded {
        Some(encoded) => String::from_utf8(STANDARD.decode(encoded).ok()?).ok(),
        None => Some(value.to_owned()),
    }
}

/// The status and the text of the response to a checked request.
pub(super) async fn answer(tools: &Tools, request: &Received, message: &Message) -> (u16, String) {
    let method = message.method.as_deref().unwrap_or_default();
    let result = match method {
        "server/discover" => Ok(format!(
            r#"{{"supportedVersions":["{VERSION}"],"capabilities":{{"tools":{{"listChanged":true}},"resources":{{}},"prompts":{{}},"completions":{{}}}},"instructions":"Ask whoami.","_meta":{{"io.modelcontextprotocol/serverInfo":{{"name":"verifying-upstream","version":"1.0"}}}}{CACHED}}}"#
        )),
        "tools/list" => tools.list(message, CACHED),
        "tools/call" => tools.call(message, request.identity(), EXTRA).await,
        "ping" | "logging/setLevel" | "initialize" => Err(String::new()),
        other => tools::fixed(other, CACHED).ok_or_else(String::new),
    };
    match result {
        Ok(result) => (200, message.result(&result)),
        Err(error) if error.is_empty() => {
            (404, message.error(-32601, &format!("Method not found: {method}"), None))
        }
        Err(error) => (200, error),
    }
}
