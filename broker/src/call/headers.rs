//! Checks the headers that describe the body: how to decode it, and which call it contains.
//!
//! A known limit: a caller may send more headers than it had signed, and SigV4 can't prevent that.
//! A server that decodes a body by an unsigned `Content-Encoding`, or a gateway that routes by an
//! unsigned `Mcp-Name`, is deceived nevertheless.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Checks that servers read the body as JSON in UTF-8. The content type must be signed: an unsigned
/// one could name another character set (in UTF-7, `+ACI-` is a quotation mark).
pub(super) fn content(headers: &[(String, String)]) -> Result<(), &'static str> {
    if values(headers, "content-encoding").next().is_some() {
        return Err("it has a content encoding");
    }
    let mut types = values(headers, "content-type");
    let (Some(content_type), None) = (types.next(), types.next()) else {
        return Err("there isn't exactly one signed content type");
    };
    let plain = content_type.to_ascii_lowercase().replace([' ', '"'], "");
    match plain.as_str() {
        "application/json" | "application/json;charset=utf-8" => Ok(()),
        _ => Err("its content type is not JSON in UTF-8"),
    }
}

/// Checks that the headers of MCP (2026-07-28) agree with the body: gateways may route by them.
pub(super) fn agree(
    headers: &[(String, String)],
    body_method: &str,
    body_target: Option<&str>,
) -> Result<(), Cow<'static, str>> {
    for method in values(headers, "mcp-method") {
        if method != body_method {
            return Err("Mcp-Method isn't the method of the body".into());
        }
    }
    for name in values(headers, "mcp-name") {
        let name = decoded(name).ok_or("Mcp-Name isn't valid base64")?;
        if Some(&*name) != body_target {
            return Err("Mcp-Name isn't the name in the body".into());
        }
    }
    if values(headers, "mcp-method").count() > 1 || values(headers, "mcp-name").count() > 1 {
        return Err("Mcp-Method or Mcp-Name is repeated".into());
    }
    Ok(())
}

fn values<'h>(
    headers: &'h [(String, String)],
    wanted: &'h str,
) -> impl Iterator<Item = &'h str> + use<'h> {
    headers.iter().filter(move |(name, _)| name == wanted).map(|(_, value)| value.as_str())
}

/// Decodes `=?base64?…?=`, which MCP uses for values that headers can't contain.
fn decoded(value: &str) -> Option<Cow<'_, str>> {
    let Some(coded) = value.strip_prefix("=?base64?") else { return Some(value.into()) };
    let bytes = STANDARD.decode(coded.strip_suffix("?=")?).ok()?;
    String::from_utf8(bytes).ok().map(Cow::Owned)
}
