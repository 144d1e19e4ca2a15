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
mod inbound;
mod learn;
mod listing;
mod notices;
mod outbound;
mod questions;
mod responses;
mod sender;
mod server;
mod sessions;
mod shared;
mod sign_in;
mod stand_in;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use rmcp::model::ProtocolVersion;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use self::announced::Announced;
use self::call::Caller;
pub(crate) use self::call::Passed;
pub(crate) use self::failed::{Failed, echoed, fault_response, sentence};
use self::in_flight::AllInFlight;
pub(crate) use self::in_flight::InFlight;
use self::inbound::Inbound;
use self::notices::{News, Notices};
use self::questions::Questions;
pub use self::shared::{Outlet, Shared};
pub(crate) use self::sign_in::Next;
use self::sign_in::UserSignIns;
use self::stand_in::StandIns;
use crate::budget::Message;
use crate::config::ProfileName;
use crate::error::Error;
use crate::exchange::{Deadline, FrameReading, OnResponse, Patience, RawAnswer, TooLate};
use crate::old_client;
use crate::request::Request;
use crate::route::Route;
use crate::session::{Context, Handshake, Lost, Opener, Ownership, Session, Unsolicited};
use crate::upstream::Frames;
use crate::wire::{Envelope, Fault, Id};

/// How long requests in flight may still take when the client's input ends.
pub(crate) const GRACE: Duration = Duration::from_millis(400);
/// How long sessions may take to end after that.
const FAREWELL: Duration = Duration::from_millis(900);

/// Clients that read slowly leave room for others up to this number of them.
pub(crate) const CLIENTS: usize = 4;

/// Everything about one client.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    context: Arc<Context>,
    caller: Caller,
    out: Outlet,
    in_flight: Arc<AllInFlight>,
    inbound: Inbound,
    notices: Notices,
    sign_ins: UserSignIns,
    /// What the server announced in the client's handshake.
    announced: Arc<Announced>,
    work: TaskTracker,
}

impl Client {
    /// A client whose messages go to `out`. Those that servers send on their own account
    /// are read by a task that ends with it.
    #[must_use]
    pub fn new(shared: Arc<Shared>, ownership: Ownership, out: Outlet) -> Arc<Self> {
        let (unsolicited, inbox) = mpsc::channel(16);
        let (lost, losses) = mpsc::unbounded_channel();
        let (renewed, renewals) = mpsc::unbounded_channel();
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
        let in_flight = Arc::<AllInFlight>::default();
        let inbound = Inbound {
            sessions: Arc::clone(&caller.sessions),
            stand_ins: Arc::clone(&caller.stand_ins),
            questions: Arc::clone(&questions),
            in_flight: Arc::clone(&in_flight),
        };
        let notices = Notices::new(out.clone(), Arc::clone(&announced), questions, work.clone());
        let client = Arc::new(Self {
            shared,
            context,
            caller,
            out,
            in_flight,
            inbound,
            notices,
            sign_ins,
            announced,
            work,
        });
        client.pass_on(inbox);
        client.follow(losses, renewals);
        client
    }

    /// Passes on, in a task, what servers send on their own account.
    fn pass_on(self: &Arc<Self>, mut inbox: mpsc::Receiver<Unsolicited>) {
        let client = Arc::downgrade(self);
        tokio::spawn(async move {
            while let Some(Unsolicited { session, epoch, message }) = inbox.recv().await {
                let Some(client) = client.upgrade() else { return };
                let from_servers = &client.caller.from_servers;
                from_servers.pass_on(&session, epoch, message, &client.out).await;
            }
        });
    }

    /// Notifies the client, in a task, of what happens without a call of its own.
    fn follow(
        self: &Arc<Self>,
        mut losses: mpsc::UnboundedReceiver<Lost>,
        mut renewals: mpsc::UnboundedReceiver<Arc<Session>>,
    ) {
        let mut changes = self.shared.metadata.changes();
        let follows = self.shared.offer.is_choice() && self.context.ownership != Ownership::Nobody;
        let client = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                // The senders of the first two end with the client.
                let news = tokio::select! {
                    lost = losses.recv() => lost.map(News::Lost),
                    renewed = renewals.recv() => renewed.map(News::Renewed),
                    changed = changes.changed(), if follows => changed.ok().map(|()| News::Profiles),
                };
                let (Some(news), Some(client)) = (news, client.upgrade()) else { return };
                client.notices.on_news(news).await;
            }
        });
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
            tracing::info!("gave up waiting for sessions to end");
        }
    }

    /// Takes out all sessions of the client, and whatever stood in for one.
    fn take_sessions(&self) -> Vec<Arc<Session>> {
        let mut sessions = self.caller.sessions.take_all();
        sessions.extend(self.caller.stand_ins.leave());
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
        let response = self.response_to(call, flight).instrument(flight.span.clone()).await;
        if response.is_some() {
            flight.reply();
        }
        response
    }

    async fn response_to(
        self: &Arc<Self>,
        call: &Request,
        flight: &Arc<InFlight>,
    ) -> Option<Message> {
        let cancelled = flight.cancel.clone();
        // Kilobytes, which would be copied each time one of the futures around it is moved.
        let making = Box::pin(self.carry_out(call, flight));
        let done = cancelled.run_until_cancelled(making).await;
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
        match Box::pin(self.sign_in(call, profile, flight.out())).await {
            Next::Again => Box::pin(self.in_time(call, flight)).await,
            Next::Respond(response) => Ok(response.into()),
            Next::Fail(failed) => Err(failed),
        }
    }

    /// Makes a call, within its time.
    async fn in_time(&self, call: &Request, flight: &InFlight) -> Result<Message, Failed> {
        let deadline = self.deadline(call);
        let mut patience = self.patience(call, flight, deadline);
        let made = pin!(self.caller.call(call, flight, &mut patience));
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
    pub(crate) fn is_paced(&self, profile: &ProfileName) -> bool {
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
        inbound::abandon(call.id(), flight, "the call took too long");
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
        profile: &ProfileName,
        out: &Outlet,
    ) -> Next {
        self.sign_ins.sign_in(call, profile, out).await
    }

    /// Takes a notification of a client whose messages all come this way.
    pub(crate) fn on_notification(&self, envelope: &Envelope<'_>, message: &Message) {
        self.inbound.on_notification(envelope, message);
    }

    /// Takes a notification, if it is for a session of another profile; what isn't taken goes on.
    pub(crate) fn take_notification(&self, envelope: &Envelope<'_>, message: &Message) -> bool {
        self.inbound.take_notification(envelope, message)
    }

    /// Takes the client's answer to what a server asked.
    pub(crate) fn on_response(&self, envelope: &Envelope<'_>, message: &Message) {
        self.inbound.on_response(envelope, message);
    }

    /// Takes a response, if it answers what a session of another profile asked, or the proxy.
    pub(crate) fn take_response(&self, envelope: &Envelope<'_>, message: &Message) -> bool {
        self.inbound.take_response(envelope, message)
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

    /// Sends a message of the proxy's own, which waits where nobody reads.
    pub(crate) async fn say(&self, text: String) {
        self.notices.send(text).await;
    }

    /// The session of the default profile.
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
        matches!(failed, Failed::Exchange(error) if StandIns::may_answer(call, &default, error))
    }

    /// The client's `initialize`, with these params, was answered by `result`: its session is `id`.
    pub(crate) fn established(&self, params: &str, id: HeaderValue, result: &str) {
        self.announced.learn(result);
        self.context.handshake.initialize(params);
        self.default_session().establish(Some(id), result);
    }

    /// The handshake of a client whose sessions are lost, and the profiles of those that were used: what their servers
    /// kept for them is gone. None where there is nothing to tell.
    pub(crate) fn losses(&self) -> Option<(String, Vec<ProfileName>)> {
        let used = self.caller.sessions.all().into_iter().filter(|session| session.was_used());
        let profiles: Vec<ProfileName> = used.map(|session| session.profile.clone()).collect();
        let params = self.context.handshake.params()?;
        (!profiles.is_empty()).then_some((params, profiles))
    }

    /// It is a client that had used sessions of these profiles before, which are lost.
    pub(crate) fn replaces(&self, profiles: &[ProfileName]) {
        for profile in profiles {
            self.caller.sessions.of(profile).replaces_another();
        }
    }

    /// The client's own session has ended, and needs no more ending.
    pub(crate) fn forget_default(&self) {
        if let Some(session) = self.caller.sessions.existing_default() {
            session.forget();
        }
    }
}
