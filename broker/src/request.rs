//! Checks a caller's request, and yields a [`CheckedRequest`]: only checked requests are signed.
//!
//! Invariant: the host of a checked request is the endpoint's, its path is the endpoint's or below,
//! its query is in canonical form, and its headers are unchanged by SigV4's canonicalisation. So an
//! HTTP client sends what was signed, and nothing that the caller chose determines where the
//! signature is valid.

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
    /// Sends a message.
    Post,
    /// Opens a stream of messages.
    Get,
    /// Ends a session.
    Delete,
}

/// Finds the endpoint that an absolute URI belongs to.
///
/// # Errors
/// The URI belongs to no endpoint, or can't be signed.
pub fn endpoint_of(uri: &str, endpoints: &[Arc<Endpoint>]) -> Result<Arc<Endpoint>, Denial> {
    uri::check(uri, endpoints).map(|(endpoint, _)| endpoint)
}

/// The checked parts of a request before its body.
#[derive(Debug)]
pub struct Head {
    profile: String,
    endpoint: Arc<Endpoint>,
    method: Method,
    path_and_query: String,
    headers: Vec<(String, String)>,
}

/// A checked request, which may be signed if the policy allows it.
#[derive(Debug)]
pub struct CheckedRequest {
    head: Head,
    body: Body,
}

impl Head {
    /// Checks the head of a request against the configured endpoints.
    ///
    /// # Errors
    /// The first violation.
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

    /// The requested profile, which may not exist.
    #[must_use]
    pub fn profile(&self) -> &str {
        &self.profile
    }

    /// The endpoint of the request.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The HTTP method.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// The path and query to send, exactly as signed.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    /// The caller's headers to sign, with names in lower case, in the caller's order.
    #[must_use]
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// A reader for the body. `want` is what the rules look at, if any rule looks at the body.
    #[must_use]
    pub fn body_reader(&self, want: Option<&Arc<Want>>) -> BodyReader {
        match want {
            Some(want) if self.method == Method::Post => {
                BodyReader::reading(Arc::clone(want), &self.headers)
            }
            _ => BodyReader::hashing(),
        }
    }

    /// The request with a complete body.
    ///
    /// # Errors
    /// A GET or DELETE has a body: a server may read it although no rule has seen it.
    pub fn with_body(self, reader: BodyReader) -> Result<CheckedRequest, Denial> {
        if self.method == Method::Post {
            let body = reader.finish(&self.headers);
            return Ok(CheckedRequest { head: self, body });
        }
        if reader.is_empty() { self.without_body() } else { Err(body_not_allowed()) }
    }

    /// The request with the hash of a body that wasn't sent to the broker.
    ///
    /// # Errors
    /// It isn't a SHA-256 (the signer accepts any text), or a GET or DELETE has a body.
    pub fn with_hash(self, hash: &[u8]) -> Result<CheckedRequest, Denial> {
        let hash: [u8; 32] =
            hash.try_into().map_err(|_| Denial::new(Reason::InvalidBodyHash, "not 32 bytes"))?;
        if self.method == Method::Post {
            return Ok(CheckedRequest { head: self, body: Body::unread(hash) });
        }
        if hash == Body::none().sha256 { self.without_body() } else { Err(body_not_allowed()) }
    }

    /// The request without a payload.
    ///
    /// # Errors
    /// A POST needs a body.
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
    /// The checked parts before the body.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The SHA-256 of the body.
    #[must_use]
    pub fn body_sha256(&self) -> &[u8; 32] {
        &self.body.sha256
    }

    /// The call in the body, if it was read.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.body.content
    }
}

impl Method {
    /// The method as in the request line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Get => "GET",
            Self::Delete => "DELETE",
        }
    }
}

/// Parses a method. The attack: the signer accepts any text, so `POST /x\nhost:evil` would sign
/// another request.
fn checked_method(text: &str) -> Result<Method, Denial> {
    match text {
        "POST" => Ok(Method::Post),
        "GET" => Ok(Method::Get),
        "DELETE" => Ok(Method::Delete),
        _ if headers::is_token(text.as_bytes()) => {
            Err(Denial::new(Reason::MethodNotAllowed, "not POST, GET or DELETE"))
        }
        _ => Err(Denial::new(Reason::InvalidMethod, "the method isn't a token")),
    }
}

#[cfg(test)]
pub(crate) mod whole;

#[cfg(test)]
mod tests;
