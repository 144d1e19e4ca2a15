//! Decides which requests are authorized, before any other part of them is used.

mod token;

use std::io;

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};

use self::token::TokenFile;
use crate::config::{Listen, ListenAddress};

/// Where a browser reports the relation to the page that sent a request (W3C, Fetch Metadata).
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What a request must prove.
#[derive(Debug)]
pub struct Guard {
    token: Option<TokenFile>,
    /// Whether `Host` must be a name of this machine.
    names_this_machine: bool,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It has no token, or a wrong one.
    Token,
    /// A web page sent it.
    Origin,
    /// It was sent to another host name.
    Host,
}

impl Refusal {
    /// The status and the text of the answer.
    #[must_use]
    pub fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::Token => {
                (StatusCode::UNAUTHORIZED, "This needs the bearer token of --listen-token-file.")
            }
            Self::Origin => {
                let why = "Requests from web pages are refused (Origin, Sec-Fetch-Site): any page could \
                           use your AWS profiles.";
                (StatusCode::FORBIDDEN, why)
            }
            Self::Host => (
                StatusCode::FORBIDDEN,
                "This proxy is reached as localhost, 127.0.0.1 or [::1] only (Host).",
            ),
        }
    }
}

impl Guard {
    /// The checks that `listen` configures. Reads the token.
    pub fn new(listen: &Listen) -> io::Result<Self> {
        let token = listen.token_file.clone().map(TokenFile::open).transpose()?;
        let names_this_machine =
            matches!(listen.address, ListenAddress::Tcp(address) if address.ip().is_loopback());
        Ok(Self { token, names_this_machine })
    }

    /// Checks a request by its headers.
    ///
    /// The checks of `Origin` and `Host` stop DNS rebinding: a page in a browser on this machine whose host name is
    /// changed to 127.0.0.1 (MCP, Streamable HTTP, "Security Warning"). A page of this machine on another port is
    /// refused, too: a development server with one malicious dependency can serve such pages. Therefore there is no
    /// CORS, and a preflight is refused like any other request.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let host = single(headers.get_all(HOST));
        if headers.get_all(ORIGIN).iter().any(|origin| !is_own_origin(origin, host)) {
            return Err(Refusal::Origin);
        }
        // The attack: an image or a link on a page sends no `Origin`, and would be signed.
        let mut sites = headers.get_all(FETCH_SITE).iter();
        let is_from_page = sites.any(|site| site != "none" && site != "same-origin");
        if is_from_page && !headers.contains_key(ORIGIN) {
            return Err(Refusal::Origin);
        }
        if self.names_this_machine && !host.is_some_and(is_local_host) {
            return Err(Refusal::Host);
        }
        let Some(token) = &self.token else { return Ok(()) };
        match single(headers.get_all(AUTHORIZATION)).and_then(bearer) {
            Some(shown) if token.is(shown) => Ok(()),
            _ => Err(Refusal::Token),
        }
    }
}

/// RFC 6750, section 2.1. The scheme is case-insensitive (RFC 9110, section 11.1).
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

fn single(values: http::header::GetAll<'_, HeaderValue>) -> Option<&HeaderValue> {
    let mut values = values.iter();
    values.next().filter(|_| values.next().is_none())
}

/// Whether `origin` is the address on this machine that the request was sent to. A tool may set such a header itself;
/// no page is served there.
fn is_own_origin(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let uri = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let Some((scheme, origin)) =
        uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.authority()?)))
    else {
        return false;
    };
    let usual_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(usual_port);
    is_this_machine(origin)
        && host.and_then(authority).is_some_and(|host| {
            origin.host().eq_ignore_ascii_case(host.host()) && port(origin) == port(&host)
        })
}

fn is_local_host(host: &HeaderValue) -> bool {
    authority(host).is_some_and(|authority| is_this_machine(&authority))
}

fn authority(host: &HeaderValue) -> Option<Authority> {
    host.to_str().ok()?.parse().ok()
}

/// Accepts any port, because the port may be forwarded.
fn is_this_machine(authority: &Authority) -> bool {
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    !authority.as_str().contains('@')
        && (host.eq_ignore_ascii_case("localhost")
            || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;

    use super::*;

    fn guard(address: &str, token_file: Option<&Path>) -> io::Result<Guard> {
        let token_file = token_file.map(Path::to_owned);
        let address = ListenAddress::Tcp(address.parse().unwrap());
        Guard::new(&Listen { address, mode: 0o600, token_file })
    }

    fn file(token: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(token.as_bytes()).unwrap();
        file
    }

    fn check(guard: &Guard, headers: &[(&'static str, &str)]) -> Result<(), Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        guard.check(&map)
    }

    #[test]
    fn only_host_names_of_this_machine_are_accepted() {
        let guard = guard("127.0.0.1:0", None).unwrap();
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "127.9.9.9", "[::1]:1"] {
            assert_eq!(check(&guard, &[("host", host)]), Ok(()), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "10.0.0.1", ""] {
            assert_eq!(check(&guard, &[("host", host)]), Err(Refusal::Host), "{host}");
        }
        assert_eq!(check(&guard, &[("host", "a@localhost")]), Err(Refusal::Host));
        assert_eq!(check(&guard, &[]), Err(Refusal::Host));
        let two = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(check(&guard, &two), Err(Refusal::Host));
    }

    /// The attack: a page of a development server on this machine, or a page whose name is rebound to it.
    #[test]
    fn pages_of_another_origin_are_refused() {
        let guard = guard("127.0.0.1:0", None).unwrap();
        for (host, origin) in [
            ("localhost:8080", "http://localhost:8080"),
            ("LOCALHOST:8080", "http://localhost:8080"),
            ("127.0.0.1", "http://127.0.0.1"),
            // The scheme is that of a TLS terminator in front of the proxy.
            ("127.0.0.1:443", "https://127.0.0.1"),
            ("localhost:8080", "https://localhost:8080"),
            ("[::1]:1", "http://[::1]:1"),
        ] {
            assert_eq!(check(&guard, &[("host", host), ("origin", origin)]), Ok(()), "{origin}");
        }
        for origin in [
            "http://localhost:6274",
            "http://localhost",
            "http://127.0.0.1:8080",
            "http://evil.example",
            "http://localhost.evil.example:8080",
            "http://a@localhost:8080",
            "null",
            "file://",
            "",
        ] {
            let headers = [("host", "localhost:8080"), ("origin", origin)];
            assert_eq!(check(&guard, &headers), Err(Refusal::Origin), "{origin:?}");
        }
        let two = [
            ("host", "localhost:8080"),
            ("origin", "http://localhost:8080"),
            ("origin", "http://localhost:6274"),
        ];
        assert_eq!(check(&guard, &two), Err(Refusal::Origin));
        assert_eq!(check(&guard, &[("origin", "http://localhost")]), Err(Refusal::Origin));
    }

    /// Even if any `Host` is accepted, a page with a rebound name has a foreign origin.
    #[test]
    fn a_rebound_name_is_a_foreign_origin() {
        let guard = guard("0.0.0.0:0", None).unwrap();
        let rebound = [("host", "evil.example:80"), ("origin", "http://evil.example")];
        assert_eq!(check(&guard, &rebound), Err(Refusal::Origin));
        assert_eq!(check(&guard, &[("host", "evil.example:80")]), Ok(()));
    }

    #[test]
    fn an_image_on_a_page_is_refused() {
        let guard = guard("127.0.0.1:0", None).unwrap();
        let host = ("host", "localhost");
        for site in ["cross-site", "same-site", ""] {
            let headers = [host, ("sec-fetch-site", site)];
            assert_eq!(check(&guard, &headers), Err(Refusal::Origin), "{site:?}");
            let named = [host, ("sec-fetch-site", site), ("origin", "http://localhost:6274")];
            assert_eq!(check(&guard, &named), Err(Refusal::Origin), "{site:?}");
        }
        for site in ["none", "same-origin"] {
            assert_eq!(check(&guard, &[host, ("sec-fetch-site", site)]), Ok(()), "{site}");
        }
    }

    #[test]
    fn requests_without_the_token_are_refused() {
        let token = "0123456789abcdef";
        let file = file("0123456789abcdef\n");
        let guard = guard("0.0.0.0:0", Some(file.path())).unwrap();
        let right = format!("Bearer {token}");
        for shown in [right.as_str(), "bearer 0123456789abcdef"] {
            assert_eq!(check(&guard, &[("authorization", shown)]), Ok(()));
        }
        let longer = format!("{right}0");
        for shown in ["Bearer 0123456789abcdeF", &longer, "Bearer ", "Basic 0123456789abcdef", ""] {
            assert_eq!(check(&guard, &[("authorization", shown)]), Err(Refusal::Token), "{shown}");
        }
        assert_eq!(check(&guard, &[]), Err(Refusal::Token));
        let two = [("authorization", right.as_str()), ("authorization", "Bearer x")];
        assert_eq!(check(&guard, &two), Err(Refusal::Token));
        assert!(!format!("{guard:?}").contains(token));
    }

    #[test]
    fn tokens_that_can_be_guessed_are_refused() {
        for token in ["", "\n", "short", "has a space in it, long", "0123456789abcde"] {
            assert!(guard("127.0.0.1:0", Some(file(token).path())).is_err(), "{token:?}");
        }
    }
}
