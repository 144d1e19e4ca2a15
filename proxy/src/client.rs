//! One client of MCP: its requests, sessions, questions, sign-ins and share of the memory.
//!
//! A [`Client`] works on requests concurrently. Invariant: every request gets exactly one response
//! under the id token that it came with, or none if the client cancelled it; and a message that needs
//! no change is forwarded as it came. Its parts don't know it, and know of each other only their
//! fields.

mod annotation;
mod announced;
mod call;
mod failed;
mod in_flight;
mod learn;
mod questions;
mod server;
mod sessions;
mod shared;
mod sign_in;
mod stand_in;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use rmcp::model::ProtocolVersion;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use self::announced::Announced;
use self::call::Caller;
pub(crate) use self::call::Passed;
pub(crate) use self::failed::{Failed, echoed, fault_response, sentence};
use self::in_flight::AllInFlight;
pub(crate) use self::in_flight::InFlight;
use self::questions::{Asker, Questions};
pub use self::shared::{Outlet, Shared};
pub(crate) use self::sign_in::Next;
use self::sign_in::UserSignIns;
use crate::budget::Message;
use crate::error::Error;
use crate::exchange::{Deadline, FrameReading, OnResponse, Patience, RawAnswer, TooLate, with_id};
use crate::old_client;
use crate::protocol::{self, Generation};
use crate::request::Request;
use crate::route::Route;
use crate::session::{Context, Handshake, Lost, Opener, Ownership, Parcel, Session, Unsolicited};
use crate::upstream::Frames;
use crate::wire::{self, Edits, Envelope, Fault, Id, Object};

/// Messages of our own that wait for a client to read. Beyond these, its input waits.
const MAX_UNSAID: usize = 1024;
/// How long requests in flight may still take when the client's input ends.
pub(crate) const GRACE: Duration = Duration::from_millis(400);
/// How long sessions may take to end after that.
const FAREWELL: Duration = Duration::from_millis(900);

/// Clients that read slowly leave room for others up to this number of them.
pub(crate) const CLIENTS: usize = 4;

/// What happens behind a client's back.
enum News {
    /// A server no longer knows a session.
    Lost(Lost),
    /// A session was opened in place of one that was used.
    Renewed(Arc<Session>),
    /// The profiles are described in other words.
    Profiles,
}

/// Everything about one client.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    context: Arc<Context>,
    caller: Arc<Caller>,
    out: Outlet,
    in_flight: AllInFlight,
    questions: Arc<Questions>,
    sign_ins: UserSignIns,
    /// What the server announced in the client's handshake.
    announced: Arc<Announced>,
    /// What the proxy itself has to say, and finds no room for.
    unsaid: Arc<Semaphore>,
    work: TaskTracker,
}

impl Client {
    /// A client whose messages go to `out`. Those that servers send on their own account
    /// are read by a task that ends with it.
    #[must_use]
    pub fn new(shared: Arc<Shared>, ownership: Ownership, out: Outlet) -> Arc<Self> {
        let (unsolicited, mut inbox) = mpsc::channel(16);
        let (lost, mut losses) = mpsc::unbounded_channel();
        let (renewed, mut renewals) = mpsc::unbounded_channel::<Arc<Session>>();
        let work = TaskTracker::new();
        let context = Context {
            upstream: Arc::new(shared.upstream.for_client()),
            handshake: Handshake::default(),
            ownership,
            // A client that speaks line by line is the only one.
            budget: match ownership {
                Ownership::Proxy => shared.messages.clone(),
                Ownership::Hosted | Ownership::Client | Ownership::Nobody => {
                    shared.messages.of_client(CLIENTS)
                }
            },
            metadata: Arc::clone(&shared.metadata),
            unsolicited,
            renewed,
            lost,
            work: work.clone(),
        };
        let context = Arc::new(context);
        let questions = Arc::new(Questions::new(ownership));
        let announced = Arc::<Announced>::default();
        let caller = Caller::new(
            Arc::clone(&announced),
            Arc::clone(&shared),
            Arc::clone(&context),
            Arc::clone(&questions),
            out.clone(),
        );
        let sign_ins = UserSignIns::new(
            Arc::clone(&shared.sign_ins),
            shared.profiles.clone(),
            Arc::clone(&questions),
        );
        let client = Arc::new(Self {
            shared,
            context,
            caller: Arc::new(caller),
            out,
            in_flight: AllInFlight::default(),
            questions,
            sign_ins,
            announced,
            unsaid: Arc::new(Semaphore::new(MAX_UNSAID)),
            work,
        });
        let reader = Arc::downgrade(&client);
        tokio::spawn(async move {
            while let Some(Unsolicited { session, epoch, message }) = inbox.recv().await {
                let Some(client) = reader.upgrade() else { return };
                let from_servers = &client.caller.from_servers;
                from_servers.pass_on(&session, epoch, message, &client.out).await;
            }
        });
        let follower = Arc::downgrade(&client);
        let mut changes = client.shared.metadata.changes();
        let follows = client.shared.offer.is_choice() && ownership != Ownership::Nobody;
        tokio::spawn(async move {
            loop {
                // The senders of the first two end with the client.
                let news = tokio::select! {
                    lost = losses.recv() => lost.map(News::Lost),
                    renewed = renewals.recv() => renewed.map(News::Renewed),
                    changed = changes.changed(), if follows => changed.ok().map(|()| News::Profiles),
                };
                let (Some(news), Some(client)) = (news, follower.upgrade()) else { return };
                client.on_news(news).await;
            }
        });
        client
    }

    /// Ends everything: requests in flight, after `grace`, then the sessions. Within a second after
    /// that, whatever the server does.
    pub async fn close(&self, grace: Duration) {
        self.work.close();
        let _ = tokio::time::timeout(grace, self.work.wait()).await;
        self.in_flight.cancel();
        let sessions = self.take_sessions();
        let closing = sessions.iter().map(|session| session.close());
        let closed = tokio::time::timeout(FAREWELL, futures_util::future::join_all(closing)).await;
        if closed.is_err() {
            tracing::info!("sessions that take long to end are left to themselves");
        }
    }

    /// Takes out all sessions of the client, and whatever stood in for one.
    fn take_sessions(&self) -> Vec<Arc<Session>> {
        let mut sessions = self.caller.sessions.take_all();
        let stand_in = self.caller.stand_ins.leave();
        sessions.extend(stand_in.and_then(|it| it.session.clone()));
        sessions
    }

    /// Takes note of a request, so that it can be cancelled. An error says why it can't be taken.
    pub(crate) fn register(
        &self,
        call: &Request,
        out: Outlet,
    ) -> Result<Arc<InFlight>, &'static str> {
        self.in_flight.register(call, out)
    }

    /// From here on the id is free, and nothing more is said about it.
    pub(crate) fn forget(&self, id: &Id, flight: &Arc<InFlight>) {
        self.in_flight.forget(id, flight);
    }

    /// Where the client's messages go.
    pub(crate) fn out(&self) -> &Outlet {
        &self.out
    }

    /// Does something that the end of the client waits for.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.work.spawn(work);
    }

    /// The response to a request; none if the client cancelled it.
    pub(crate) async fn respond_to(
        self: &Arc<Self>,
        call: &Request,
        flight: &Arc<InFlight>,
    ) -> Option<Message> {
        self.response_to(call, flight).instrument(flight.span.clone()).await
    }

    async fn response_to(
        self: &Arc<Self>,
        call: &Request,
        flight: &Arc<InFlight>,
    ) -> Option<Message> {
        let cancelled = flight.cancel.clone();
        let done = cancelled.run_until_cancelled(self.carry_out(call, flight)).await;
        self.forget(call.id(), flight);
        flight.give_up_opening();
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
        flight: &InFlight,
    ) -> Result<Message, Failed> {
        let resumed = self.sign_ins.resumed(call).await?;
        let call = resumed.as_ref().unwrap_or(call);
        let failed = match self.in_time(call, flight).await {
            Err(failed) => failed,
            done => return done,
        };
        let Some(profile) = failed.login_required().filter(|_| self.can_sign_in(call)) else {
            return Err(failed);
        };
        match self.sign_in(call, profile, flight.out()).await {
            Next::Again => self.in_time(call, flight).await,
            Next::Respond(response) => Ok(response.into()),
            Next::Fail(failed) => Err(failed),
        }
    }

    /// Makes a call, within its time.
    async fn in_time(&self, call: &Request, flight: &InFlight) -> Result<Message, Failed> {
        // Kilobytes, which would be copied each time one of the futures around it is moved.
        let deadline = self.deadline(call);
        let mut patience = self.patience(call, flight, deadline);
        let made = Box::pin(self.caller.call(call, flight, &mut patience));
        match deadline.within(made).await {
            Ok(done) => done,
            Err(TooLate) => Err(self.too_late(call, flight)),
        }
    }

    /// When a call has taken too long.
    pub(crate) fn deadline(&self, call: &Request) -> Deadline {
        self.caller.deadline(call)
    }

    /// Whether the broker gives a profile's signatures by turns, as far as it has said.
    pub(crate) fn is_paced(&self, profile: &crate::config::ProfileName) -> bool {
        self.shared.upstream.is_paced(profile)
    }

    /// How long a call is sent again that the server throttles.
    pub(crate) fn patience(
        &self,
        call: &Request,
        flight: &InFlight,
        deadline: Deadline,
    ) -> Patience {
        Patience::new(call, flight.out(), deadline, self.shared.tool_timeout)
    }

    /// A call has taken too long: nobody waits for its response any more.
    pub(crate) fn too_late(&self, call: &Request, flight: &InFlight) -> Failed {
        self.abandon(call.id(), flight, "the call took too long");
        Failed::TimedOut(self.shared.tool_timeout, flight.sent.is_set())
    }

    /// Where a call goes, once all is known that it takes to tell.
    pub(crate) async fn receive_call(&self, call: &Request) -> Result<Route, Failed> {
        self.caller.receive_call(call).await
    }

    /// Sends a call of a client that speaks HTTP itself, with the client's headers; the client gets
    /// the answer as it came. `on_response` gets the headers of the answer.
    pub(crate) async fn pass(
        &self,
        call: &Request,
        flight: &InFlight,
        route: &Route,
        headers: Passed<'_>,
        patience: &mut Patience,
        on_response: impl Fn(&HeaderMap) -> Option<OnResponse>,
    ) -> Result<RawAnswer, Failed> {
        self.caller.pass(call, flight, route, headers, patience, on_response).await
    }

    /// The rest of the answer to `call`, which an HTTP client takes up again after an event.
    pub(crate) fn resume(
        &self,
        call: &Request,
        after: &str,
        frames: Frames,
    ) -> Result<FrameReading, Error> {
        self.caller.resume(call, after, frames)
    }

    /// The request as it was before its sender was asked to sign in; none if it is another.
    pub(crate) async fn resumed(&self, call: &Request) -> Result<Option<Request>, Failed> {
        self.sign_ins.resumed(call).await
    }

    /// Whether the user behind a call can be sent to a page.
    pub(crate) fn can_sign_in(&self, call: &Request) -> bool {
        self.sign_ins.can_sign_in(call, &self.context.handshake)
    }

    /// What becomes of a call that failed because `profile` needs a sign-in.
    pub(crate) async fn sign_in(
        &self,
        call: &Request,
        profile: &crate::config::ProfileName,
        out: &Outlet,
    ) -> Next {
        self.sign_ins.sign_in(call, profile, out).await
    }

    /// Takes a notification of a client whose messages all come this way.
    pub(crate) fn on_notification(&self, envelope: &Envelope<'_>, message: &Message) {
        let params = envelope.params_object();
        let text = &message.text;
        match envelope.method.as_ref() {
            "notifications/cancelled" => self.cancel(params.as_ref(), text),
            // Its server has heard it from the proxy.
            "notifications/initialized" if self.caller.stand_ins.present().is_some() => {}
            "notifications/initialized" => {
                self.default_session().enqueue(Parcel::initialized(message.clone()));
            }
            "notifications/roots/list_changed" => {
                for session in self.caller.sessions.all() {
                    session.enqueue(Parcel::bound(message.clone()));
                }
            }
            "notifications/progress" => {
                let token = params.as_ref().and_then(|params| params.find("progressToken"));
                match params.as_ref().and_then(|params| self.progress(params, text)) {
                    Some((asker, text)) => asker.reply(message.clone().with(text)),
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

    /// The client no longer wants an answer.
    fn cancel(&self, params: Option<&Object<'_>>, text: &str) {
        let Some(id) = params.and_then(|params| params.find("requestId")) else { return };
        let Some(flight) = self.in_flight.get(&Id::from_token(id)) else { return };
        self.tell_cancelled(&flight, text.to_owned());
        flight.cancel.cancel();
    }

    /// We no longer wait for an answer.
    fn abandon(&self, id: &Id, flight: &InFlight, reason: &str) {
        let params = format!(r#"{{"requestId":{},"reason":{}}}"#, id.token(), wire::quote(reason));
        self.tell_cancelled(flight, wire::notification("notifications/cancelled", Some(&params)));
    }

    /// With sessions, the end of the stream doesn't cancel a request: a notification must, if the
    /// server knows of the request. From 2026-07-28 on, the end of the stream does.
    fn tell_cancelled(&self, flight: &InFlight, text: String) {
        if flight.is_stateless || !flight.sent.is_set() {
            return;
        }
        if let Some(session) = flight.session.get() {
            session.enqueue(Parcel::cancellation(text.into()));
        }
    }

    /// The client's answer to what a server asked.
    pub(crate) fn on_response(&self, envelope: &Envelope<'_>, message: &Message) {
        let given = &message.text;
        if envelope.id.is_some_and(|id| self.questions.answer_ourselves(id, given)) {
            return;
        }
        match envelope.id.and_then(|id| self.questions.take(id)) {
            Some(question) => {
                let text = with_id(given, envelope, &question.id);
                question.asker.reply(message.clone().changed(text));
            }
            None => tracing::warn!("the client answered a request that isn't open"),
        }
    }

    /// The client begins a session: the sessions of an earlier one end, and the client's next
    /// messages wait for the answer.
    pub(crate) fn begin_session(&self, params: Option<&str>) -> Opener {
        self.caller.router.tasks.clear();
        for stale in self.take_sessions() {
            self.work.spawn(async move { stale.close().await });
        }
        if let Some(params) = params {
            self.context.handshake.initialize(params);
        }
        self.default_session().begin()
    }

    async fn on_news(&self, news: News) {
        match news {
            News::Lost(lost) => self.withdraw_lost(&lost).await,
            News::Renewed(session) => self.log_renewal(&session).await,
            News::Profiles if self.announced.lists_change() => {
                self.say(wire::notification("notifications/tools/list_changed", None)).await;
            }
            News::Profiles => {}
        }
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

    /// Has the client log that a session was renewed, where it reads warnings.
    async fn log_renewal(&self, session: &Session) {
        tracing::warn!(profile = %session.profile, "a session was renewed: files of the one before are gone");
        if self.announced.logs_warnings() {
            let params = format!(
                r#"{{"level":"warning","logger":"sigward","data":{}}}"#,
                wire::quote(&session.renewed())
            );
            self.say(wire::notification("notifications/message", Some(&params))).await;
        }
    }

    /// Says something of our own. The input is read on meanwhile: its end must be seen, even while
    /// nobody reads the output.
    pub(crate) async fn say(&self, text: String) {
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

    pub(crate) fn default_session(&self) -> Arc<Session> {
        self.caller.sessions.of_default()
    }

    /// Whether the client's protocol version has batches.
    pub(crate) fn check_batch(&self, batch: &[&str]) -> Result<(), Fault> {
        let session = self.caller.sessions.existing_default();
        let live = session.and_then(|session| session.current());
        let version = live.as_ref().and_then(|live| live.version()).unwrap_or_default();
        if version != ProtocolVersion::V_2025_03_26.as_str() {
            return Err(Fault::NotMessage("batches aren't part of this protocol version"));
        }
        if batch.is_empty() {
            return Err(Fault::NotMessage("an empty batch"));
        }
        Ok(())
    }

    /// Whether the client has a session of its own, and with it, sessions of other profiles.
    pub(crate) fn has_session(&self) -> bool {
        matches!(self.context.ownership, Ownership::Client | Ownership::Hosted)
    }

    /// Whether the proxy has the client's session, which no server gave it.
    pub(crate) fn is_hosted(&self) -> bool {
        self.context.ownership == Ownership::Hosted
    }

    /// Whether no handshake of the client has come to anything.
    pub(crate) fn is_without_handshake(&self) -> bool {
        self.context.handshake.params().is_none()
    }

    /// Whether a call that failed for this can be answered by somebody else.
    pub(crate) fn is_answered_without(&self, call: &Request, failed: &Failed) -> bool {
        let default = self.default_session();
        matches!(failed, Failed::Exchange(error) if self.caller.is_answered_without(call, &default, error))
    }

    /// The client's `initialize`, with these params, was answered by `result`: its session is `id`.
    pub(crate) fn established(&self, params: &str, id: HeaderValue, result: &str) {
        self.announced.learn(result);
        self.context.handshake.initialize(params);
        self.default_session().establish(Some(id), result);
    }

    /// The client's own session has ended, and needs no more ending.
    pub(crate) fn forget_default(&self) {
        if let Some(session) = self.caller.sessions.existing_default() {
            session.forget();
        }
    }

    /// Takes a notification, if it is for a session of another profile; what isn't taken goes on.
    pub(crate) fn take_notification(&self, envelope: &Envelope<'_>, message: &Message) -> bool {
        let text = &message.text;
        let params = envelope.params_object();
        match envelope.method.as_ref() {
            "notifications/cancelled" => {
                let id = params.as_ref().and_then(|params| params.find("requestId"));
                let id = id.map(Id::from_token);
                let flight = id.and_then(|id| self.in_flight.get(&id));
                let Some(flight) = flight else { return false };
                let of_default = flight.session.get().is_none_or(|session| session.is_default);
                if of_default && flight.sent.is_set() {
                    return false;
                }
                self.cancel(params.as_ref(), text);
                true
            }
            "notifications/progress" => {
                let token = params.as_ref().and_then(|params| params.find("progressToken"));
                let is_ours = token.is_some_and(|token| self.questions.gave(token));
                if let Some((asker, text)) = params.as_ref().and_then(|it| self.progress(it, text))
                {
                    asker.reply(message.clone().with(text));
                }
                is_ours
            }
            "notifications/roots/list_changed" => {
                for session in self.caller.sessions.others() {
                    session.enqueue(Parcel::bound(message.clone()));
                }
                false
            }
            _ => false,
        }
    }

    /// Takes a response, if it answers what a session of another profile asked, or the proxy.
    pub(crate) fn take_response(&self, envelope: &Envelope<'_>, message: &Message) -> bool {
        let known = envelope.id.is_some_and(|id| self.questions.gave(id));
        if known {
            self.on_response(envelope, message);
        }
        known
    }
}
