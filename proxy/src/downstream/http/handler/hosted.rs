//! A client whose session the proxy hosts, because its server answered no handshake: the default profile couldn't sign.
//!
//! It is served like a stdio client: the proxy owns the sessions of all its profiles, and opens them when possible.
//! Unsolicited messages of servers are sent over its GET stream.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use rmcp::model::ErrorCode;
use rustix::rand::{GetRandomFlags, getrandom};
use sigward_proto::traces::Since;
use tokio::sync::mpsc;

use super::answer;
use super::body::{self, Body, KEEP_ALIVE, framed};
use super::clients::{Busy, Part, Registered};
use super::composed::{self, QUEUE};
use super::post::takes_events;
use super::reverse::ReverseProxy;
use crate::budget::Message;
use crate::client::Client;
use crate::request::Request;
use crate::upstream::SESSION_ID;
use crate::wire::{self, Envelope, Kind};

/// Answers a handshake that the default profile can't send to the server. Whatever answers it, the session is the
/// proxy's.
pub(super) async fn begin(
    proxy: &ReverseProxy,
    headers: &HeaderMap,
    call: Request,
    part: &Part,
) -> Response<Body> {
    let Some(client) = proxy.clients.begin_hosted() else {
        let why = "Too many sessions; end some of them, or try again later.";
        return answer::refusal(StatusCode::SERVICE_UNAVAILABLE, why);
    };
    let Some(id) = session_id() else {
        let why = "The proxy can't generate a session id: the kernel has no random numbers yet.";
        return answer::refusal(StatusCode::SERVICE_UNAVAILABLE, why);
    };
    let host = Arc::clone(&client.0);
    let mcp = Arc::clone(&host.mcp);
    let (out, messages) = mpsc::channel(QUEUE);
    let registered = match Registered::begin(client, &call, out, part) {
        Ok(registered) => registered,
        Err(why) => return refused(&call, why),
    };
    registered.flight.opening(mcp.begin_session(call.params()));
    let answer = composed::call(registered, call, messages, takes_events(headers)).await;
    // No stand-in answered, and the client's next handshake starts from the beginning.
    if mcp.is_without_handshake() {
        proxy.end(host);
        return answer;
    }
    let mut answer = answer;
    answer.headers_mut().insert(SESSION_ID, id.clone());
    // The id is new, so no client is replaced.
    drop(proxy.clients.insert(id, host));
    answer
}

/// Handles a request.
pub(super) async fn request(
    client: Busy,
    headers: &HeaderMap,
    call: Request,
    part: &Part,
    begun: Since,
) -> Response<Body> {
    let (out, messages) = mpsc::channel(QUEUE);
    match Registered::begin(client, &call, out, part) {
        Ok(registered) => {
            registered.flight.follow(&call, headers);
            registered.flight.received(begun);
            composed::call(registered, call, messages, takes_events(headers)).await
        }
        Err(why) => refused(&call, why),
    }
}

/// Handles a notification or a response.
pub(super) fn message(mcp: &Client, kind: Kind, message: &Message) -> Response<Body> {
    if let Ok(envelope) = Envelope::parse(&message.text) {
        match kind {
            Kind::Response => mcp.on_response(&envelope, message),
            Kind::Request | Kind::Notification => mcp.on_notification(&envelope, message),
        }
    }
    answer::accepted()
}

/// The stream of unsolicited messages of servers.
pub(super) fn stream(client: Busy) -> Response<Body> {
    let inbox = client.0.inbox();
    let state = (None, Some(inbox), std::collections::VecDeque::<Bytes>::new(), client);
    let pieces = stream::unfold(state, |(mut open, mut waiting, mut ready, client)| async {
        if let Some(waiting) = waiting.take() {
            open = Some(waiting.await);
        }
        if ready.is_empty() {
            let message = tokio::time::timeout(KEEP_ALIVE, open.as_mut()?.recv()).await;
            match message {
                Ok(message) => ready.extend(framed(message?)),
                Err(_) => ready.push_back(Bytes::from_static(b": \n\n")),
            }
        }
        Some((Ok(ready.pop_front()?), (open, waiting, ready, client)))
    });
    answer::events(body::streaming(pieces))
}

/// Ends the client's session.
pub(super) fn end(proxy: &ReverseProxy, headers: &HeaderMap) -> Response<Body> {
    let ended = headers.get(SESSION_ID).and_then(|id| proxy.clients.remove(id));
    if let Some(ended) = ended {
        proxy.end(ended);
    }
    answer::no_content()
}

fn refused(call: &Request, why: &str) -> Response<Body> {
    let error = wire::error_response(call.id(), ErrorCode::INVALID_REQUEST, why);
    answer::json(StatusCode::OK, error)
}

/// A random id: the id is the only proof of who owns the session.
fn session_id() -> Option<HeaderValue> {
    let mut bytes = [0; 16];
    let filled = getrandom(&mut bytes, GetRandomFlags::empty()).ok()?;
    // The kernel returns so few bytes at once, or none.
    (filled == bytes.len()).then_some(())?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::try_from(format!("sigward-{digits}")).ok()
}
