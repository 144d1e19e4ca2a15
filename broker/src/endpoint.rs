//! Where signatures may go: an endpoint's URL, and the service and region that signatures for it are
//! scoped to.
//!
//! Invariant: an [`EndpointUrl`] is `https`, or `http` on loopback; it has no user info, query or
//! fragment, and its path has no dot segments. What a client puts into the `Host` header follows
//! from it, never from a caller.

use std::fmt;
use std::net::IpAddr;

/// A service's signing name: `aws-mcp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service(String);

/// An AWS region: `eu-west-1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region(String);

/// What a signature is valid for, beside the day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The signing name.
    pub service: Service,
    /// The endpoint's region, never the profile's.
    pub region: Region,
}

/// Which paths of its host belong to an endpoint. MCP has one URL for everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Paths {
    /// That of its URL.
    #[default]
    Exact,
    /// That of its URL, and those below.
    Prefix,
}

/// One place that signatures may go to.
#[derive(Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// What rules and profiles call it.
    pub name: String,
    /// Where it is.
    pub url: EndpointUrl,
    /// Which paths belong to it.
    pub paths: Paths,
    /// What its signatures are scoped to.
    pub scope: Scope,
}

/// A URL that passed [`EndpointUrl::parse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointUrl {
    https: bool,
    host: String,
    port: u16,
    path: String,
}

impl Service {
    /// Checks a signing name: letters, digits and `.-_`, and `:` for `::1`.
    ///
    /// # Errors
    /// What is wrong with it. It ends in the credential scope, where a `/` would move the borders.
    pub fn parse(text: &str) -> Result<Self, String> {
        scope_part(text, |b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
            .map(Self)
            .ok_or_else(|| "is not a signing name like \"aws-mcp\"".to_owned())
    }

    /// As it stands in the credential scope.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Region {
    /// Checks a region: lower case letters, digits and `-`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        scope_part(text, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            .map(Self)
            .ok_or_else(|| "is not a region like \"us-east-1\"".to_owned())
    }

    /// As it stands in the credential scope.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn scope_part(text: &str, allowed: impl Fn(u8) -> bool) -> Option<String> {
    let fits = (1..=64).contains(&text.len()) && text.bytes().all(allowed);
    fits.then(|| text.to_owned())
}

impl EndpointUrl {
    /// Checks a URL.
    ///
    /// # Errors
    /// What is wrong with it and what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url = url::Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
        let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
            return Err("has no host".to_owned());
        };
        let https = match url.scheme() {
            "https" => true,
            "http" if is_loopback(host) => false,
            "http" => {
                return Err("is http:// to another machine, where anyone on the way reads and \
                            repeats the signed requests: write https://"
                    .to_owned());
            }
            scheme => return Err(format!("has the scheme {scheme}: write https://")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            // It would end in the signed host.
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
        // The parser has already resolved `/a/../b`: what it changed isn't what was written.
        let written =
            text.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
        if written.is_some_and(|written| written != path) {
            return Err(format!("has a path that isn't in normal form: write {path}"));
        }
        if path.contains("//") || path.to_ascii_lowercase().contains("%2e") {
            return Err("has an empty or an encoded dot segment in its path".to_owned());
        }
        let port = url.port_or_known_default().unwrap_or(443);
        Ok(Self { https, host: host.to_owned(), port, path: path.to_owned() })
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

    /// The path, `/` at least, encoded as it is sent.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the host is an address of another machine: it says nothing about a service.
    #[must_use]
    pub fn is_foreign_address(&self) -> bool {
        address(&self.host).is_some() && !is_loopback(&self.host)
    }

    /// What an HTTP client puts into `Host`: the port only where it isn't the scheme's own.
    #[must_use]
    pub fn authority(&self) -> String {
        match (self.https, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority(), self.path)
    }
}

/// Service and region of an AWS host, by the forms that AWS documents. Labels are compared whole and
/// from the end, so that `aws-mcp.us-east-1.api.aws.example.com` is nothing.
#[must_use]
pub fn scope_of_host(host: &str) -> Option<Scope> {
    let labels: Vec<&str> = host.split('.').collect();
    let (service, region) = match labels.as_slice() {
        [service, region, "api", "aws"] => (without_fips(service), region),
        [head @ .., "amazonaws", "com", "cn"] | [head @ .., "amazonaws", "com"] => match head {
            [service, region] if without_fips(service) == "bedrock-agentcore" => {
                ("bedrock-agentcore", region)
            }
            [_, "gateway" | "runtime", service, region]
                if without_fips(service) == "bedrock-agentcore" =>
            {
                ("bedrock-agentcore", region)
            }
            [_, service, region] if without_fips(service) == "execute-api" => {
                ("execute-api", region)
            }
            _ => return None,
        },
        [_, "lambda-url", region, "on", "aws"] => ("lambda", region),
        _ => return None,
    };
    if !looks_like_region(region) {
        return None;
    }
    Some(Scope { service: Service::parse(service).ok()?, region: Region::parse(region).ok()? })
}

fn without_fips(label: &str) -> &str {
    label.strip_suffix("-fips").unwrap_or(label)
}

/// `eu-west-1`, `us-gov-east-1`, `cn-north-1`.
fn looks_like_region(label: &str) -> bool {
    let parts: Vec<&str> = label.split('-').collect();
    let [first, middle @ .., last] = parts.as_slice() else { return false };
    let word = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
    !middle.is_empty()
        && word(first)
        && middle.iter().all(word)
        && !last.is_empty()
        && last.bytes().all(|b| b.is_ascii_digit())
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || address(host).is_some_and(|address| address.is_loopback())
}

fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

#[cfg(test)]
mod tests;
