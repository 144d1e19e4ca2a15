//! The life of one message: *receive, route, sign, send, stream, reply*.
//!
//! A [`Relay`] serves one client. It reads each line in order and without waiting, and works on
//! requests side by side. What it keeps: every request gets exactly one response under the id token
//! that it came with, or none if the client cancelled it; and a message that needs no change leaves
//! as it came.

#[cfg(test)]
mod alone;
mod call;
mod lines;
mod passing;
mod questions;
mod server;
mod sign_in;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::call::{Failed, Route, sentence};
pub(crate) use self::lines::fault_response;
use self::questions::{Asker, Questions};
pub(crate) use self::sign_in::Next;
use self::sign_in::{Asked, SignIns};
use crate::attempt::Attempt;
use crate::broker::Broker;
use crate::budget::{Budget, Message};
use crate::config::{
    Config, MESSAGES_IN_TRANSIT, ProfileName, Profiles, REQUESTS_IN_TRANSIT, ToolPolicy,
};
use crate::exchange::{TooLate, with_id};
use crate::metadata::Metadata;
use crate::old_client;
use crate::profile::Offer;
use crate::protocol::{self, Generation};
use crate::request::Request;
use crate::session::{Context, Handshake, Lost, Opener, Ownership, Parcel, Session, Unsolicited};
use crate::tools::Catalog;
use crate::upstream::{Sent, Upstream};
use crate::wire::{self, Edits, Envelope, Id, Object};

/// Requests of one client at work at the same time.
const MAX_FLIGHTS: usize = 1024;
/// Messages of our own that wait for a client to read. Beyond these, its input waits.
const MAX_UNSAID: usize = 1024;
/// How long requests that are at work may still take when the client's input ends.
pub(crate) const GRACE: Duration = Duration::from_millis(400);
/// How long sessions may take to end after that.
const FAREWELL: Duration = Duration::from_millis(900);

/// Clients that read slowly leave room for others up to this number of them.
const CLIENTS: usize = 4;

/// Where messages to the client go.
pub type Outlet = mpsc::Sender<Message>;

/// What all clients of a process share.
#[derive(Debug)]
pub struct Shared {
    pub(crate) profiles: Profiles,
    pub(crate) upstream: Arc<Upstream>,
    /// The memory that messages of servers take.
    messages: Budget,
    /// The memory that requests of clients take.
    pub(crate) requests: Budget,
    pub(crate) tool_timeout: Duration,
    pub(crate) retries: u32,
    offer: Offer,
    tools: ToolPolicy,
    metadata: Arc<Metadata>,
    sign_ins: SignIns,
}

impl Shared {
    /// What `config` says, and the ways to the server and to the broker.
    #[must_use]
    pub fn new(config: &Config, upstream: Arc<Upstream>, broker: Broker) -> Arc<Self> {
        Arc::new(Self {
            profiles: config.profiles.clone(),
            upstream,
            messages: Budget::new(MESSAGES_IN_TRANSIT),
            requests: Budget::new(REQUESTS_IN_TRANSIT),
            tool_timeout: config.timeouts.tool,
            retries: config.retries,
            offer: Offer::new(config.profiles.clone(), config.argument.clone()),
            tools: config.tools.clone(),
            sign_ins: SignIns::new(config.sign_in, broker.clone()),
            metadata: Arc::new(Metadata::new(config, broker)),
        })
    }
}

/// Everything about one client.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    context: Arc<Context>,
    catalog: Catalog,
    out: Outlet,
    sessions: Mutex<HashMap<ProfileName, Arc<Session>>>,
    flights: Mutex<HashMap<Id, Arc<Flight>>>,
    questions: Questions,
    /// The sign-ins that the client's user was asked for.
    asked: Mutex<HashMap<ProfileName, Weak<Asked>>>,
    /// Which profile made a task.
    tasks: Mutex<VecDeque<(String, ProfileName)>>,
    listing: Attempt,
    /// What the proxy itself has to say, and finds no room for.
    unsaid: Arc<Semaphore>,
    work: TaskTracker,
}

/// A request at work.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) cancel: CancellationToken,
    session: OnceLock<Arc<Session>>,
    /// Whether upstream may know of it.
    pub(crate) sent: Sent,
    /// Of an `initialize`: what opens the client's session.
    opener: Mutex<Option<Opener>>,
    stateless: bool,
    /// Where what the server says on the way to the response goes.
    out: Outlet,
}

impl Flight {
    pub(crate) fn new(call: &Request, out: Outlet) -> Arc<Self> {
        Arc::new(Self {
            cancel: CancellationToken::new(),
            session: OnceLock::new(),
            sent: Sent::default(),
            opener: Mutex::default(),
            stateless: call.is_stateless(),
            out,
        })
    }

    /// The same flight, of an `initialize`.
    pub(crate) fn opening(&self, opener: Opener) {
        *lock(&self.opener) = Some(opener);
    }

    /// Where the server's messages go.
    pub(crate) fn out(&self) -> &Outlet {
        &self.out
    }
}

impl Relay {
    /// A relay of a client whose messages go to `out`. Those that servers send on their own account
    /// are read by a task that ends with the relay.
    #[must_use]
    pub fn new(shared: Arc<Shared>, ownership: Ownership, out: Outlet) -> Arc<Self> {
        let (unsolicited, mut inbox) = mpsc::channel(16);
        let (lost, mut losses) = mpsc::unbounded_channel();
        let work = TaskTracker::new();
        let context = Context {
            upstream: Arc::new(shared.upstream.for_client()),
            handshake: Handshake::default(),
            ownership,
            // A client that speaks line by line is the only one.
            budget: match ownership {
                Ownership::Proxy => shared.messages.clone(),
                Ownership::Client | Ownership::Nobody => shared.messages.of_client(CLIENTS),
            },
            metadata: Arc::clone(&shared.metadata),
            unsolicited,
            lost,
            work: work.clone(),
        };
        let relay = Arc::new(Self {
            context: Arc::new(context),
            catalog: Catalog::new(shared.tools.clone()),
            shared,
            out,
            sessions: Mutex::default(),
            flights: Mutex::default(),
            questions: Questions::new(ownership),
            asked: Mutex::default(),
            tasks: Mutex::default(),
            listing: Attempt::default(),
            unsaid: Arc::new(Semaphore::new(MAX_UNSAID)),
            work,
        });
        let reader = Arc::downgrade(&relay);
        tokio::spawn(async move {
            while let Some(Unsolicited { session, epoch, message }) = inbox.recv().await {
                let Some(relay) = reader.upgrade() else { return };
                relay.pass_on(&session, epoch, message, &relay.out).await;
            }
        });
        let withdrawer = Arc::downgrade(&relay);
        tokio::spawn(async move {
            while let Some(lost) = losses.recv().await {
                let Some(relay) = withdrawer.upgrade() else { return };
                relay.withdraw_lost(&lost).await;
            }
        });
        relay
    }

    /// Ends everything: requests at work, after `grace`, then the sessions. Within a second after
    /// that, whatever the server does.
    pub async fn close(&self, grace: Duration) {
        self.work.close();
        let _ = tokio::time::timeout(grace, self.work.wait()).await;
        for flight in lock(&self.flights).values() {
            flight.cancel.cancel();
        }
        let sessions: Vec<_> = lock(&self.sessions).drain().map(|(_, session)| session).collect();
        let closing = sessions.iter().map(|session| session.close());
        let _ = tokio::time::timeout(FAREWELL, futures_util::future::join_all(closing)).await;
    }

    /// Takes note of a request, so that it can be cancelled. An error says why it can't be taken.
    pub(crate) fn register(
        &self,
        call: &Request,
        out: Outlet,
    ) -> Result<Arc<Flight>, &'static str> {
        let flight = Flight::new(call, out);
        let mut flights = lock(&self.flights);
        if flights.len() >= MAX_FLIGHTS {
            return Err("Too many requests at the same time; wait for some of the answers.");
        }
        if flights.contains_key(call.id()) {
            return Err("Invalid request: another request with this id isn't answered yet");
        }
        flights.insert(call.id().clone(), Arc::clone(&flight));
        Ok(flight)
    }

    /// From here on the id is free, and nothing more is said about it.
    pub(crate) fn forget(&self, id: &Id, flight: &Arc<Flight>) {
        let mut flights = lock(&self.flights);
        if flights.get(id).is_some_and(|known| Arc::ptr_eq(known, flight)) {
            flights.remove(id);
        }
    }

    /// The response to a request; none if the client cancelled it.
    pub(crate) async fn respond_to(
        self: &Arc<Self>,
        call: &Request,
        flight: &Arc<Flight>,
    ) -> Option<Message> {
        let cancelled = flight.cancel.clone();
        let done = cancelled.run_until_cancelled(self.carry_out(call, flight)).await;
        self.forget(call.id(), flight);
        // A handshake that came to nothing: what waited for it goes on.
        drop(lock(&flight.opener).take());
        match done {
            None => {
                tracing::debug!(method = %call.method(), "cancelled");
                None
            }
            Some(done) => {
                let response = done.unwrap_or_else(|failed| failed.into_response(call).into());
                match call.method() {
                    "initialize" => Some(old_client::without_error(call.text(), response)),
                    _ => Some(response),
                }
            }
        }
    }

    /// Makes a call; where a person must sign in first and can be sent, once more after that.
    async fn carry_out(
        self: &Arc<Self>,
        call: &Request,
        flight: &Flight,
    ) -> Result<Message, Failed> {
        let resumed = self.resumed(call).await?;
        let call = resumed.as_ref().unwrap_or(call);
        let failed = match self.in_time(call, flight).await {
            Err(failed) => failed,
            done => return done,
        };
        let Some(profile) = failed.login_required().filter(|_| self.can_sign_in(call)) else {
            return Err(failed);
        };
        match self.sign_in(call, profile, &flight.out).await {
            Next::Again => self.in_time(call, flight).await,
            Next::Respond(response) => Ok(response.into()),
            Next::Fail(failed) => Err(failed),
        }
    }

    /// Makes a call, within its time.
    async fn in_time(self: &Arc<Self>, call: &Request, flight: &Flight) -> Result<Message, Failed> {
        match self.deadline(call).within(self.call(call, flight)).await {
            Ok(done) => done,
            Err(TooLate) => Err(self.too_late(call, flight)),
        }
    }

    fn notified(self: &Arc<Self>, envelope: &Envelope<'_>, message: &Message) {
        let params = envelope.params_object();
        let text = &message.text;
        match envelope.method.as_ref() {
            "notifications/cancelled" => self.cancel(params.as_ref(), text),
            "notifications/initialized" => {
                self.default_session().enqueue(Parcel::initialized(message.clone()));
            }
            "notifications/roots/list_changed" => {
                let all: Vec<_> = lock(&self.sessions).values().cloned().collect();
                for session in all {
                    session.enqueue(Parcel::bound(message.clone()));
                }
            }
            "notifications/progress" => {
                let token = params.as_ref().and_then(|params| params.find("progressToken"));
                match params.as_ref().and_then(|params| self.progress(params, text)) {
                    Some((asker, text)) => self.reply(asker, message.clone().with(text)),
                    None if token.is_some_and(|token| self.questions.gave(token)) => {
                        tracing::debug!("dropped progress on a request that isn't open any more");
                    }
                    None => self.default_session().enqueue(Parcel::bound(message.clone())),
                }
            }
            _ => match Generation::of(params.as_ref()) {
                Generation::Sessions => {
                    self.default_session().enqueue(Parcel::bound(message.clone()));
                }
                Generation::Stateless(version) => {
                    let mut headers = protocol::post_headers();
                    protocol::mirror(&mut headers, &version, envelope, &[]);
                    self.default_session().enqueue(Parcel::unbound(headers, message.clone()));
                }
            },
        }
    }

    /// Progress of the client on what a server asked: who asked, and the notification under the
    /// server's own token.
    pub(crate) fn progress(&self, params: &Object<'_>, text: &str) -> Option<(Asker, String)> {
        let given = params.find("progressToken")?;
        let (asker, token) = self.questions.in_progress(given)?;
        let mut edits = Edits::new(text);
        edits.replace(given, token);
        Some((asker, edits.apply().ok()?))
    }

    /// Sends what concerns a question to the session that asked it. One that took its place may have
    /// a question of its own under the same id.
    fn reply(&self, asker: Asker, message: Message) {
        let Asker { session, epoch } = asker;
        session.enqueue(Parcel::of_epoch(epoch, message));
    }

    /// The client no longer wants an answer.
    fn cancel(&self, params: Option<&Object<'_>>, text: &str) {
        let Some(id) = params.and_then(|params| params.find("requestId")) else { return };
        let flight = lock(&self.flights).get(&Id::from_token(id)).cloned();
        let Some(flight) = flight else { return };
        self.tell_cancelled(&flight, text.to_owned());
        flight.cancel.cancel();
    }

    /// We no longer wait for an answer.
    pub(crate) fn abandon(&self, id: &Id, flight: &Flight, reason: &str) {
        let params = format!(r#"{{"requestId":{},"reason":{}}}"#, id.token(), wire::quote(reason));
        self.tell_cancelled(flight, wire::notification("notifications/cancelled", Some(&params)));
    }

    /// With sessions, an end of the stream is no cancellation: the server must be told, if it knows
    /// of the request at all. From 2026-07-28 on the end of the stream says it.
    fn tell_cancelled(&self, flight: &Flight, text: String) {
        if flight.stateless || !flight.sent.is_set() {
            return;
        }
        if let Some(session) = flight.session.get() {
            session.enqueue(Parcel::cancellation(text.into()));
        }
    }

    /// The client's answer to what a server asked.
    fn answered(&self, envelope: &Envelope<'_>, message: &Message) {
        let given = &message.text;
        if envelope.id.is_some_and(|id| self.questions.answer_ourselves(id, given)) {
            return;
        }
        match envelope.id.and_then(|id| self.questions.take(id)) {
            Some(question) => {
                let text = with_id(given, envelope, &question.id);
                self.reply(question.asker, message.clone().changed(text));
            }
            None => tracing::warn!("the client answered a request that isn't open"),
        }
    }

    /// The client begins a session: what belongs to an earlier one ends, and what the client sends
    /// next waits for the answer.
    pub(crate) fn begin_session(&self, params: Option<&str>) -> Opener {
        lock(&self.tasks).clear();
        for (_, stale) in lock(&self.sessions).drain() {
            self.work.spawn(async move { stale.close().await });
        }
        if let Some(params) = params {
            self.context.handshake.initialize(params);
        }
        self.default_session().begin()
    }

    /// Takes back at the client what a session asked that its server no longer knows.
    async fn withdraw_lost(&self, lost: &Lost) {
        for id in self.questions.withdraw_all(&lost.session, lost.epoch) {
            let params = format!(
                r#"{{"requestId":{},"reason":"the server dropped the session"}}"#,
                id.token()
            );
            self.say(wire::notification("notifications/cancelled", Some(&params))).await;
        }
    }

    /// Says something of our own. The input is read on meanwhile: its end must be seen, even while
    /// nobody reads the output.
    async fn say(&self, text: String) {
        // A closed output means that the client is gone, and that the end has begun.
        let Err(TrySendError::Full(message)) = self.out.try_send(text.into()) else { return };
        // Never closed.
        let Ok(place) = Arc::clone(&self.unsaid).acquire_owned().await else { return };
        let out = self.out.clone();
        self.work.spawn(async move {
            let _ = out.send(message).await;
            drop(place);
        });
    }

    fn existing(&self, profile: &ProfileName) -> Option<Arc<Session>> {
        lock(&self.sessions).get(profile).cloned()
    }

    pub(crate) fn default_session(&self) -> Arc<Session> {
        self.session(self.shared.profiles.default())
    }

    fn session(&self, profile: &ProfileName) -> Arc<Session> {
        let mut sessions = lock(&self.sessions);
        let session = sessions.entry(profile.clone()).or_insert_with(|| {
            let is_default = profile == self.shared.profiles.default();
            Arc::new(Session::new(profile.clone(), is_default, Arc::clone(&self.context)))
        });
        Arc::clone(session)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
