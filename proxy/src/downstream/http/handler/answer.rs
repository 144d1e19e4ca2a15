//! Answers: passed on, or made here.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use rmcp::model::ErrorCode;

use super::body::{self, Body, full};
use super::headers;
use super::passing::Passing;
use crate::budget::Budget;
use crate::client::{Failed, fault_response, sentence};
use crate::error::Error;
use crate::exchange::repaired;
use crate::request::Request;
use crate::upstream::Failure;
use crate::wire::{self, Envelope, Fault, Id};

/// An answer as it comes; `held` is dropped at its end. `adapt` may have an eye on it.
pub(super) fn stream<T: Send + 'static>(
    response: reqwest::Response,
    budget: &Budget,
    held: T,
    adapt: impl FnOnce(Passing) -> Passing,
) -> Response<Body> {
    stream_after(Vec::new(), response, budget, held, adapt)
}

/// [`stream`] of an answer of which `begun` was read.
pub(super) fn stream_after<T: Send + 'static>(
    begun: Vec<u8>,
    response: reqwest::Response,
    budget: &Budget,
    held: T,
    adapt: impl FnOnce(Passing) -> Passing,
) -> Response<Body> {
    let mut answer = head(&response);
    let length = response.headers().get(CONTENT_LENGTH).cloned();
    // A stream of events may have nothing to say for hours; a call ends by its deadline.
    let passing = adapt(Passing::new(begun, response, budget.clone()));
    // Events may change on their way, and others come between them.
    if let Some(length) = length.filter(|_| !passing.is_events()) {
        answer.headers_mut().insert(CONTENT_LENGTH, length);
    }
    *answer.body_mut() = body::flowing(passing.pieces(held));
    answer
}

/// Status and headers of an answer, without its body.
pub(super) fn head(response: &reqwest::Response) -> Response<Body> {
    let mut answer = Response::new(full(Bytes::new()));
    *answer.status_mut() = response.status();
    *answer.headers_mut() = headers::downstream(response.headers());
    answer
}

/// An answer that isn't success, as it came where that helps the client. `is_lost`: it says that the
/// session is.
pub(super) fn failure(
    call: Option<&Request>,
    failure: Failure,
    is_lost: bool,
    headers: &HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let status = match failure.status {
        _ if is_lost => StatusCode::NOT_FOUND,
        // It is about our signature: a 401 would send the client into OAuth, a redirect elsewhere.
        StatusCode::UNAUTHORIZED => StatusCode::BAD_GATEWAY,
        status if status.is_redirection() => StatusCode::BAD_GATEWAY,
        status => status,
    };
    let about_signature =
        matches!(failure.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    let made_here = failure.status.is_redirection()
        || body.is_empty() && failure.status != StatusCode::METHOD_NOT_ALLOWED
        || about_signature && failure.message.is_none();
    if made_here {
        let error = Error::from(failure);
        return match call {
            Some(call) => json(status, error_text(call.id().clone(), &error)),
            None => json(status, error_text(Id::null(), &error)),
        };
    }
    let own_id = call.zip(failure.message.as_deref());
    let repaired = own_id.and_then(|(call, message)| {
        let envelope = Envelope::parse(message).ok()?;
        repaired(message, &envelope, call.id())
    });
    let mut answer = Response::new(repaired.map_or_else(|| full(body), full));
    *answer.status_mut() = status;
    *answer.headers_mut() = headers::downstream(headers);
    answer
}

/// A request that has no answer from upstream.
pub(super) fn failed(failed: Failed, call: &Request) -> Response<Body> {
    json(StatusCode::OK, failed.into_response(call))
}

/// The session of a request is gone, which has its client initialize again (Streamable HTTP,
/// "Session Management").
pub(super) fn lost(call: &Request) -> Response<Body> {
    json(StatusCode::NOT_FOUND, error_text(call.id().clone(), &Error::SessionExpired))
}

/// A session that there isn't, or not any more: the same.
pub(crate) fn unknown_session() -> Response<Body> {
    json(StatusCode::NOT_FOUND, error_text(Id::null(), &Error::SessionExpired))
}

/// What is no message.
pub(super) fn malformed(text: &str, fault: &Fault) -> Response<Body> {
    json(StatusCode::BAD_REQUEST, fault_response(text, fault))
}

/// A request that was cancelled: its stream ends, and nothing more is said of it.
pub(super) fn nothing() -> Response<Body> {
    events(full(Bytes::new()))
}

/// The endpoint or the broker can't be reached for what has no id of its own.
pub(super) fn unreachable(error: &Error) -> Response<Body> {
    tracing::error!(%error, "a request failed");
    json(StatusCode::BAD_GATEWAY, error_text(Id::null(), error))
}

pub(super) fn error_text(id: Id, error: &Error) -> String {
    wire::error_response(&id, ErrorCode::INTERNAL_ERROR, &sentence(&error.to_string()))
}

/// A message of ours.
pub(super) fn json(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut answer = Response::new(full(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// A stream of ours.
pub(super) fn events(body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    answer
}

/// Notifications and responses are taken without an answer.
pub(super) fn accepted() -> Response<Body> {
    let mut answer = Response::new(full(Bytes::new()));
    *answer.status_mut() = StatusCode::ACCEPTED;
    answer
}

/// A request that is refused here, and why.
pub(crate) fn refusal(status: StatusCode, why: &str) -> Response<Body> {
    json(status, wire::error_response(&Id::null(), ErrorCode::INVALID_REQUEST, why))
}
