//! Which URIs may be signed: those of an endpoint, in the one form that everybody reads alike.

use std::sync::Arc;

use http::Uri;

use crate::endpoint::{Endpoint, EndpointUrl, Paths};
use crate::error::{Denial, Reason};

/// What hyper accepts in a request line.
const MAX_BYTES: usize = 16 << 10;

/// The endpoint that an absolute URI belongs to, and the path and query to send.
pub(super) fn check(
    text: &str,
    endpoints: &[Arc<Endpoint>],
) -> Result<(Arc<Endpoint>, String), Denial> {
    let invalid = |why: &'static str| Denial::new(Reason::InvalidUri, why);
    if text.len() > MAX_BYTES {
        return Err(invalid("too long"));
    }
    // `Uri` drops a fragment without a word.
    if text.contains('#') {
        return Err(invalid("it has a fragment"));
    }
    let uri: Uri = text.parse().map_err(|_| invalid("not a URI"))?;
    // The signer panics on an origin-form URI.
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(invalid("not absolute"));
    };
    // User info ends in the signed host.
    if authority.as_str().contains('@') {
        return Err(invalid("it has user info"));
    }
    // `Uri` takes a port beyond 65535 for none.
    let port = match authority.as_str().strip_prefix(authority.host()) {
        Some("") => Some(if scheme == "https" { 443 } else { 80 }),
        _ => authority.port_u16(),
    };
    let port = port.ok_or_else(|| invalid("its port is not one"))?;
    let path = uri.path();
    if !path.bytes().all(is_path_byte) || !escapes_are_whole(path) {
        return Err(invalid("its path holds what must be encoded"));
    }
    let query = match uri.query() {
        Some(query) if is_canonical(query) => Some(query),
        Some(_) => {
            return Err(Denial::new(Reason::NonCanonicalQuery, "not as SigV4 would write it"));
        }
        None if text.ends_with('?') => {
            return Err(Denial::new(Reason::NonCanonicalQuery, "an empty query"));
        }
        None => None,
    };
    let here = |url: &EndpointUrl| {
        url.scheme() == scheme && url.host() == authority.host() && url.port() == port
    };
    let endpoint = endpoints
        .iter()
        .filter(|endpoint| {
            let base = endpoint.url.path();
            here(&endpoint.url)
                && match endpoint.paths {
                    Paths::Exact => path == base,
                    Paths::Prefix => is_at_or_below(path, base),
                }
        })
        // The most specific one: `/mcp/admin` isn't `/mcp`'s where it is an endpoint of its own.
        .max_by_key(|endpoint| endpoint.url.path().len())
        .ok_or_else(|| Denial::new(Reason::EndpointNotAllowed, "no endpoint has this URI"))?;
    let path_and_query = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    Ok((Arc::clone(endpoint), path_and_query))
}

/// Whether the path is the endpoint's, or lies below it on a border of segments, and can't leave it
/// again: a server that decodes before it resolves would walk out over `..`, `%2e%2e` or `%2f..`, and one
/// that drops the parameters of a segment over `..;`.
fn is_at_or_below(path: &str, base: &str) -> bool {
    let Some(rest) = path.strip_prefix(base) else { return false };
    if rest.is_empty() {
        return true;
    }
    let segments = if base.ends_with('/') {
        rest
    } else {
        let Some(below) = rest.strip_prefix('/') else { return false };
        below
    };
    let lower = segments.to_ascii_lowercase();
    let tricks = ["%2e", "%2f", "%5c", "%25", "%00"];
    let without_parameters = |part: &'_ str| part.split(';').next().unwrap_or_default().len();
    let mut parts = lower.split('/').map(|part| &part[..without_parameters(part)]).rev();
    // A slash at the end is fine, an empty segment elsewhere is normalised away by the signature.
    let last_fits = parts.next().is_some_and(|part| part != "." && part != "..");
    last_fits
        && !tricks.iter().any(|trick| lower.contains(trick))
        && parts.all(|part| !matches!(part, "" | "." | ".."))
}

/// RFC 3986: what may stand in a path.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte)
}

/// Whether each `%` starts two hexadecimal digits.
fn escapes_are_whole(path: &str) -> bool {
    path.split('%').skip(1).all(|after| {
        after.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// Whether a query is what SigV4's canonical form of it is: sorted `name=value` pairs, all encoded
/// but the unreserved characters, in upper case. The signer would bring any other query into that
/// form and sign it, and the server sees another one than the caller sent.
fn is_canonical(query: &str) -> bool {
    let mut last = None;
    query.split('&').all(|pair| {
        let Some((name, value)) = pair.split_once('=') else { return false };
        // Parameters of a presigned URL beside the signature in the headers.
        let reserved = name.to_ascii_lowercase().starts_with("x-amz-");
        let sorted = last.is_none_or(|last| last <= (name, value));
        last = Some((name, value));
        !name.is_empty() && !reserved && sorted && is_encoded(name) && is_encoded(value)
    })
}

/// Whether a text is percent-encoded as SigV4 wants it, and UTF-8 when decoded.
fn is_encoded(text: &str) -> bool {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if is_unreserved(byte) {
            decoded.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| match byte {
            Some(digit @ b'0'..=b'9') => Some(digit - b'0'),
            Some(digit @ b'A'..=b'F') => Some(digit - b'A' + 10),
            _ => None,
        };
        let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
            return false;
        };
        let value = high << 4 | low;
        if byte != b'%' || is_unreserved(value) {
            return false;
        }
        decoded.push(value);
    }
    // The signer decodes what isn't UTF-8 to a replacement character, and signs that.
    std::str::from_utf8(&decoded).is_ok()
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}
