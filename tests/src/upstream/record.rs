//! All requests that reached the server, for tests to inspect and to wait for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value;
use tokio::sync::watch;

use super::message::Message;
use crate::deadline;
use crate::sigv4::{Refusal, Verified};

/// One request, as received.
#[derive(Clone, Debug)]
pub struct Received {
    /// Counted from 0 over all connections.
    pub number: usize,
    /// `POST`, `GET`, `DELETE`.
    pub http_method: String,
    /// Path and query of the request line.
    pub target: String,
    /// Every header line.
    pub headers: HeaderMap,
    /// The exact bytes.
    pub body: Bytes,
    /// The message in the body, if it is one.
    pub message: Option<Message>,
    /// Who signed it, or why the signature isn't valid.
    pub signature: Result<Verified, Refusal>,
}

impl Received {
    /// The JSON-RPC method, empty for responses and requests without a body.
    #[must_use]
    pub fn method(&self) -> &str {
        self.message.as_ref().and_then(|message| message.method.as_deref()).unwrap_or_default()
    }

    /// A header's value, if there is one and it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or("(not UTF-8)")
    }

    /// The parameter at a JSON pointer, or null.
    #[must_use]
    pub fn param(&self, pointer: &str) -> Value {
        self.message.as_ref().map(|message| message.param(pointer)).unwrap_or_default()
    }

    /// The ARN of the signature's key; empty if the signature isn't valid.
    #[must_use]
    pub fn identity(&self) -> &str {
        self.signature.as_ref().map_or("", |verified| &verified.key.identity)
    }

    /// Whether this is the call of `tool`.
    #[must_use]
    pub fn calls(&self, tool: &str) -> bool {
        self.method() == "tools/call" && self.param("/name") == tool
    }

    /// Whether this is the client's response to a server request with this id (JSON text).
    #[must_use]
    pub fn is_response_to(&self, id: &str) -> bool {
        let message = self.message.as_ref();
        message.is_some_and(|message| message.method.is_none() && message.id.as_deref() == Some(id))
    }
}

/// The list of received requests; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Record(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    requests: Mutex<Vec<Received>>,
    /// Numbers of the requests whose response the client didn't read to its end.
    abandoned: Mutex<Vec<usize>>,
    changed: watch::Sender<()>,
}

impl Record {
    pub(super) fn add(&self, mut request: Received) -> Received {
        let mut requests = lock(&self.0.requests);
        request.number = requests.len();
        requests.push(request.clone());
        drop(requests);
        self.0.changed.send_replace(());
        request
    }

    /// A guard that records on drop that the client left before the response to request `number` was complete.
    pub(super) fn unread(&self, number: usize) -> Unread {
        Unread { record: Some(self.clone()), number }
    }

    pub(super) fn requests(&self) -> Vec<Received> {
        lock(&self.0.requests).clone()
    }

    /// The first request, past or future, that `matches`.
    pub(super) async fn wait(&self, matches: impl Fn(&Received) -> bool) -> Received {
        self.until(|| lock(&self.0.requests).iter().find(|request| matches(request)).cloned()).await
    }

    /// Waits until the client has given up on the response to request `number`.
    pub(super) async fn wait_abandoned(&self, number: usize) {
        self.until(|| lock(&self.0.abandoned).contains(&number).then_some(())).await;
    }

    async fn until<T>(&self, found: impl Fn() -> Option<T>) -> T {
        let mut changed = self.0.changed.subscribe();
        loop {
            if let Some(found) = found() {
                return found;
            }
            // The sender is in `self`, so it can't be closed.
            let _ = changed.changed().await;
        }
    }

    /// [`Record::wait`] with a deadline; its panic lists the received requests.
    pub(super) async fn expect(&self, what: &str, matches: impl Fn(&Received) -> bool) -> Received {
        deadline::within(self.wait(matches), || {
            let lines = self.requests();
            let lines = lines.iter().map(|request| {
                format!("  {} {} {}\n", request.http_method, request.method(), request.text())
            });
            format!("upstream never received {what}; it received\n{}", lines.collect::<String>())
        })
        .await
    }
}

/// See [`Record::unread`].
pub(super) struct Unread {
    record: Option<Record>,
    number: usize,
}

impl Unread {
    /// The response is complete.
    pub(super) fn was_read(mut self) {
        self.record = None;
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            lock(&record.0.abandoned).push(self.number);
            record.0.changed.send_replace(());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
