//! Answers: passed on, or made here.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use rmcp::model::ErrorCode;

use super::body::{self, Body, full};
use super::headers;
use super::stream::{CallAnswer, Inbox, Passing};
use crate::client::{Failed, fault_response, sentence};
use crate::error::Error;
use crate::exchange::repaired;
use crate::request::Request;
use crate::upstream::{Failure, Frames};
use crate::wire::{self, Envelope, Fault, Id};

/// An answer that passes on as it comes; `held` is dropped at its end.
pub(super) fn raw<T: Send + 'static>(
    status: StatusCode,
    headers: &HeaderMap,
    frames: Frames,
    held: T,
) -> Response<Body> {
    let length = headers.get(CONTENT_LENGTH).filter(|_| !frames.is_events()).cloned();
    stream(status, headers, length, Passing::raw(frames), held)
}

/// The stream of messages that a server sends unasked. The messages of `inbox` are put between its
/// events.
pub(super) fn unsolicited<T: Send + 'static>(
    status: StatusCode,
    headers: &HeaderMap,
    frames: Box<Frames>,
    inbox: Option<BoxFuture<'static, Inbox>>,
    held: T,
) -> Response<Body> {
    stream(status, headers, None, Passing::unsolicited(frames, inbox), held)
}

/// The answer to a call, of which `begun` was read.
pub(super) fn of_call(
    status: StatusCode,
    headers: &HeaderMap,
    answer: CallAnswer,
    begun: Option<Bytes>,
) -> Response<Body> {
    // Events may change on their way, and others come between them.
    let length = headers.get(CONTENT_LENGTH).filter(|_| !answer.is_events()).cloned();
    stream(status, headers, length, Passing::of_call(answer, begun), ())
}

fn stream<T: Send + 'static>(
    status: StatusCode,
    headers: &HeaderMap,
    length: Option<HeaderValue>,
    passing: Passing,
    held: T,
) -> Response<Body> {
    let mut answer = head(status, headers, body::flowing(passing.pieces(held)));
    if let Some(length) = length {
        answer.headers_mut().insert(CONTENT_LENGTH, length);
    }
    answer
}

/// An answer with the server's own head.
pub(super) fn head(status: StatusCode, headers: &HeaderMap, body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers::downstream(headers);
    answer
}

/// An answer that isn't success, as it came where that helps the client. `is_lost`: it says that the
/// session is.
pub(super) fn failure(
    call: Option<&Request>,
    failure: Failure,
    is_lost: bool,
    headers: &HeaderMap,
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
        || failure.body.is_empty() && failure.status != StatusCode::METHOD_NOT_ALLOWED
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
    head(status, headers, repaired.map_or_else(|| full(failure.body), full))
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

/// The endpoint or the broker can't be reached, for a message without an id.
pub(super) fn unreachable(error: &Error) -> Response<Body> {
    tracing::error!(%error, "a request failed");
    json(StatusCode::BAD_GATEWAY, error_text(Id::null(), error))
}

fn error_text(id: Id, error: &Error) -> String {
    wire::error_response(&id, ErrorCode::INTERNAL_ERROR, &sentence(&error.to_string()))
}

/// A message of ours.
pub(super) fn json(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut answer = Response::new(full(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Whether it is a stream of events.
pub(super) fn is_events(answer: &Response<Body>) -> bool {
    let kind = answer.headers().get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
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

/// There is nothing to say.
pub(super) fn nothing_more() -> Response<Body> {
    let mut answer = Response::new(full(Bytes::new()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// A request with an id that is refused here, and why.
pub(super) fn refused(status: StatusCode, call: &Request, why: &str) -> Response<Body> {
    json(status, wire::error_response(call.id(), ErrorCode::INVALID_REQUEST, why))
}

/// A request that is refused here, and why.
pub(crate) fn refusal(status: StatusCode, why: &str) -> Response<Body> {
    json(status, wire::error_response(&Id::null(), ErrorCode::INVALID_REQUEST, why))
}
