//! From what a caller sent to a [`CheckedRequest`]: the only thing that is ever signed.
//!
//! Invariant: the host of a checked request is the endpoint's, its path is the endpoint's or below,
//! its query is in canonical form, and its headers say the same before and after SigV4's
//! canonicalisation. What an HTTP client sends is therefore what was signed, and nothing that the
//! caller chose decides where the signature is valid.

mod headers;
mod uri;

use std::sync::Arc;

use sigward_proto::call::Want;
use sigward_proto::v1::Header;

use crate::call::{Body, BodyReader, Content};
use crate::endpoint::Endpoint;
use crate::error::{Denial, Reason};

/// The methods of MCP over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A message.
    Post,
    /// A stream of messages.
    Get,
    /// The end of a session.
    Delete,
}

/// The endpoint that an absolute URI belongs to.
///
/// # Errors
/// It belongs to none, or can't be signed.
pub fn endpoint_of(uri: &str, endpoints: &[Arc<Endpoint>]) -> Result<Arc<Endpoint>, Denial> {
    uri::check(uri, endpoints).map(|(endpoint, _)| endpoint)
}

/// All of a request but its body, checked.
#[derive(Debug)]
pub struct Head {
    profile: String,
    endpoint: Arc<Endpoint>,
    method: Method,
    path_and_query: String,
    headers: Vec<(String, String)>,
}

/// A request that may be signed, if the policy allows it.
#[derive(Debug)]
pub struct CheckedRequest {
    head: Head,
    body: Body,
}

impl Head {
    /// Checks the head of a request against the endpoints there are.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check(
        profile: String,
        method: &str,
        uri: &str,
        headers: &[Header],
        endpoints: &[Arc<Endpoint>],
    ) -> Result<Self, Denial> {
        let method = checked_method(method)?;
        let (endpoint, path_and_query) = uri::check(uri, endpoints)?;
        let headers = headers::check(headers)?;
        Ok(Self { profile, endpoint, method, path_and_query, headers })
    }

    /// The profile that was asked for; nobody has looked yet whether there is one.
    #[must_use]
    pub fn profile(&self) -> &str {
        &self.profile
    }

    /// Where it goes.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Its method.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// What must stand in the request line.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    /// The headers to sign beside the broker's own, names in lower case, in the caller's order.
    #[must_use]
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// A reader for the body that comes. `want` says what a rule looks at, if any does.
    #[must_use]
    pub fn body_reader(&self, want: Option<&Arc<Want>>) -> BodyReader {
        match want {
            Some(want) if self.method == Method::Post => {
                BodyReader::reading(Arc::clone(want), &self.headers)
            }
            _ => BodyReader::hashing(),
        }
    }

    /// The request with the body that came.
    ///
    /// # Errors
    /// A GET or DELETE has one: a server may well read it, and no rule would have seen it.
    pub fn with_body(self, reader: BodyReader) -> Result<CheckedRequest, Denial> {
        if self.method == Method::Post {
            let body = reader.finish(&self.headers);
            return Ok(CheckedRequest { head: self, body });
        }
        if reader.is_empty() { self.without_body() } else { Err(body_not_allowed()) }
    }

    /// The request with the hash of a body that didn't come.
    ///
    /// # Errors
    /// It isn't a hash (the signer takes any text for it), or a GET or DELETE has a body.
    pub fn with_hash(self, hash: &[u8]) -> Result<CheckedRequest, Denial> {
        let hash: [u8; 32] =
            hash.try_into().map_err(|_| Denial::new(Reason::InvalidBodyHash, "not 32 bytes"))?;
        if self.method == Method::Post {
            return Ok(CheckedRequest { head: self, body: Body::unread(hash) });
        }
        if hash == Body::none().sha256 { self.without_body() } else { Err(body_not_allowed()) }
    }

    /// The request where nothing was said of a body.
    ///
    /// # Errors
    /// A POST needs one.
    pub fn without_body(self) -> Result<CheckedRequest, Denial> {
        if self.method == Method::Post {
            return Err(Denial::new(Reason::BodyRequired, "a POST without a body or its hash"));
        }
        Ok(CheckedRequest { head: self, body: Body::none() })
    }
}

fn body_not_allowed() -> Denial {
    Denial::new(Reason::InvalidBodyHash, "a GET or DELETE with a body")
}

impl CheckedRequest {
    /// All of it but the body.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The SHA-256 of the body.
    #[must_use]
    pub fn body_sha256(&self) -> &[u8; 32] {
        &self.body.sha256
    }

    /// What is known of what the body asks for.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.body.content
    }
}

impl Method {
    /// As it stands in the request line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Get => "GET",
            Self::Delete => "DELETE",
        }
    }
}

/// The signer takes any text for a method: `POST /x\nhost:evil` would sign another request.
fn checked_method(text: &str) -> Result<Method, Denial> {
    match text {
        "POST" => Ok(Method::Post),
        "GET" => Ok(Method::Get),
        "DELETE" => Ok(Method::Delete),
        _ if headers::is_token(text.as_bytes()) => {
            Err(Denial::new(Reason::MethodNotAllowed, "not POST, GET or DELETE"))
        }
        _ => Err(Denial::new(Reason::InvalidMethod, "not a token")),
    }
}

#[cfg(test)]
pub(crate) mod whole;

#[cfg(test)]
mod tests;
