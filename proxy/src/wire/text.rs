//! JSON tokens, and checks for any JSON text.

use std::borrow::Cow;

use super::fault::Fault;

/// The deepest nesting that is accepted from a client: nothing in MCP needs more, and recursive
/// parsers of servers could overflow their stack.
pub const MAX_DEPTH: usize = 512;

/// The string of a JSON token; `None` if it isn't a string, or not valid Unicode (a lone
/// surrogate).
#[must_use]
pub fn string(token: &str) -> Option<Cow<'_, str>> {
    let inner = token.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(token).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// The JSON token of a string.
#[must_use]
pub fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Refuses nesting beyond [`MAX_DEPTH`].
pub fn check_depth(text: &str) -> Result<(), Fault> {
    check_depth_to(MAX_DEPTH, text)
}

/// Refuses nesting beyond `limit`, in one pass and without recursion.
pub fn check_depth_to(limit: usize, text: &str) -> Result<(), Fault> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > limit {
                    return Err(Fault::TooDeep(limit));
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// `text` on one line: stdio separates messages by newlines, HTTP doesn't.
///
/// In valid JSON, line breaks occur only between tokens, so removing them changes no value.
#[must_use]
pub fn one_line(text: String) -> String {
    if memchr::memchr2(b'\n', b'\r', text.as_bytes()).is_none() {
        return text;
    }
    text.replace(['\n', '\r'], "")
}
