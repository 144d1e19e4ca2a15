//! Which headers a caller may have signed.

use sigward_proto::v1::{Header, Reason};

use crate::error::Denial;

/// More than any MCP client sends, and little enough to sign in microseconds.
const MAX_HEADERS: usize = 100;
const MAX_BYTES: usize = 64 << 10;

/// Names and values, checked; names in lower case.
pub(super) fn check(headers: &[Header]) -> Result<Vec<(String, String)>, Denial> {
    if headers.len() > MAX_HEADERS {
        return Err(Denial::new(Reason::InvalidHeader, "too many headers"));
    }
    let bytes: usize = headers.iter().map(|header| header.name.len() + header.value.len()).sum();
    if bytes > MAX_BYTES {
        return Err(Denial::new(Reason::InvalidHeader, "the headers are too long"));
    }
    headers.iter().map(|header| Ok((name(&header.name)?, value(&header.value)?))).collect()
}

fn name(name: &str) -> Result<String, Denial> {
    if !is_token(name.as_bytes()) {
        return Err(Denial::new(Reason::InvalidHeader, "a name that is not a token"));
    }
    let name = name.to_ascii_lowercase();
    if is_reserved(&name) {
        return Err(Denial::new(Reason::ReservedHeader, "a header that a caller can't choose"));
    }
    Ok(name)
}

/// A value that reads the same before and after canonicalisation, which trims it and folds runs of
/// spaces. CR and LF would start another header; what isn't ASCII is encoded by everyone differently.
fn value(value: &[u8]) -> Result<String, Denial> {
    let wrong = |why| Err(Denial::new(Reason::InvalidHeader, why));
    let Ok(text) = std::str::from_utf8(value) else {
        return wrong("a value that is not ASCII");
    };
    if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return wrong("a value with a control character, or beyond ASCII");
    }
    if text.starts_with(' ') || text.ends_with(' ') || text.contains("  ") {
        return wrong("a value with spaces that the signature would fold");
    }
    Ok(text.to_owned())
}

/// RFC 9110, 5.6.2.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes.len() <= 256
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn is_reserved(name: &str) -> bool {
    match name {
        // The signature is for the endpoint's host: with a caller's, "allowed URL, host: evil" gave a
        // signature that is valid for evil.
        "host" | "forwarded" => true,
        // What SigV4 sets itself; a `date` makes some verifiers overlook `x-amz-date`.
        "authorization" | "date" => true,
        // Also `x-amz-security-token`: signed as given where the credentials have none. And
        // `x-amz-content-sha256`: it would speak of another body than the one that was read.
        _ if name.starts_with("x-amz-") => true,
        // One connection's own (RFC 9110, 7.6.1): gone or changed when it arrives.
        "connection" | "keep-alive" | "te" | "trailer" | "transfer-encoding" | "upgrade"
        | "proxy-connection" | "expect" => true,
        _ if name.starts_with("proxy-") => true,
        // What an HTTP stack sets or changes after the signature.
        "content-length" | "accept-encoding" | "user-agent" | "x-amzn-trace-id" => true,
        _ => false,
    }
}
