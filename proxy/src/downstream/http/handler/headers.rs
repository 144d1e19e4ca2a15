//! Which headers pass, in each direction.

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

/// The headers of a client as they go upstream, where they are signed.
///
/// What is about the connection between client and proxy stays here: the bearer token that opens the
/// proxy above all, then cookies that a browser has for the name `localhost`, whoever set them; and
/// what a signature sets itself.
///
/// # Errors
/// A value that can't be signed as it stands. Without its header the request would be another one: a
/// stream without `Last-Event-ID` is a new one, and the response is lost.
pub(super) fn upstream(
    headers: &HeaderMap,
    cut_argument: Option<&str>,
) -> Result<HeaderMap, Unsignable> {
    let listed = named_by_connection(headers);
    let mut passed = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let stays = is_hop_by_hop(name)
            || listed.contains(name)
            || is_reserved(name.as_str())
            || [COOKIE, ORIGIN, REFERER, VIA].contains(name)
            || ["x-amzn-", "x-forwarded-", "sec-"]
                .iter()
                .any(|prefix| name.as_str().starts_with(prefix));
        // A client may mirror any argument; the one that is ours never reaches upstream.
        let names_profile = cut_argument.is_some_and(|argument| {
            name.as_str()
                .strip_prefix("mcp-param-")
                .is_some_and(|parameter| parameter.eq_ignore_ascii_case(argument))
        });
        if stays || names_profile {
            continue;
        }
        passed.append(name, signable(name, value).ok_or_else(|| Unsignable(name.clone()))?);
    }
    Ok(passed)
}

/// What of these headers goes with a call over another session than the client's own: nothing that MCP
/// or the form of the message has a say in.
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

/// A header whose value can't be signed as it stands.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "The value of the header {0} can't be signed: it may hold printable ASCII and single spaces only."
)]
pub(super) struct Unsignable(HeaderName);

/// The headers of an answer as the client sees them.
///
/// A server's `WWW-Authenticate` is about signatures, and would send an MCP client into OAuth; its
/// cookies and its demands on transport are for another name than ours.
pub(super) fn downstream(headers: &HeaderMap) -> HeaderMap {
    let listed = named_by_connection(headers);
    let mut passed = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let stays = is_hop_by_hop(name)
            || listed.contains(name)
            || [CONTENT_LENGTH, SET_COOKIE, STRICT_TRANSPORT_SECURITY, WWW_AUTHENTICATE]
                .contains(name)
            || name == "alt-svc";
        if !stays {
            passed.append(name, value.clone());
        }
    }
    passed
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

/// A value that reads the same after the canonicalisation of SigV4. Those of MCP may be written in
/// the specification's Base64 form, which says the same.
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
    fn what_opens_the_proxy_stays_with_it() {
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
    fn the_rest_passes_as_it_came() {
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
    fn what_belongs_to_no_session_goes_with_a_call_over_another() {
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
    fn the_profile_is_in_no_header() {
        let sent = map(&[("mcp-param-aws_profile", "prod"), ("mcp-param-x", "1")]);
        assert_eq!(upstream(&sent, Some("aws_profile")), Ok(map(&[("mcp-param-x", "1")])));
    }

    #[test]
    fn values_that_a_signature_would_fold_are_encoded_or_refused() {
        let sent = map(&[("mcp-name", "two  spaces")]);
        assert_eq!(upstream(&sent, None), Ok(map(&[("mcp-name", "=?base64?dHdvICBzcGFjZXM=?=")])));
        for (name, value) in [("x-own", "two  spaces"), ("last-event-id", "a\tb"), ("x-own", "é")]
        {
            let refused = upstream(&map(&[(name, value)]), None).unwrap_err();
            assert!(refused.to_string().contains(name), "{refused}");
        }
    }

    #[test]
    fn what_is_for_another_name_stays_upstream() {
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
