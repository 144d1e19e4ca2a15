//! Advice for each kind of failure.
//!
//! Errors that contain their own advice, such as the broker's refusals, get none.

use http::{HeaderMap, StatusCode};

use super::report::Name;
use crate::config::{BrokerAddress, ProfileName};
use crate::error::{Error, Refusal, printable};
use sigward_proto::v1::Reason;

/// The longest part of a header that is shown, in characters.
const MAX_HEADER: usize = 200;

/// Advice for a name that can't be resolved.
pub(super) fn resolution(proxy: Option<&str>) -> String {
    match proxy {
        Some(proxy) => format!(
            "check the name in HTTPS_PROXY ({proxy}), and this machine's DNS; NO_PROXY names hosts that \
             need no HTTP proxy"
        ),
        None => "check the host in the endpoint, with its Region, and this machine's DNS and VPN"
            .to_owned(),
    }
}

/// Advice for a refused connection. `is_v6_alone` is set if all addresses are IPv6.
pub(super) fn connection(proxy: Option<&str>, is_v6_alone: bool) -> String {
    match proxy {
        None if is_v6_alone => "all its addresses are IPv6: check whether this network has IPv6 (`ip -6 route`), and \
             whether the endpoint also has a name with IPv4 addresses; if this network needs an HTTP proxy, name it \
             by HTTPS_PROXY"
            .to_owned(),
        Some(_) => "check HTTPS_PROXY, and whether that proxy runs; NO_PROXY names hosts that need none"
            .to_owned(),
        None => "check the host and the port of the endpoint, and whether a firewall or a VPN is in the way; \
                 if this network needs an HTTP proxy, name it by HTTPS_PROXY"
            .to_owned(),
    }
}

/// Advice for a failed TLS handshake, by its innermost cause.
pub(super) fn tls(cause: &str, proxy: Option<&str>) -> Option<String> {
    let cause = cause.to_ascii_lowercase().replace(' ', "");
    let has = |part: &str| cause.contains(part);
    if let (Some(proxy), true) = (proxy, has("proxyauthorizationrequired")) {
        return Some(format!(
            "the HTTP proxy {proxy} requires a user and a password, or refuses the given ones: put them into HTTPS_PROXY, \
             as http://USER:PASSWORD@HOST:PORT; NO_PROXY names hosts that need none"
        ));
    }
    let advice = if has("unknownissuer") {
        "name the authority that issued the certificate by --ca-bundle FILE; if this network has a proxy \
         that reads TLS, that is the proxy's own"
    } else if has("notvalidyet") {
        "the certificate isn't valid yet: check this machine's clock, then ask the operator of the server"
    } else if has("expired") {
        "the server's certificate has expired: check this machine's clock, then ask the operator of the server \
         to renew it"
    } else if has("validforname") || has("notvalidfor") {
        "the certificate is for another host: give the endpoint with the name that is in the certificate"
    } else if has("invalidcontenttype") || has("corruptmessage") {
        "what answers there doesn't speak TLS: check the port of the endpoint"
    } else if let Some(proxy) = proxy {
        return Some(format!(
            "the HTTP proxy {proxy} doesn't let this through: check what it allows, and its user and password; \
             NO_PROXY names hosts that need none"
        ));
    } else {
        "check that the endpoint's host and port are those of an HTTPS server, and what is in between"
    };
    Some(advice.to_owned())
}

/// The step that an error of the broker belongs to, and advice.
pub(super) fn of_broker(
    error: &Error,
    profile: &ProfileName,
    broker: &BrokerAddress,
) -> (Name, Option<String>) {
    match error {
        Error::Refused(refusal) => (of_refusal(refusal), explain(refusal, profile, broker)),
        Error::Shared(error) => of_broker(error, profile, broker),
        Error::BrokerUnreachable { .. } | Error::PrivateBroker { .. } => (Name::Broker, None),
        _ => (Name::Credentials, None),
    }
}

fn of_refusal(refusal: &Refusal) -> Name {
    match refusal.reason() {
        Some(
            Reason::PeerNotAllowed
            | Reason::PeerUnknown
            | Reason::ProfileNotAllowed
            | Reason::EndpointNotAllowed
            | Reason::MethodNotAllowed
            | Reason::ToolNotAllowed
            | Reason::AuditUnavailable
            | Reason::BrokerEnding
            | Reason::RateLimited
            | Reason::TooMuchInFlight,
        ) => Name::Broker,
        Some(Reason::ClockSkew) => Name::Clock,
        _ => Name::Credentials,
    }
}

/// The command that shows which rule decides, for refusals by a rule.
fn explain(refusal: &Refusal, profile: &ProfileName, broker: &BrokerAddress) -> Option<String> {
    let is_ruled = matches!(
        refusal.reason(),
        Some(
            Reason::PeerNotAllowed
                | Reason::ProfileNotAllowed
                | Reason::EndpointNotAllowed
                | Reason::MethodNotAllowed
                | Reason::ToolNotAllowed
        )
    );
    match broker {
        BrokerAddress::Unix(_) if is_ruled => Some(format!(
            "on its configuration, `sigward-broker explain --config FILE --uid {} {}` shows which rule decides, \
             and why not the others",
            rustix::process::getuid().as_raw(),
            profile.as_option("--profile")
        )),
        BrokerAddress::Tls(_) if is_ruled => Some(format!(
            "on its configuration, `sigward-broker explain --config FILE --spiffe-id ID {}` shows which rule \
             decides (--dns NAME for a certificate without an id)",
            profile.as_option("--profile")
        )),
        _ => None,
    }
}

/// Advice for a status that isn't a success.
pub(super) fn status(
    status: StatusCode,
    detail: Option<&str>,
    headers: &HeaderMap,
) -> Option<String> {
    let words = detail.unwrap_or_default();
    let has = |part: &str| words.contains(part);
    let shown = |name: &str| {
        headers.get(name).map(|it| printable(&String::from_utf8_lossy(it.as_bytes()), MAX_HEADER))
    };
    let advice = match status.as_u16() {
        // The message contains its own advice.
        401 | 403 if has("clock") => return None,
        401 | 403 if has("not authorized to perform") || has("AccessDenied") => {
            "the identity is known and may not do this: add the action that the answer names to its IAM policy, \
             or choose another profile"
        }
        401 | 403 if has("signature we calculated") => {
            "the secret key isn't that of the access key id, or something in between changes the request: renew \
             the keys; with a server behind a name of your own, give --service and --region"
        }
        401 | 403 if has("scoped to") => {
            "the signature is for another service or Region: give those of the endpoint by --service and --region"
        }
        401 | 403 if has("security token") => {
            "AWS doesn't know these keys (any more): sign in again or renew them, and check that the profile \
             is of the partition of the endpoint"
        }
        401 | 403
            if shown("www-authenticate").is_some_and(|it| it.to_lowercase().contains("bearer")) =>
        {
            "the server asks for OAuth, not for a signature: give it to the client itself, without a proxy"
        }
        401 | 403 => {
            "ask the operator of the endpoint which identities it accepts; with a server behind a name of your own, \
             give --service and --region"
        }
        300..=399 => {
            return Some(match shown("location") {
                Some(location) => {
                    format!("if you know where it leads, give that as the endpoint: {location}")
                }
                None => "give the URL that it leads to as the endpoint".to_owned(),
            });
        }
        404 | 410 => {
            "there is no MCP endpoint at that path: check the path of the URL (often /mcp)"
        }
        405 | 406 | 415 => "what answers there isn't MCP over Streamable HTTP: check the URL",
        407 => "the HTTP proxy requires a user and a password: put them into HTTPS_PROXY",
        429 => "the server limits the rate of requests: wait, then repeat this",
        500..=599 => {
            "the server, or a gateway in front of it, has failed: repeat this, then ask its operator"
        }
        _ => return None,
    };
    Some(advice.to_owned())
}

/// Advice for a failed exchange.
pub(super) fn exchange(error: &Error) -> Option<String> {
    Some(match error {
        Error::Connect { detail, .. } => return tls(detail, None),
        Error::NotMessage(_) | Error::NoAnswer | Error::ForeignAnswer => {
            "what answers there isn't an MCP server: check the path of the URL (often /mcp), and whether this network \
             wants a sign-in in a browser first"
                .to_owned()
        }
        Error::Timeout { .. } => {
            "the server accepts connections and doesn't answer: ask its operator; the option named sets how long \
             this waits"
                .to_owned()
        }
        Error::Interrupted { .. } => {
            "the server, or something in between, closes the connection: repeat this, then ask its operator".to_owned()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_of_a_failed_handshake_has_its_advice() {
        for (cause, word) in [
            ("invalid peer certificate: UnknownIssuer", "--ca-bundle"),
            ("invalid peer certificate: certificate expired: verification time 1 (UNIX)", "renew"),
            ("invalid peer certificate: Expired", "renew"),
            (
                "invalid peer certificate: certificate not valid yet: verification time 1",
                "isn't valid yet",
            ),
            (
                "invalid peer certificate: certificate not valid for name \"a\"; certificate is only valid for",
                "another host",
            ),
            ("invalid peer certificate: NotValidForName", "another host"),
            ("received corrupt message of type InvalidContentType", "doesn't speak TLS"),
            ("anything else", "HTTPS server"),
        ] {
            let advice = tls(cause, None).unwrap();
            assert!(advice.contains(word), "{cause}: {advice}");
        }
        assert!(
            tls("tunnel error: unsuccessful", Some("http://p:1/")).unwrap().contains("http://p:1/")
        );
        let asked = tls("tunnel error: proxy authorization required", Some("http://p:1/"));
        assert!(asked.unwrap().contains("a user and a password"));
    }

    #[test]
    fn each_status_has_its_advice() {
        let none = HeaderMap::new();
        let of = |code: u16, words: &str| {
            status(StatusCode::from_u16(code).unwrap(), Some(words), &none).unwrap_or_default()
        };
        for (code, words, word) in [
            (403, "User: arn:… is not authorized to perform: aws-mcp:X", "IAM policy"),
            (403, "The request signature we calculated does not match", "secret key"),
            (403, "Credential should be scoped to a valid region.", "--region"),
            (403, "The security token included in the request is invalid.", "sign in again"),
            (403, "", "which identities"),
            (404, "", "path"),
            (405, "", "Streamable HTTP"),
            (302, "", "as the endpoint"),
            (429, "", "wait"),
            (502, "", "gateway"),
        ] {
            assert!(of(code, words).contains(word), "{code} {words}: {}", of(code, words));
        }
        assert_eq!(of(403, "Signature expired. The clock of the machine is wrong"), "");
        let mut bearer = HeaderMap::new();
        bearer.insert("www-authenticate", http::HeaderValue::from_static("Bearer realm=x"));
        assert!(status(StatusCode::UNAUTHORIZED, None, &bearer).unwrap().contains("OAuth"));
    }
}
