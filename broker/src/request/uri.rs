//! Checks that a URI belongs to an endpoint, in the one form that all parsers read alike.

use std::sync::Arc;

use http::Uri;

use crate::endpoint::{Endpoint, EndpointUrl, Paths};
use crate::error::{Denial, Reason};

/// The longest URI that hyper accepts in a request line, in bytes.
const MAX_BYTES: usize = 16 << 10;

/// Finds the endpoint that an absolute URI belongs to, and the path and query to send.
pub(super) fn check(
    text: &str,
    endpoints: &[Arc<Endpoint>],
) -> Result<(Arc<Endpoint>, String), Denial> {
    let invalid = |why: &'static str| Denial::new(Reason::InvalidUri, why);
    if text.len() > MAX_BYTES {
        return Err(invalid("too long"));
    }
    // `Uri` drops a fragment silently.
    if text.contains('#') {
        return Err(invalid("it has a fragment"));
    }
    let uri: Uri = text.parse().map_err(|_| invalid("it isn't a URI"))?;
    // The signer panics on an origin-form URI.
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(invalid("not absolute"));
    };
    // User info would be part of the signed host.
    if authority.as_str().contains('@') {
        return Err(invalid("it has user info"));
    }
    // `Uri` ignores a port beyond 65535.
    let port = match authority.as_str().strip_prefix(authority.host()) {
        Some("") => Some(if scheme == "https" { 443 } else { 80 }),
        _ => authority.port_u16(),
    };
    let port = port.ok_or_else(|| invalid("its port isn't valid"))?;
    let path = uri.path();
    if !path.bytes().all(is_path_byte) || !escapes_are_whole(path) {
        return Err(invalid("its path has characters that must be encoded"));
    }
    let query = match uri.query() {
        Some(query) if is_canonical(query) => Some(query),
        Some(_) => {
            return Err(Denial::new(
                Reason::NonCanonicalQuery,
                "the query isn't in SigV4's canonical form",
            ));
        }
        None if text.ends_with('?') => {
            return Err(Denial::new(Reason::NonCanonicalQuery, "the query is empty"));
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
        // The most specific endpoint: `/mcp/admin` doesn't belong to `/mcp` if it is an endpoint
        // itself.
        .max_by_key(|endpoint| endpoint.url.path().len())
        .ok_or_else(|| Denial::new(Reason::EndpointNotAllowed, "no endpoint has this URI"))?;
    let path_and_query = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    Ok((Arc::clone(endpoint), path_and_query))
}

/// Whether the path is the endpoint's, or lies below it at a segment boundary and can't leave it.
/// The attack: a server that decodes before it resolves would leave it with `..`, `%2e%2e` or
/// `%2f..`, and one that removes the parameters of segments with `..;`.
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
    // A slash at the end is allowed; other empty segments would be removed by the signer's
    // normalisation.
    let last_fits = parts.next().is_some_and(|part| part != "." && part != "..");
    last_fits
        && !tricks.iter().any(|trick| lower.contains(trick))
        && parts.all(|part| !matches!(part, "" | "." | ".."))
}

/// The characters of a path by RFC 3986.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte)
}

/// Whether each `%` is followed by two hexadecimal digits.
fn escapes_are_whole(path: &str) -> bool {
    path.split('%').skip(1).all(|after| {
        after.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// Whether a query is in SigV4's canonical form: sorted `name=value` pairs with all but the
/// unreserved characters encoded, in upper case. The signer would bring any other query into that
/// form and sign it, but the server would get the caller's.
fn is_canonical(query: &str) -> bool {
    let mut last = None;
    query.split('&').all(|pair| {
        let Some((name, value)) = pair.split_once('=') else { return false };
        // Parameters of a presigned URL must not accompany the signature in the headers.
        let reserved = name.to_ascii_lowercase().starts_with("x-amz-");
        let sorted = last.is_none_or(|last| last <= (name, value));
        last = Some((name, value));
        !name.is_empty() && !reserved && sorted && is_encoded(name) && is_encoded(value)
    })
}

/// Whether a text is percent-encoded by SigV4's rules, and UTF-8 when decoded.
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
    // The signer replaces invalid UTF-8 with a replacement character, and signs that.
    std::str::from_utf8(&decoded).is_ok()
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}
