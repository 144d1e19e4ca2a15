//! HTTP answers, forwarded or made by the proxy.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use rmcp::model::ErrorCode;

use super::body::{self, Body, full};
use super::headers;
use super::stream::{CallAnswer, ForwardedBody, Inbox};
use crate::client::{Failed, fault_response, sentence};
use crate::error::Error;
use crate::exchange::repaired;
use crate::request::Request;
use crate::upstream::{Failure, Frames};
use crate::wire::{self, Envelope, Fault, Id};

/// An answer that is forwarded unchanged; `held` is dropped at its end.
pub(super) fn raw<T: Send + 'static>(
    status: StatusCode,
    headers: &HeaderMap,
    frames: Frames,
    held: T,
) -> Response<Body> {
    let length = headers.get(CONTENT_LENGTH).filter(|_| !frames.is_events()).cloned();
    stream(status, headers, length, ForwardedBody::raw(frames), held)
}

/// The stream of unsolicited messages of a server. The messages of `inbox` are inserted between its
/// events.
pub(super) fn unsolicited<T: Send + 'static>(
    status: StatusCode,
    headers: &HeaderMap,
    frames: Box<Frames>,
    inbox: Option<BoxFuture<'static, Inbox>>,
    held: T,
) -> Response<Body> {
    stream(status, headers, None, ForwardedBody::unsolicited(frames, inbox), held)
}

/// The answer to a call, of which `begun` has already been read.
pub(super) fn of_call(
    status: StatusCode,
    headers: &HeaderMap,
    answer: CallAnswer,
    begun: Option<Bytes>,
) -> Response<Body> {
    // Events may be changed, and others may be inserted between them.
    let length = headers.get(CONTENT_LENGTH).filter(|_| !answer.is_events()).cloned();
    stream(status, headers, length, ForwardedBody::of_call(answer, begun), ())
}

fn stream<T: Send + 'static>(
    status: StatusCode,
    headers: &HeaderMap,
    length: Option<HeaderValue>,
    body: ForwardedBody,
    held: T,
) -> Response<Body> {
    let mut answer = head(status, headers, body::streaming(body.pieces(held)));
    if let Some(length) = length {
        answer.headers_mut().insert(CONTENT_LENGTH, length);
    }
    answer
}

/// An answer with the server's own status and headers.
pub(super) fn head(status: StatusCode, headers: &HeaderMap, body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers::downstream(headers);
    answer
}

/// An answer that isn't a success, forwarded where that helps the client. `is_lost` is set if it reports a lost
/// session.
pub(super) fn failure(
    call: Option<&Request>,
    failure: Failure,
    is_lost: bool,
    headers: &HeaderMap,
) -> Response<Body> {
    let status = match failure.status {
        _ if is_lost => StatusCode::NOT_FOUND,
        // It concerns the proxy's signature: a 401 would start OAuth in the client, and a redirect
        // would send it elsewhere.
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

/// The answer to a request that got none from upstream.
pub(super) fn failed(failed: Failed, call: &Request) -> Response<Body> {
    json(StatusCode::OK, failed.into_response(call))
}

/// The session of a request is lost; the client must initialize again (Streamable HTTP, "Session
/// Management").
pub(super) fn lost(call: &Request) -> Response<Body> {
    json(StatusCode::NOT_FOUND, error_text(call.id().clone(), &Error::SessionExpired))
}

/// The session id is unknown, which means the same.
pub(crate) fn unknown_session() -> Response<Body> {
    json(StatusCode::NOT_FOUND, error_text(Id::null(), &Error::SessionExpired))
}

/// The body is no valid message.
pub(super) fn invalid_message(text: &str, fault: &Fault) -> Response<Body> {
    json(StatusCode::BAD_REQUEST, fault_response(text, fault))
}

/// A request was cancelled: its stream ends without a response.
pub(super) fn cancelled() -> Response<Body> {
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

/// A JSON message of the proxy.
pub(super) fn json(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut answer = Response::new(full(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Whether an answer is a stream of events.
pub(super) fn is_events(answer: &Response<Body>) -> bool {
    let kind = answer.headers().get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// An event stream of the proxy.
pub(super) fn events(body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    answer
}

/// Accepts a notification or a response, which get no answer.
pub(super) fn accepted() -> Response<Body> {
    let mut answer = Response::new(full(Bytes::new()));
    *answer.status_mut() = StatusCode::ACCEPTED;
    answer
}

/// An empty success.
pub(super) fn no_content() -> Response<Body> {
    let mut answer = Response::new(full(Bytes::new()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// Refuses a request, under its id.
pub(super) fn refused(status: StatusCode, call: &Request, why: &str) -> Response<Body> {
    json(status, wire::error_response(call.id(), ErrorCode::INVALID_REQUEST, why))
}

/// Refuses a request without an id.
pub(crate) fn refusal(status: StatusCode, why: &str) -> Response<Body> {
    json(status, wire::error_response(&Id::null(), ErrorCode::INVALID_REQUEST, why))
}
