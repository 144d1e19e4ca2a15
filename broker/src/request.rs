//! From what a caller sent to a [`CheckedRequest`]: the only thing that is ever signed.
//!
//! Invariant: the host of a checked request is the endpoint's, its path is the endpoint's or below,
//! its query is in canonical form, and its headers say the same before and after SigV4's
//! canonicalisation. What an HTTP client sends is therefore what was signed, and nothing that the
//! caller chose decides where the signature is valid.

mod body;
mod headers;
mod uri;

use std::sync::Arc;

use sigward_proto::v1::sign_request::Payload;
use sigward_proto::v1::{Reason, SignRequest};

pub use self::body::Tool;
use crate::endpoint::Endpoint;
use crate::error::Denial;

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

/// A request that may be signed, if the policy allows it.
#[derive(Debug)]
pub struct CheckedRequest {
    profile: String,
    endpoint: Arc<Endpoint>,
    method: Method,
    path_and_query: String,
    headers: Vec<(String, String)>,
    body_sha256: [u8; 32],
    tool: Tool,
}

impl CheckedRequest {
    /// Checks a request against the endpoints there are.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(request: SignRequest, endpoints: &[Arc<Endpoint>]) -> Result<Self, Denial> {
        let method = method(&request.method)?;
        let (endpoint, path_and_query) = uri::check(&request.uri, endpoints)?;
        let headers = headers::check(&request.headers)?;
        let (body_sha256, tool) = match (method, request.payload) {
            (Method::Post, None) => {
                return Err(Denial::new(Reason::BodyRequired, "a POST without a body or its hash"));
            }
            (Method::Get | Method::Delete, None) => (body::sha256(&[]), Tool::None),
            (_, Some(Payload::BodySha256(hash))) => (body::hash(&hash)?, Tool::Unread),
            (Method::Post, Some(Payload::Body(bytes))) => {
                (body::sha256(&bytes), body::read_tool(&bytes, &headers))
            }
            (Method::Get | Method::Delete, Some(Payload::Body(bytes))) => {
                (body::sha256(&bytes), Tool::None)
            }
        };
        // A server may well read the body of a GET; no rule about tools would have seen it.
        if method != Method::Post && body_sha256 != body::sha256(&[]) {
            return Err(Denial::new(Reason::InvalidBodyHash, "a GET or DELETE with a body"));
        }
        let tool = if method == Method::Post { tool } else { Tool::None };
        let profile = request.profile;
        Ok(Self { profile, endpoint, method, path_and_query, headers, body_sha256, tool })
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

    /// The SHA-256 of the body.
    #[must_use]
    pub fn body_sha256(&self) -> &[u8; 32] {
        &self.body_sha256
    }

    /// What is known about the tool that it calls.
    #[must_use]
    pub fn tool(&self) -> &Tool {
        &self.tool
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
fn method(text: &str) -> Result<Method, Denial> {
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
mod tests;
