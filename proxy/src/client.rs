//! One MCP client: its requests, sessions, questions, sign-ins and share of the memory.
//!
//! A [`Client`] handles its requests concurrently. Invariant: every request gets exactly one response under its own id
//! token, or none if the client cancelled it; a message that needs no change is forwarded unchanged. The parts of a
//! client don't depend on the client, only on the parts that are their fields.

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
pub(crate) use self::call::Forwarding;
pub(crate) use self::failed::{Failed, echoed, fault_response, sentence};
use self::in_flight::AllInFlight;
pub(crate) use self::in_flight::InFlight;
use self::inbound::Inbound;
use self::notices::{Notice, Notices};
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

/// How long requests in flight may continue after the client's input ends.
pub(crate) const GRACE: Duration = Duration::from_millis(400);
/// How long closing the sessions may take after that.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(900);

/// The number of clients that can read slowly at the same time and still leave memory for others.
pub(crate) const CLIENTS: usize = 4;

/// The state of one client.
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
    /// Makes a client whose messages go to `out`. A task that ends with the client reads the
    /// messages that servers send unsolicited.
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
            // A stdio client is the only client of its process.
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

    /// Spawns the task that forwards unsolicited messages of servers.
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

    /// Spawns the task that notifies the client of events outside its own calls.
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
                // The senders of the first two channels are dropped with the client.
                let notice = tokio::select! {
                    lost = losses.recv() => lost.map(Notice::Lost),
                    renewed = renewals.recv() => renewed.map(Notice::Renewed),
                    changed = changes.changed(), if follows => changed.ok().map(|()| Notice::Profiles),
                };
                let (Some(notice), Some(client)) = (notice, client.upgrade()) else { return };
                client.notices.notify(notice).await;
            }
        });
    }

    /// Closes the client: cancels requests that are still in flight after `grace`, then closes the
    /// sessions. The sessions get at most a second, whatever the server does.
    pub async fn close(&self, grace: Duration) {
        self.work.close();
        let _ = tokio::time::timeout(grace, self.work.wait()).await;
        self.in_flight.cancel();
        let sessions = self.take_sessions();
        let closing = sessions.iter().map(|session| session.close());
        let closed =
            tokio::time::timeout(CLOSE_TIMEOUT, futures_util::future::join_all(closing)).await;
        if closed.is_err() {
            tracing::info!("gave up waiting for sessions to end");
        }
    }

    /// Removes and returns all sessions of the client, including one that stood in for the default
    /// session.
    fn take_sessions(&self) -> Vec<Arc<Session>> {
        let mut sessions = self.caller.sessions.take_all();
        sessions.extend(self.caller.stand_ins.remove());
        sessions
    }

    /// Registers a request so that it can be cancelled. The error is the reason for a refusal.
    pub(crate) fn register(
        &self,
        call: &Request,
        out: Outlet,
    ) -> Result<Arc<InFlight>, &'static str> {
        self.in_flight.register(call, out)
    }

    /// Unregisters a request: its id is free again.
    pub(crate) fn forget(&self, id: &Id, flight: &Arc<InFlight>) {
        self.in_flight.forget(id, flight);
    }

    /// The channel to the client.
    pub(crate) fn out(&self) -> &Outlet {
        &self.out
    }

    /// Spawns a task that [`Self::close`] waits for.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.work.spawn(work);
    }

    /// The response to a request, or `None` if the client cancelled it.
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
        // Boxed because it is kilobytes large, and would be copied each time an enclosing future is
        // moved.
        let response = Box::pin(self.carry_out(call, flight));
        let done = cancelled.run_until_cancelled(response).await;
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

    /// Makes a call. If it fails because a person must sign in, and the client can ask its user to,
    /// makes it once more after the sign-in.
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

    /// Makes a call within its deadline.
    async fn in_time(&self, call: &Request, flight: &InFlight) -> Result<Message, Failed> {
        let deadline = self.deadline(call);
        let mut patience = self.patience(call, flight, deadline);
        let made = pin!(self.caller.call(call, flight, &mut patience));
        match deadline.within(made).await {
            Ok(done) => done,
            Err(TooLate) => Err(self.too_late(call, flight)),
        }
    }

    /// The deadline of a call.
    pub(crate) fn deadline(&self, call: &Request) -> Deadline {
        self.caller.deadline(call)
    }

    /// Whether the broker is known to limit the rate of a profile's signatures.
    pub(crate) fn is_paced(&self, profile: &ProfileName) -> bool {
        self.shared.upstream.is_paced(profile)
    }

    /// The limits for repeating a call that the server throttles.
    pub(crate) fn patience(
        &self,
        call: &Request,
        flight: &InFlight,
        deadline: Deadline,
    ) -> Patience {
        Patience::new(call, flight.out(), deadline, self.shared.tool_timeout)
    }

    /// Cancels a call that exceeded its deadline, and returns its failure.
    pub(crate) fn too_late(&self, call: &Request, flight: &InFlight) -> Failed {
        inbound::abandon(call.id(), flight, "the call took too long");
        Failed::TimedOut(self.shared.tool_timeout, flight.sent.is_set())
    }

    /// The route of a call, after loading what routing needs.
    pub(crate) async fn receive_call(&self, call: &Request) -> Result<Route, Failed> {
        self.caller.receive_call(call).await
    }

    /// Sends a call of an HTTP client with the client's headers and returns the server's answer
    /// unchanged. `on_response` gets the headers of the answer.
    pub(crate) async fn forward(
        &self,
        call: &Request,
        flight: &InFlight,
        route: &Route,
        forwarding: Forwarding<'_>,
        patience: &mut Patience,
        on_response: impl Fn(&HeaderMap) -> Option<OnResponse>,
    ) -> Result<RawAnswer, Failed> {
        self.caller.forward(call, flight, route, forwarding, patience, on_response).await
    }

    /// The rest of the answer to `call`, which an HTTP client resumes after an event.
    pub(crate) fn resume(
        &self,
        call: &Request,
        after: &str,
        frames: Frames,
    ) -> Result<FrameReading, Error> {
        self.caller.resume(call, after, frames)
    }

    /// The request as it was before its sender was asked to sign in, or `None` if `call` doesn't
    /// continue a sign-in.
    pub(crate) async fn resumed(&self, call: &Request) -> Result<Option<Request>, Failed> {
        self.sign_ins.resumed(call).await
    }

    /// Whether the client can send the user behind a call to a sign-in page.
    pub(crate) fn can_sign_in(&self, call: &Request) -> bool {
        self.sign_ins.can_sign_in(call, &self.context.handshake)
    }

    /// Signs in for a call that failed because `profile` needs it, and returns how to continue.
    pub(crate) async fn sign_in(
        &self,
        call: &Request,
        profile: &ProfileName,
        out: &Outlet,
    ) -> Next {
        self.sign_ins.sign_in(call, profile, out).await
    }

    /// Handles a notification of a client that sends all its messages through here.
    pub(crate) fn on_notification(&self, envelope: &Envelope<'_>, message: &Message) {
        self.inbound.on_notification(envelope, message);
    }

    /// Handles a notification if it concerns a session of another profile. Returns whether it did;
    /// otherwise the caller forwards it.
    pub(crate) fn take_notification(&self, envelope: &Envelope<'_>, message: &Message) -> bool {
        self.inbound.take_notification(envelope, message)
    }

    /// Handles the client's response to a request of a server.
    pub(crate) fn on_response(&self, envelope: &Envelope<'_>, message: &Message) {
        self.inbound.on_response(envelope, message);
    }

    /// Handles a response if it answers the proxy, or a session of another profile. Returns whether
    /// it did.
    pub(crate) fn take_response(&self, envelope: &Envelope<'_>, message: &Message) -> bool {
        self.inbound.take_response(envelope, message)
    }

    /// Begins a session of the client. The sessions of an earlier one are closed, and the client's
    /// next messages wait for the answer to this handshake.
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

    /// Sends a notification of the proxy itself; it waits while the client doesn't read.
    pub(crate) async fn send_notification(&self, text: String) {
        self.notices.send(text).await;
    }

    /// The session of the default profile.
    pub(crate) fn default_session(&self) -> Arc<Session> {
        self.caller.sessions.of_default()
    }

    /// Checks that the client's protocol version has batches, and that the batch isn't empty.
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

    /// Whether the client has a session, and therefore may have sessions of other profiles.
    pub(crate) fn has_session(&self) -> bool {
        matches!(self.context.ownership, Ownership::Client | Ownership::Hosted)
    }

    /// Whether the proxy itself issued the client's session id.
    pub(crate) fn is_hosted(&self) -> bool {
        self.context.ownership == Ownership::Hosted
    }

    /// Whether the client has no completed handshake.
    pub(crate) fn is_without_handshake(&self) -> bool {
        self.context.handshake.params().is_none()
    }

    /// Whether a call that failed this way can be answered without the default profile.
    pub(crate) fn is_answered_without(&self, call: &Request, failed: &Failed) -> bool {
        let default = self.default_session();
        matches!(failed, Failed::Exchange(error) if StandIns::may_answer(call, &default, error))
    }

    /// Records that the client's `initialize` with `params` was answered by `result`, and that its
    /// session is `id`.
    pub(crate) fn established(&self, params: &str, id: HeaderValue, result: &str) {
        self.announced.learn(result);
        self.context.handshake.initialize(params);
        self.default_session().establish(Some(id), result);
    }

    /// The handshake of a client whose sessions are lost, and the profiles whose sessions were used: what their servers
    /// stored for these sessions is lost. `None` if there is nothing to report.
    pub(crate) fn losses(&self) -> Option<(String, Vec<ProfileName>)> {
        let used = self.caller.sessions.all().into_iter().filter(|session| session.was_used());
        let profiles: Vec<ProfileName> = used.map(|session| session.profile.clone()).collect();
        let params = self.context.handshake.params()?;
        (!profiles.is_empty()).then_some((params, profiles))
    }

    /// Marks the sessions of these profiles as replacements: the client had used sessions of them
    /// before, which are lost.
    pub(crate) fn replaces(&self, profiles: &[ProfileName]) {
        for profile in profiles {
            self.caller.sessions.of(profile).mark_replacement();
        }
    }

    /// Forgets the client's default session, which has already ended.
    pub(crate) fn forget_default(&self) {
        if let Some(session) = self.caller.sessions.existing_default() {
            session.forget();
        }
    }
}
