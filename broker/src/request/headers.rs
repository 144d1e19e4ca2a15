//! Checks the headers that a caller wants signed.

use sigward_proto::headers::{MAX_HEADER_BYTES, MAX_HEADERS, is_reserved};
use sigward_proto::v1::Header;

use crate::error::{Denial, Reason};

/// Checks names and values; returns names in lower case.
pub(super) fn check(headers: &[Header]) -> Result<Vec<(String, String)>, Denial> {
    if headers.len() > MAX_HEADERS {
        return Err(Denial::new(Reason::InvalidHeader, "too many headers"));
    }
    let bytes: usize = headers.iter().map(|header| header.name.len() + header.value.len()).sum();
    if bytes > MAX_HEADER_BYTES {
        return Err(Denial::new(Reason::InvalidHeader, "the headers are too long"));
    }
    headers.iter().map(|header| Ok((name(&header.name)?, value(&header.value)?))).collect()
}

fn name(name: &str) -> Result<String, Denial> {
    if !is_token(name.as_bytes()) {
        return Err(Denial::new(Reason::InvalidHeader, "a header name isn't a token"));
    }
    let name = name.to_ascii_lowercase();
    if is_reserved(&name) {
        return Err(Denial::new(Reason::ReservedHeader, "a header is reserved"));
    }
    Ok(name)
}

/// Checks that canonicalisation, which trims values and folds runs of spaces, doesn't change the
/// value. CR and LF would start another header; clients encode non-ASCII characters differently.
fn value(value: &[u8]) -> Result<String, Denial> {
    let wrong = |why| Err(Denial::new(Reason::InvalidHeader, why));
    let Ok(text) = std::str::from_utf8(value) else {
        return wrong("a header value isn't ASCII");
    };
    if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return wrong("a header value has a control or non-ASCII character");
    }
    if text.starts_with(' ') || text.ends_with(' ') || text.contains("  ") {
        return wrong("a header value has spaces that canonicalisation removes");
    }
    Ok(text.to_owned())
}

/// A token by RFC 9110, 5.6.2.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes.len() <= 256
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}
