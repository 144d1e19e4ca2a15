//! The endpoints that signatures may be used for: an endpoint's URL, and the service and regions in
//! the scope of its signatures.
//!
//! Invariant: an [`EndpointUrl`] is `https`, or `http` on loopback; it has no user info, query or
//! fragment, and its path has no dot segments. The `Host` header of a client is derived from it,
//! never from a caller's data.

mod scope;

use std::fmt;
use std::net::IpAddr;

pub use self::scope::{Region, RegionSet, Regions, Scope, Service, scope_of_host};

/// The paths of its host that belong to an endpoint. MCP has one URL for everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Paths {
    /// Only the path of its URL.
    #[default]
    Exact,
    /// The path of its URL, and all paths below.
    Prefix,
}

/// A target of signatures.
#[derive(Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The name in rules and profiles.
    pub name: String,
    /// The URL.
    pub url: EndpointUrl,
    /// The paths that belong to it.
    pub paths: Paths,
    /// The scope of its signatures.
    pub scope: Scope,
}

/// A URL that passed [`EndpointUrl::parse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointUrl {
    https: bool,
    host: String,
    port: u16,
    /// The value of `Host` that an HTTP client sends.
    authority: String,
    path: String,
}

impl EndpointUrl {
    /// Checks a URL.
    ///
    /// # Errors
    /// The error, and what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url = url::Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
        let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
            return Err("has no host".to_owned());
        };
        let https = match url.scheme() {
            "https" => true,
            "http" if is_loopback(host) => false,
            "http" => {
                return Err(
                    "is http:// to another machine, where others on the network can read and \
                            repeat the signed requests: write https://"
                        .to_owned(),
                );
            }
            scheme => return Err(format!("has the scheme {scheme}: write https://")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            // User info would be part of the signed host.
            return Err("has user info before the host: leave it out".to_owned());
        }
        if url.query().is_some() {
            return Err("has a query: leave it out, each request may bring its own".to_owned());
        }
        if url.fragment().is_some() {
            return Err("has a fragment: leave it out, it is never sent".to_owned());
        }
        if host.ends_with('.') {
            return Err("has a host with a dot at its end: leave the dot out".to_owned());
        }
        let path = url.path();
        // The parser has already resolved `/a/../b`: a path that it changed wasn't in normal form.
        let written =
            text.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
        if written.is_some_and(|written| written != path) {
            return Err(format!("has a path that isn't in normal form: write {path}"));
        }
        if path.contains("//") || path.to_ascii_lowercase().contains("%2e") {
            return Err("has an empty or an encoded dot segment in its path".to_owned());
        }
        let port = url.port_or_known_default().unwrap_or(443);
        let authority = match (https, port) {
            (true, 443) | (false, 80) => host.to_owned(),
            (_, port) => format!("{host}:{port}"),
        };
        Ok(Self { https, host: host.to_owned(), port, authority, path: path.to_owned() })
    }

    /// `https` or `http`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    /// The host in lower case; an IPv6 address in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port that a client connects to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path, at least `/`, encoded as it is sent.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the host is an IP address of another machine, which doesn't tell the service.
    #[must_use]
    pub fn is_foreign_address(&self) -> bool {
        address(&self.host).is_some() && !is_loopback(&self.host)
    }

    /// The value of `Host` that an HTTP client sends: without the scheme's default port.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority(), self.path)
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || address(host).is_some_and(|address| address.is_loopback())
}

fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

#[cfg(test)]
mod tests;
