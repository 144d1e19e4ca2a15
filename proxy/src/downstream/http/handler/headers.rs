//! Decides which headers are forwarded, in each direction.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, ORIGIN, REFERER, SET_COOKIE,
    STRICT_TRANSPORT_SECURITY, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT, VIA,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use sigward_proto::headers::is_reserved;

use crate::protocol::LAST_EVENT_ID;

/// The headers of a client as they are forwarded upstream, where they are signed.
///
/// Headers about the connection between client and proxy aren't forwarded: above all the bearer token of the proxy;
/// cookies that a browser has for the name `localhost`, whoever set them; and headers that a signature sets itself.
///
/// # Errors
/// A value that can't be signed unchanged. Dropping its header would change the request: a stream without
/// `Last-Event-ID` is a new one, and the response would be lost.
pub(super) fn upstream(
    headers: &HeaderMap,
    cut_argument: Option<&str>,
) -> Result<HeaderMap, Unsignable> {
    let listed = named_by_connection(headers);
    let mut forwarded = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let stays = is_hop_by_hop(name)
            || listed.contains(name)
            || is_reserved(name.as_str())
            || [COOKIE, ORIGIN, REFERER, VIA].contains(name)
            || ["x-amzn-", "x-forwarded-", "sec-"]
                .iter()
                .any(|prefix| name.as_str().starts_with(prefix));
        // A client may mirror any argument; the profile argument must never reach upstream.
        let names_profile = cut_argument.is_some_and(|argument| {
            name.as_str()
                .strip_prefix("mcp-param-")
                .is_some_and(|parameter| parameter.eq_ignore_ascii_case(argument))
        });
        if stays || names_profile {
            continue;
        }
        forwarded.append(name, signable(name, value).ok_or_else(|| Unsignable(name.clone()))?);
    }
    Ok(forwarded)
}

/// The headers that are forwarded with a call over a session other than the client's own: none that belong to MCP or to
/// the format of the message.
pub(super) fn beside_mcp(mut headers: HeaderMap) -> HeaderMap {
    let is_ours = |name: &HeaderName| {
        name.as_str().starts_with("mcp-")
            || name.as_str().starts_with("accept")
            || [CONTENT_TYPE, USER_AGENT].contains(name)
            || *name == LAST_EVENT_ID
    };
    let ours: Vec<HeaderName> = headers.keys().filter(|name| is_ours(name)).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
    headers
}

/// A header whose value can't be signed unchanged.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "The value of the header {0} can't be signed: it may hold printable ASCII and single spaces only."
)]
pub(super) struct Unsignable(HeaderName);

/// The headers of an answer as they are forwarded to the client.
///
/// `WWW-Authenticate` of the server concerns signatures, and would start OAuth in an MCP client.
/// Cookies and transport security policies are for the server's host name, not the proxy's.
pub(super) fn downstream(headers: &HeaderMap) -> HeaderMap {
    let listed = named_by_connection(headers);
    let mut forwarded = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let stays = is_hop_by_hop(name)
            || listed.contains(name)
            || [CONTENT_LENGTH, SET_COOKIE, STRICT_TRANSPORT_SECURITY, WWW_AUTHENTICATE]
                .contains(name)
            || name == "alt-svc";
        if !stays {
            forwarded.append(name, value.clone());
        }
    }
    forwarded
}

/// RFC 9110, 7.6.1.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(name)
        || name == "keep-alive"
        || name == "proxy-connection"
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(','));
    names.filter_map(|name| HeaderName::try_from(name.trim()).ok()).collect()
}

/// A value that SigV4's canonicalisation doesn't change. Values of MCP headers may be written in
/// the specification's Base64 form, which is equivalent.
fn signable(name: &HeaderName, value: &HeaderValue) -> Option<HeaderValue> {
    let text = value.to_str().ok()?;
    let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && !text.contains("  ");
    if plain {
        return Some(value.clone());
    }
    let mirrors = name == "mcp-name" || name.as_str().starts_with("mcp-param-");
    mirrors.then(|| HeaderValue::try_from(format!("=?base64?{}?=", BASE64.encode(text))).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|&(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        });
        pairs.collect()
    }

    #[test]
    fn the_credentials_of_the_proxy_are_not_forwarded() {
        let sent = map(&[
            ("authorization", "Bearer CANARY"),
            ("cookie", "session=CANARY"),
            ("x-amz-security-token", "CANARY"),
            ("x-amz-date", "20200101T000000Z"),
            ("forwarded", "host=evil"),
            ("x-forwarded-host", "evil"),
            ("origin", "http://localhost:1"),
            ("connection", "keep-alive, x-private"),
            ("x-private", "CANARY"),
            ("transfer-encoding", "chunked"),
            ("host", "evil"),
        ]);
        assert_eq!(upstream(&sent, None), Ok(HeaderMap::new()));
    }

    #[test]
    fn other_headers_are_forwarded_unchanged() {
        let sent = map(&[
            ("accept", "application/json, text/event-stream"),
            ("content-type", "application/json"),
            ("mcp-session-id", "s"),
            ("mcp-method", "tools/call"),
            ("mcp-param-region", "eu"),
            ("traceparent", "00-1-2-01"),
            ("last-event-id", "7"),
            ("x-own", "1"),
        ]);
        assert_eq!(upstream(&sent, Some("aws_profile")), Ok(sent));
    }

    #[test]
    fn headers_without_a_session_are_forwarded_over_another_session() {
        let sent = map(&[
            ("accept", "application/json"),
            ("accept-language", "de"),
            ("content-type", "application/json"),
            ("mcp-session-id", "s"),
            ("mcp-protocol-version", "2025-11-25"),
            ("last-event-id", "7"),
            ("user-agent", "c/1"),
            ("traceparent", "00-1-2-01"),
            ("x-own", "1"),
        ]);
        assert_eq!(beside_mcp(sent), map(&[("traceparent", "00-1-2-01"), ("x-own", "1")]));
    }

    #[test]
    fn the_profile_argument_is_in_no_header() {
        let sent = map(&[("mcp-param-aws_profile", "prod"), ("mcp-param-x", "1")]);
        assert_eq!(upstream(&sent, Some("aws_profile")), Ok(map(&[("mcp-param-x", "1")])));
    }

    #[test]
    fn values_that_canonicalisation_would_change_are_encoded_or_refused() {
        let sent = map(&[("mcp-name", "two  spaces")]);
        assert_eq!(upstream(&sent, None), Ok(map(&[("mcp-name", "=?base64?dHdvICBzcGFjZXM=?=")])));
        for (name, value) in [("x-own", "two  spaces"), ("last-event-id", "a\tb"), ("x-own", "é")]
        {
            let refused = upstream(&map(&[(name, value)]), None).unwrap_err();
            assert!(refused.to_string().contains(name), "{refused}");
        }
    }

    #[test]
    fn headers_for_the_server_host_are_not_forwarded() {
        let answered = map(&[
            ("set-cookie", "AWSALB=x"),
            ("www-authenticate", "AWS4-HMAC-SHA256"),
            ("strict-transport-security", "max-age=1"),
            ("content-length", "7"),
            ("mcp-session-id", "s"),
            ("content-type", "text/event-stream"),
        ]);
        let expected = map(&[("mcp-session-id", "s"), ("content-type", "text/event-stream")]);
        assert_eq!(downstream(&answered), expected);
    }
}
