//! The requests of one client that aren't answered yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use http::HeaderMap;
use sigward_proto::traces::{self, AGO, Since};
use tokio_util::sync::CancellationToken;
use tracing::Span;
use tracing::field::Empty;

use super::shared::Outlet;
use crate::budget::Budget;
use crate::exchange::Held;
use crate::request::Request;
use crate::session::{Opener, Session};
use crate::sync::lock;
use crate::upstream::Sent;
use crate::wire::{Id, Object};

/// The most requests of one client in flight at the same time.
const MAX_IN_FLIGHT: usize = 1024;

/// A request in flight.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) cancel: CancellationToken,
    pub(super) session: OnceLock<Arc<Session>>,
    /// Whether the request may have reached the server.
    pub(crate) sent: Sent,
    /// For an `initialize`: what opens the client's session.
    pub(super) opener: Mutex<Option<Opener>>,
    pub(super) is_stateless: bool,
    /// The memory for its messages, if that isn't the client's.
    pub(super) budget: Option<Budget>,
    /// The headers of an HTTP client, which are forwarded with its call.
    headers: OnceLock<HeaderMap>,
    /// Set if the server has throttled the call before, and the HTTP client gets a stream while it
    /// waits.
    held: Mutex<Option<Held>>,
    /// The channel for messages that the server sends before the response.
    pub(super) out: Outlet,
    /// The span of its trace; work for the request is done within it.
    pub(crate) span: Span,
    /// The span of its phase *reply*, once there is a response.
    reply: OnceLock<Span>,
}

impl InFlight {
    pub(crate) fn new(call: &Request, out: Outlet) -> Arc<Self> {
        Self::within(call, out, None)
    }

    /// Makes a flight whose messages take their memory out of `budget`.
    pub(crate) fn within(call: &Request, out: Outlet, budget: Option<Budget>) -> Arc<Self> {
        Arc::new(Self {
            budget,
            headers: OnceLock::new(),
            held: Mutex::default(),
            cancel: CancellationToken::new(),
            session: OnceLock::new(),
            sent: Sent::default(),
            opener: Mutex::default(),
            is_stateless: call.is_stateless(),
            out,
            span: span_of(call),
            reply: OnceLock::new(),
        })
    }

    /// Stores what opens the session of an `initialize`.
    pub(crate) fn opening(&self, opener: Opener) {
        *lock(&self.opener) = Some(opener);
    }

    /// Stores that the server has throttled the call, which waits before it is sent again.
    pub(crate) fn hold(&self, held: Held) {
        *lock(&self.held) = Some(held);
    }

    /// Takes the wait that [`Self::hold`] stored.
    pub(super) fn take_held(&self) -> Option<Held> {
        lock(&self.held).take()
    }

    /// Stores the client's headers, which are forwarded with its call.
    pub(crate) fn carry(&self, headers: HeaderMap) {
        let _ = self.headers.set(headers);
    }

    /// Adds the request to the trace that the client's headers name. A trace context in `_meta` takes precedence
    /// (SEP-414).
    pub(crate) fn follow(&self, call: &Request, headers: &HeaderMap) {
        if self.span.is_disabled() || context(call).is_some() {
            return;
        }
        let parent = headers.get(traces::TRACEPARENT).and_then(|parent| parent.to_str().ok());
        if let Some(parent) = parent {
            traces::follow(&self.span, parent);
        }
    }

    /// Adds the phase *receive* to the trace. It began before the request was known. From here on the request has its
    /// trace.
    pub(crate) fn received(&self, begun: Since) {
        let Some(ago) = begun.ago().filter(|_| self.is_traced()) else { return };
        self.span.record(AGO, ago);
        drop(
            tracing::info_span!(target: "trace", parent: &self.span, "receive", sigward.ago_ns = ago),
        );
    }

    /// Begins the phase *reply*, which lasts until the flight is dropped.
    pub(crate) fn reply(&self) {
        if self.is_traced() {
            let span = || tracing::info_span!(target: "trace", parent: &self.span, "reply");
            self.reply.get_or_init(span);
        }
    }

    /// Whether the request is part of a trace.
    pub(crate) fn is_traced(&self) -> bool {
        !self.span.is_disabled()
    }

    /// The client's headers.
    pub(super) fn headers(&self) -> Option<&HeaderMap> {
        self.headers.get()
    }

    /// Stores the session that the request uses.
    pub(crate) fn over(&self, session: Arc<Session>) {
        let _ = self.session.set(session);
    }

    /// Ends a handshake that didn't succeed: calls that waited for it continue.
    pub(super) fn give_up_opening(&self) {
        drop(lock(&self.opener).take());
    }

    /// The channel for messages that the server sends before the response.
    pub(crate) fn out(&self) -> &Outlet {
        &self.out
    }
}

impl Drop for InFlight {
    /// Drops the reply span before the request span is left: a trace takes the time when a span was
    /// last left as its end.
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            drop(reply);
            self.span.in_scope(|| ());
        }
    }
}

/// The longest name in a span, in characters: names come from the client.
const MAX_NAME: usize = 64;

/// The span of a request, which ends with its flight.
fn span_of(call: &Request) -> Span {
    let span = tracing::info_span!(
        target: "trace",
        "request",
        otel.name = Empty,
        otel.kind = "server",
        otel.status_code = Empty,
        mcp.method.name = Empty,
        gen_ai.tool.name = Empty,
        sigward.profile = Empty,
        sigward.reason = Empty,
        sigward.ago_ns = Empty,
    );
    if span.is_disabled() {
        return span;
    }
    let short = |name: &str| name.chars().take(MAX_NAME).collect::<String>();
    let method = short(call.method());
    span.record("mcp.method.name", method.as_str());
    match call.tool().map(short) {
        Some(tool) => {
            span.record("gen_ai.tool.name", tool.as_str());
            span.record("otel.name", format!("{method} {tool}"));
        }
        None => {
            span.record("otel.name", method);
        }
    }
    if let Some(parent) = context(call) {
        traces::follow(&span, &parent);
    }
    span
}

/// The trace context in the request's `_meta`.
fn context(call: &Request) -> Option<String> {
    let meta = Object::parse(call.meta()?).ok()?;
    meta.find_string(traces::TRACEPARENT).map(std::borrow::Cow::into_owned)
}

/// The requests in flight, by id.
#[derive(Debug, Default)]
pub(super) struct AllInFlight(Mutex<HashMap<Id, Arc<InFlight>>>);

impl AllInFlight {
    /// Registers a request so that it can be cancelled. The error is the reason for a refusal.
    pub(super) fn register(
        &self,
        call: &Request,
        out: Outlet,
    ) -> Result<Arc<InFlight>, &'static str> {
        let flight = InFlight::new(call, out);
        let mut all = lock(&self.0);
        if all.len() >= MAX_IN_FLIGHT {
            return Err("Too many requests at the same time; wait for some of the answers.");
        }
        if all.contains_key(call.id()) {
            return Err("Invalid request: another request with this id isn't answered yet");
        }
        all.insert(call.id().clone(), Arc::clone(&flight));
        Ok(flight)
    }

    /// Unregisters a request: its id is free again.
    pub(super) fn forget(&self, id: &Id, flight: &Arc<InFlight>) {
        let mut all = lock(&self.0);
        if all.get(id).is_some_and(|known| Arc::ptr_eq(known, flight)) {
            all.remove(id);
        }
    }

    /// The request with this id.
    pub(super) fn get(&self, id: &Id) -> Option<Arc<InFlight>> {
        lock(&self.0).get(id).cloned()
    }

    /// Cancels all requests.
    pub(super) fn cancel(&self) {
        for flight in lock(&self.0).values() {
            flight.cancel.cancel();
        }
    }
}
