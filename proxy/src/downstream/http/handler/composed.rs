//! Answers that the proxy makes out of messages: calls over the sessions of other profiles, and
//! batches.
//!
//! Their events have no ids, so that no client tries to resume here: the server's own would name events
//! of a session that the client doesn't have, and messages would have to be kept for clients that never
//! come back. A client whose connection breaks doesn't learn how its call ended, as with a server that
//! names no events.

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

/// Messages that wait for a client that reads slowly.
pub(super) const QUEUE: usize = 16;

/// A call that is answered within this time, with nothing said before, is answered in JSON.
const PROMPT: Duration = Duration::from_millis(500);

/// 2025-03-26, Lifecycle, "Initialization".
const INITIALIZE: Fault = Fault::NotMessage("initialize can't be part of a batch");

/// Makes a call whose answer is ours: over a session of its profile, or one that waits for a quota. With sessions it goes on
/// when the client's connection ends: that is no cancellation (2025-11-25, Streamable HTTP, "Sending Messages"). From
/// 2026-07-28 on it is.
pub(super) async fn call(
    registered: Registered,
    call: Request,
    mut messages: mpsc::Receiver<Message>,
    takes_events: bool,
) -> Response<Body> {
    if !takes_events {
        // What is said before the response has nowhere to go, and questions are refused.
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
            None => answer::nothing(),
        },
        () = tokio::time::sleep(PROMPT), if takes_events => None,
    };
    answer::events(body::flowing(body::events(first, messages, last, held)))
}

/// Answers the messages of a batch (2025-03-26), in a stream.
pub(super) fn batch(client: Busy, batch: &[&str], whole: &Message) -> Response<Body> {
    let mcp = Arc::clone(&client.0.mcp);
    if let Err(fault) = mcp.check_batch(batch) {
        return answer::malformed("", &fault);
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
    answer::events(body::flowing(body::events(None, messages, last, ())))
}
