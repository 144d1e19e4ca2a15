//! Answers that the proxy builds from messages: for calls over the sessions of other profiles, and
//! for batches.
//!
//! Their events have no ids, so that no client tries to resume here: the server's ids would refer to events of a
//! session that the client doesn't have, and messages would have to be kept for clients that never return. A client
//! whose connection breaks doesn't get the result of its call, as with a server whose events have no ids.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use http::{Response, StatusCode};
use rmcp::model::ErrorCode;
use tokio::sync::{mpsc, oneshot};

use super::answer;
use super::body::{self, Body};
use super::clients::{Busy, Registered};
use crate::budget::Message;
use crate::client::{InFlight, fault_response};
use crate::request::{Incoming, Request};
use crate::session::Parcel;
use crate::wire::{self, Envelope, Fault, Kind};

/// The most messages that wait for a slow client.
pub(super) const QUEUE: usize = 16;

/// A call that is answered within this time, without an earlier message, is answered with JSON
/// instead of an event stream.
const JSON_TIMEOUT: Duration = Duration::from_millis(500);

/// 2025-03-26, Lifecycle, "Initialization".
const INITIALIZE: Fault = Fault::NotMessage("initialize can't be part of a batch");

/// Answers a call over a session of its profile, or a call that waits for a quota. With sessions, the call continues if
/// the client's connection ends, because that isn't a cancellation (2025-11-25, Streamable HTTP, "Sending Messages").
/// From 2026-07-28 on it is a cancellation.
pub(super) async fn call(
    registered: Registered,
    call: Request,
    mut messages: mpsc::Receiver<Message>,
    takes_events: bool,
) -> Response<Body> {
    if !takes_events {
        // Messages before the response can't be delivered, and requests of the server are refused.
        messages.close();
    }
    let cancel = registered.flight.cancel.clone();
    let held = call.is_stateless().then(|| cancel.drop_guard());
    let (done, response) = oneshot::channel();
    tokio::spawn(async move {
        let mcp = registered.client();
        let response = mcp.respond_to(&call, &registered.flight).await;
        // The client may be gone.
        let _ = done.send(response);
    });
    let mut last: BoxFuture<'static, Option<Message>> =
        async { response.await.ok().flatten() }.boxed();
    let first = tokio::select! {
        biased;
        Some(message) = messages.recv() => Some(message),
        response = &mut last => return match response {
            Some(response) => answer::json(StatusCode::OK, response.into_bytes()),
            None => answer::cancelled(),
        },
        () = tokio::time::sleep(JSON_TIMEOUT), if takes_events => None,
    };
    answer::events(body::streaming(body::events(first, messages, last, held)))
}

/// Answers the messages of a batch (2025-03-26) with an event stream.
pub(super) fn batch(client: Busy, batch: &[&str], whole: &Message) -> Response<Body> {
    let mcp = Arc::clone(&client.0.mcp);
    if let Err(fault) = mcp.check_batch(batch) {
        return answer::invalid_message("", &fault);
    }
    let (out, messages) = mpsc::channel(QUEUE);
    let (mut refused, mut calls) = (Vec::new(), Vec::<(Request, Arc<InFlight>)>::new());
    for &text in batch {
        let (kind, message) = match Incoming::read(whole.part(text)) {
            Ok(Incoming::Request(call)) if call.method() == "initialize" => {
                refused.push(fault_response(text, &INITIALIZE));
                continue;
            }
            Ok(Incoming::Request(call)) => {
                match mcp.register(&call, out.clone()) {
                    Ok(flight) => calls.push((call, flight)),
                    Err(why) => {
                        let code = ErrorCode::INVALID_REQUEST;
                        refused.push(wire::error_response(call.id(), code, why));
                    }
                }
                continue;
            }
            Ok(Incoming::Other(kind, message)) => (kind, message),
            Err((fault, _)) => {
                refused.push(fault_response(text, &fault));
                continue;
            }
        };
        let Ok(envelope) = Envelope::parse(&message.text) else { continue };
        let is_taken = match kind {
            Kind::Response => mcp.take_response(&envelope, &message),
            Kind::Request | Kind::Notification => mcp.take_notification(&envelope, &message),
        };
        if !is_taken {
            mcp.default_session().enqueue(Parcel::bound(message.clone()));
        }
    }
    if refused.is_empty() && calls.is_empty() {
        return answer::accepted();
    }
    let (done, all) = oneshot::channel::<()>();
    tokio::spawn(async move {
        for response in refused {
            let _ = out.send(response.into()).await;
        }
        let answers = calls.iter().map(|(call, flight)| async {
            if let Some(response) = client.0.mcp.respond_to(call, flight).await {
                let _ = out.send(response).await;
            }
        });
        join_all(answers).await;
        drop(done);
    });
    let last = async { all.await.ok().and(None) }.boxed();
    answer::events(body::streaming(body::events(None, messages, last, ())))
}
