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

/// Requests of one client in flight at the same time.
const MAX_IN_FLIGHT: usize = 1024;

/// A request in flight.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) cancel: CancellationToken,
    pub(super) session: OnceLock<Arc<Session>>,
    /// Whether upstream may know of it.
    pub(crate) sent: Sent,
    /// Of an `initialize`: what opens the client's session.
    pub(super) opener: Mutex<Option<Opener>>,
    pub(super) is_stateless: bool,
    /// The memory for its messages, where that isn't its client's.
    pub(super) budget: Option<Budget>,
    /// Headers of the client's own, where it speaks HTTP: they go upstream with its call.
    headers: OnceLock<HeaderMap>,
    /// The server throttled it before, and its client wants to see that it waits.
    held: Mutex<Option<Held>>,
    /// Where what the server says on the way to the response goes.
    pub(super) out: Outlet,
    /// Of its trace; what is done for the request is done within it.
    pub(crate) span: Span,
    /// Of its phase *reply*, once there is something to reply.
    reply: OnceLock<Span>,
}

impl InFlight {
    pub(crate) fn new(call: &Request, out: Outlet) -> Arc<Self> {
        Self::within(call, out, None)
    }

    /// One whose messages take their memory out of `budget`.
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

    /// The same flight, of an `initialize`.
    pub(crate) fn opening(&self, opener: Opener) {
        *lock(&self.opener) = Some(opener);
    }

    /// The server has throttled it: it waits before it is sent again.
    pub(crate) fn hold(&self, held: Held) {
        *lock(&self.held) = Some(held);
    }

    /// Whether it was throttled before.
    pub(super) fn take_held(&self) -> Option<Held> {
        lock(&self.held).take()
    }

    /// Has headers of the client's own go upstream with its call.
    pub(crate) fn carry(&self, headers: HeaderMap) {
        let _ = self.headers.set(headers);
    }

    /// Puts the request into the trace that the client's headers name. What its `_meta` says comes first (SEP-414).
    pub(crate) fn follow(&self, call: &Request, headers: &HeaderMap) {
        if self.span.is_disabled() || context(call).is_some() {
            return;
        }
        let parent = headers.get(traces::TRACEPARENT).and_then(|parent| parent.to_str().ok());
        if let Some(parent) = parent {
            traces::follow(&self.span, parent);
        }
    }

    /// Puts the phase *receive* into the trace, which began before it was known whose it is. From here on the request has
    /// its trace.
    pub(crate) fn received(&self, begun: Since) {
        let Some(ago) = begun.ago().filter(|_| self.is_traced()) else { return };
        self.span.record(AGO, ago);
        drop(
            tracing::info_span!(target: "trace", parent: &self.span, "receive", sigward.ago_ns = ago),
        );
    }

    /// The phase *reply* begins: it lasts until the flight is over.
    pub(crate) fn reply(&self) {
        if self.is_traced() {
            let span = || tracing::info_span!(target: "trace", parent: &self.span, "reply");
            self.reply.get_or_init(span);
        }
    }

    /// Whether it is part of a trace.
    pub(crate) fn is_traced(&self) -> bool {
        !self.span.is_disabled()
    }

    /// The headers of the client's own.
    pub(super) fn headers(&self) -> Option<&HeaderMap> {
        self.headers.get()
    }

    /// From here on it is known over which session the request goes.
    pub(crate) fn over(&self, session: Arc<Session>) {
        let _ = self.session.set(session);
    }

    /// A handshake that came to nothing: what waited for it goes on.
    pub(super) fn give_up_opening(&self) {
        drop(lock(&self.opener).take());
    }

    /// Where the server's messages go.
    pub(crate) fn out(&self) -> &Outlet {
        &self.out
    }
}

impl Drop for InFlight {
    /// The request ends with its reply: to the trace, a span ends when it was left last.
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            drop(reply);
            self.span.in_scope(|| ());
        }
    }
}

/// The longest name in a span, in characters: a client may write what it likes.
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

/// The trace that the client says in `_meta` its request is part of.
fn context(call: &Request) -> Option<String> {
    let meta = Object::parse(call.meta()?).ok()?;
    meta.find_string(traces::TRACEPARENT).map(std::borrow::Cow::into_owned)
}

/// All of them, by their ids.
#[derive(Debug, Default)]
pub(super) struct AllInFlight(Mutex<HashMap<Id, Arc<InFlight>>>);

impl AllInFlight {
    /// Takes note of a request, so that it can be cancelled. An error says why it can't be taken.
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

    /// From here on the id is free, and nothing more is said about it.
    pub(super) fn forget(&self, id: &Id, flight: &Arc<InFlight>) {
        let mut all = lock(&self.0);
        if all.get(id).is_some_and(|known| Arc::ptr_eq(known, flight)) {
            all.remove(id);
        }
    }

    /// The request with that id.
    pub(super) fn get(&self, id: &Id) -> Option<Arc<InFlight>> {
        lock(&self.0).get(id).cloned()
    }

    /// Gives all up.
    pub(super) fn cancel(&self) {
        for flight in lock(&self.0).values() {
            flight.cancel.cancel();
        }
    }
}
