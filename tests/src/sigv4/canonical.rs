//! The canonical request: one text for all spellings of an HTTP request.

use super::{PathRule, Refusal, Request};

/// The text whose hash is signed.
pub(super) fn request(
    request: &Request<'_>,
    rule: PathRule,
    signed_headers: &[String],
    body_hash: &str,
) -> Result<String, Refusal> {
    let (raw_path, raw_query) = request.target.split_once('?').unwrap_or((request.target, ""));
    let mut text = format!("{}\n{}\n{}\n", request.method, path(raw_path, rule), query(raw_query));
    for name in signed_headers {
        let mut values = Vec::new();
        for (_, value) in request.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)) {
            values.push(trimmed(value));
        }
        if values.is_empty() {
            return Err(Refusal::Absent(name.clone()));
        }
        text.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    text.push_str(&format!("\n{}\n{body_hash}", signed_headers.join(";")));
    Ok(text)
}

fn path(raw: &str, rule: PathRule) -> String {
    match rule {
        PathRule::Normalized => encode(&normalized(raw), "/"),
        PathRule::Verbatim => encode(raw, "/"),
    }
}

/// Removes `.`, `..` and empty segments (RFC 3986 section 5.2.4, and slashes collapsed).
fn normalized(raw: &str) -> String {
    let mut segments = Vec::new();
    for segment in raw.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    let folder = raw.ends_with('/') || raw.ends_with("/.") || raw.ends_with("/..");
    let end = if folder && !segments.is_empty() { "/" } else { "" };
    format!("/{}{end}", segments.join("/"))
}

/// Decodes the pairs, encodes them in the canonical form, and sorts them by name and then value.
fn query(raw: &str) -> String {
    let mut pairs: Vec<_> = raw
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (encode_bytes(&decode(name), ""), encode_bytes(&decode(value), ""))
        })
        .collect();
    pairs.sort();
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

/// Removes white space at both ends, and replaces runs of it within by one space.
fn trimmed(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

fn encode(text: &str, kept: &str) -> String {
    encode_bytes(text.as_bytes(), kept)
}

fn encode_bytes(bytes: &[u8], kept: &str) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
        if plain || kept.as_bytes().contains(byte) {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

fn decode(text: &str) -> Vec<u8> {
    let mut rest = text.as_bytes();
    let mut decoded = Vec::with_capacity(rest.len());
    while let [first, tail @ ..] = rest {
        if let [b'%', high, low, after @ ..] = rest
            && let (Some(high), Some(low)) = (hex_digit(*high), hex_digit(*low))
        {
            decoded.push(high << 4 | low);
            rest = after;
        } else {
            decoded.push(*first);
            rest = tail;
        }
    }
    decoded
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}
