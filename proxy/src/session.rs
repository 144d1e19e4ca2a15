//! The MCP session of one profile: opened once, renewed once, ended once.
//!
//! The default profile's session is the client's own: its `initialize` is relayed word for word. A
//! session of another profile replays that handshake on first use. However many calls wait for a
//! session, one opens it; calls of other profiles don't wait at all. An opening outlives the call
//! that asked for it.
//!
//! ```text
//! Closed ──▶ Opening ──▶ Open ──▶ Closed        lost: the server no longer knows it
//!    └──────────┴─────────┴─────▶ Closing       its client has ended; final
//! ```
//!
//! What opens while its client ends is ended as soon as it is open. What the client sends without
//! waiting for an answer goes through the session's `lane`, in order.

mod handshake;
mod lane;
mod link;
mod listen;
mod live;
mod lost;
mod own;
mod ownership;
mod renewal;
mod state;
mod subscriptions;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use http::HeaderValue;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

pub use self::handshake::Handshake;
pub(crate) use self::lane::Parcel;
use self::lane::{Lane, Route};
pub(crate) use self::link::Link;
use self::listen::Listener;
pub(crate) use self::listen::{RETRY, RETRY_MIN};
pub use self::live::Live;
pub(crate) use self::lost::{code_of, is_lost};
pub(crate) use self::own::{Outcome, outcome};
pub use self::ownership::Ownership;
use self::renewal::Renewal;
use self::state::{Opening, Phase, State};
use crate::budget::{Budget, Message};
use crate::config::ProfileName;
use crate::error::Error;
use crate::metadata::Metadata;
use crate::upstream::{Sent, Upstream};
use crate::wire;

/// A message that a server sent on its own account.
#[derive(Debug)]
pub struct Unsolicited {
    /// The session that it came from.
    pub session: Arc<Session>,
    /// Which of the profile's sessions that was.
    pub epoch: u64,
    /// The message.
    pub message: Message,
}

/// A session that its server no longer knows.
#[derive(Debug)]
pub struct Lost {
    /// The session.
    pub session: Arc<Session>,
    /// Which of the profile's sessions that was.
    pub epoch: u64,
}

/// What all sessions of one client share.
#[derive(Debug)]
pub struct Context {
    /// The endpoint.
    pub upstream: Arc<Upstream>,
    /// What to replay.
    pub handshake: Handshake,
    /// Who looks after the default profile's session.
    pub ownership: Ownership,
    /// The client's part of the memory that messages take.
    pub budget: Budget,
    /// What goes into `_meta` of what a session sends by itself.
    pub(crate) metadata: Arc<Metadata>,
    /// Where messages of GET streams go.
    pub unsolicited: mpsc::Sender<Unsolicited>,
    /// Where it is reported that a session was opened in place of one that was used.
    pub renewed: mpsc::UnboundedSender<Arc<Session>>,
    /// Where it is reported that a session is lost.
    pub lost: mpsc::UnboundedSender<Lost>,
    /// The client's work; its end waits for these tasks.
    pub work: TaskTracker,
}

/// A profile's session, open or not.
#[derive(Debug)]
pub struct Session {
    link: Link,
    /// The profile that signs.
    pub profile: ProfileName,
    /// Whether it is the client's own.
    pub is_default: bool,
    context: Arc<Context>,
    state: Mutex<State>,
    lane: Lane,
    renewal: Renewal,
}

impl Session {
    /// A session that isn't open yet.
    #[must_use]
    pub fn new(profile: ProfileName, is_default: bool, context: Arc<Context>) -> Self {
        Self::over(false, profile, is_default, context)
    }

    /// One that signs nothing: for what needs no identity, while the profile can't sign. Nobody's own.
    pub(crate) fn unsigned(profile: ProfileName, context: Arc<Context>) -> Self {
        Self::over(true, profile, false, context)
    }

    fn over(unsigned: bool, profile: ProfileName, is_default: bool, context: Arc<Context>) -> Self {
        let link = Link {
            unsigned,
            profile: profile.clone(),
            upstream: Arc::clone(&context.upstream),
            budget: context.budget.clone(),
            metadata: Arc::clone(&context.metadata),
        };
        let (state, lane) = (Mutex::default(), Lane::default());
        let renewal = Renewal::default();
        Self { link, profile, is_default, context, state, lane, renewal }
    }

    /// The way to the server.
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// The open session, if it is open.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Live>> {
        self.lock().current()
    }

    /// Whether requests can be sent over it, now or in a moment.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.lock().is_in_use()
    }

    /// The open session, opened if need be.
    ///
    /// # Errors
    /// The opening failed, for all who waited for it; or the client has ended.
    pub async fn live(self: &Arc<Self>) -> Result<Arc<Live>, Error> {
        loop {
            let opening = {
                let mut state = self.lock();
                match &state.phase {
                    Phase::Open(live) => return Ok(Arc::clone(live)),
                    Phase::Closing => return Err(Error::SessionEnded),
                    Phase::Opening(opening) => opening.clone(),
                    Phase::Closed => {
                        let opening = self.spawn_opening(state.epoch + 1);
                        state.begin(opening.clone());
                        opening
                    }
                }
            };
            if let Some(live) = opening.await.map_err(Error::Shared)? {
                return Ok(live);
            }
        }
    }

    /// Opens it in a task: the call that asked first may be cancelled, the others still wait.
    fn spawn_opening(self: &Arc<Self>, epoch: u64) -> Opening {
        let opening = Arc::clone(self).open(epoch).in_current_span();
        let task = self.context.work.spawn(opening);
        task.map(|done| done.unwrap_or_else(|_| Err(Arc::new(Error::NoAnswer)))).boxed().shared()
    }

    /// The session in place of `lost`: one renewal, however many calls found it lost.
    pub async fn renew(self: &Arc<Self>, lost: &Live) -> Result<Arc<Live>, Error> {
        self.lose(lost);
        if self.is_default && !self.context.ownership.is_proxy() {
            return Err(Error::SessionExpired);
        }
        self.live().await
    }

    /// The server no longer knows the session `lost`: whoever needs one next opens another.
    pub fn lose(self: &Arc<Self>, lost: &Live) {
        if self.is_default && !self.context.ownership.is_proxy() {
            return;
        }
        if self.lock().lose(lost) {
            lost.listening.cancel();
            tracing::info!(profile = %self.profile, "the server dropped the session");
            let report = Lost { session: Arc::clone(self), epoch: lost.epoch() };
            // It fails only once the client is gone.
            let _ = self.context.lost.send(report);
        }
    }

    /// The client begins its own handshake: its next messages wait for the answer.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Opener {
        let (opened, waiting) = oneshot::channel::<Arc<Live>>();
        let epoch = self.lock().begin(async { Ok(waiting.await.ok()) }.boxed().shared());
        Opener { session: Arc::clone(self), epoch, opened: Some(opened) }
    }

    /// A client that speaks HTTP opened its own session `id`, with this `result`.
    pub fn establish(self: &Arc<Self>, id: Option<HeaderValue>, result: &str) {
        self.begin().established(id, result);
    }

    /// Opens the stream of what the server has to say on its own account.
    pub fn listen(self: &Arc<Self>, live: &Arc<Live>) {
        if self.context.ownership == Ownership::Nobody {
            return;
        }
        live.opening.send_replace(true);
        let stop = live.listening.clone();
        let (session, live) = (Arc::downgrade(self), Arc::clone(live));
        tokio::spawn(async move {
            stop.run_until_cancelled(listen::listen(session, live)).await;
        });
    }

    /// Puts a message without an answer into the lane, behind those that are there.
    pub(crate) fn enqueue(self: &Arc<Self>, parcel: Parcel) {
        if self.lane.enqueue(parcel, &self.profile) {
            let session = Arc::clone(self);
            self.context.work.spawn(async move { session.deliver_all().await });
        }
    }

    /// Sends the messages of the lane, one after the other.
    async fn deliver_all(self: &Arc<Self>) {
        while let Some((message, route)) = self.lane.next() {
            if let Err(error) = self.deliver(message, route).await {
                tracing::warn!(profile = %self.profile, %error, "a notification didn't reach the server");
            }
            self.lane.delivered();
        }
    }

    async fn deliver(self: &Arc<Self>, message: Message, route: Route) -> Result<(), Error> {
        let body = message.into_bytes();
        let live = match route {
            Route::Unbound(headers) => {
                let post = |body: Bytes| {
                    self.link.post_unbound(headers.clone(), body, false, Sent::default())
                };
                return own::notify(&self.link, body, post).await;
            }
            Route::Initialized => {
                let live = self.live().await?;
                self.notify(&live, body).await?;
                self.listen(&live);
                return Ok(());
            }
            Route::Bound if self.is_in_use() => Some(self.live().await?),
            Route::Bound => None,
            Route::Epoch(epoch) => self.current().filter(|live| live.epoch() == epoch),
        };
        match live {
            Some(live) => self.notify(&live, body).await,
            None => {
                tracing::debug!(profile = %self.profile, "no open session for a notification");
                Ok(())
            }
        }
    }

    /// Sends a message without an answer over the session.
    async fn notify(&self, live: &Live, text: impl Into<Bytes>) -> Result<(), Error> {
        let post = |body: Bytes| self.link.post(live, body, Sent::default());
        own::notify(&self.link, text, post).await
    }

    /// Sends a request of the proxy's own whose result doesn't matter.
    pub(crate) async fn tell(&self, live: &Live, method: &str, params: &str) {
        own::tell(&self.link, live, method, params).await;
    }

    /// Waits until the server has accepted the messages that were put into the lane before.
    pub(crate) async fn caught_up(&self) {
        self.lane.caught_up().await;
    }

    /// Keeps a subscription for replay, or drops it.
    pub fn subscribed(&self, uri: &str, params: Option<&str>) {
        if !self.lock().subscriptions.keep(uri, params) {
            tracing::warn!(profile = %self.profile, "a subscription isn't kept: a new session will lack it");
        }
    }

    /// The client that owns the session has ended it.
    pub fn forget(&self) {
        let phase = self.lock().close();
        if let Phase::Open(live) = phase {
            live.listening.cancel();
        }
    }

    /// Ends the session: with a DELETE, where the server gave it an id. What still opens is ended
    /// when it is open.
    pub async fn close(&self) {
        let phase = self.lock().close();
        match phase {
            Phase::Open(live) => self.end(&live).await,
            // Whoever opens it ends it.
            Phase::Opening(opening) => drop(opening.await),
            Phase::Closed | Phase::Closing => {}
        }
    }

    /// Ends one that was open.
    async fn end(&self, live: &Live) {
        live.listening.cancel();
        self.link.end(live).await;
    }

    async fn open(self: Arc<Self>, epoch: u64) -> Result<Option<Arc<Live>>, Arc<Error>> {
        let opened = self.replay(epoch).await;
        let phase = opened.as_ref().map_or(Phase::Closed, |live| Phase::Open(Arc::clone(live)));
        let is_wanted = self.opened(epoch, phase);
        match opened {
            Ok(live) if is_wanted => {
                self.report_renewal();
                Ok(Some(live))
            }
            Ok(live) => {
                self.end(&live).await;
                Err(Arc::new(Error::SessionEnded))
            }
            Err(error) => Err(Arc::new(error)),
        }
    }

    /// A tool is called over the session: its server may keep something for it.
    pub(crate) fn on_call(&self) {
        self.renewal.on_call();
    }

    /// Whether the next result is to say something of the session.
    pub(crate) fn has_notice(&self) -> bool {
        self.renewal.has_notice()
    }

    /// Whether its end is worth to be told: a tool was called over it, or the end of another one wasn't told yet.
    pub(crate) fn was_used(&self) -> bool {
        self.renewal.was_used()
    }

    /// What the next result is to say of the session, once; a JSON object.
    pub(crate) fn take_notice(&self) -> Option<String> {
        self.renewal.take_notice(&self.profile)
    }

    /// What an agent is told of a renewal.
    pub(crate) fn renewed(&self) -> String {
        renewal::message(&self.profile)
    }

    /// A session was opened. Where it takes the place of one that was used, whatever the server kept for that is gone.
    fn report_renewal(self: &Arc<Self>) {
        if self.renewal.on_open() {
            self.replaces_another();
        }
    }

    /// It is in the place of one that was used, of this client or of the same client before.
    pub(crate) fn replaces_another(self: &Arc<Self>) {
        self.renewal.on_replacement();
        // It fails only once the client is gone.
        let _ = self.context.renewed.send(Arc::clone(self));
    }

    /// The end of an opening. False if nobody wants it any more.
    fn opened(&self, epoch: u64, phase: Phase) -> bool {
        self.lock().opened(epoch, phase)
    }

    /// Sends again all that the client sent at the beginning.
    async fn replay(self: &Arc<Self>, epoch: u64) -> Result<Arc<Live>, Error> {
        let kept = self.context.handshake.kept();
        let Some(initialize) = kept.initialize else {
            // No handshake to replay: the server will say if it wants one.
            return Ok(Live::unbound(epoch));
        };
        tracing::debug!(profile = %self.profile, "opening a session");
        let (id, result) = own::handshake(&self.link, &initialize).await?;
        self.context.handshake.answered(&result);
        let live = Live::opened(id, &result, epoch);
        if matches!(self.lock().phase, Phase::Closing) {
            return Ok(live);
        }
        // This handshake is ours, however far the client's own is.
        let text = wire::notification("notifications/initialized", None);
        self.notify(&live, text).await?;
        self.listen(&live);
        if let Some(level) = kept.log_level {
            own::tell(&self.link, &live, "logging/setLevel", &level).await;
        }
        let subscriptions = self.lock().subscriptions.all();
        for params in subscriptions {
            own::tell(&self.link, &live, "resources/subscribe", &params).await;
        }
        Ok(live)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Session {
    fn link(&self) -> &Link {
        &self.link
    }

    async fn take(self: Arc<Self>, epoch: u64, message: Message) -> Option<()> {
        let unsolicited = self.context.unsolicited.clone();
        unsolicited.send(Unsolicited { session: self, epoch, message }).await.ok()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Phase::Open(live) = &self.lock().phase {
            live.listening.cancel();
        }
    }
}

/// The client's own handshake in flight. Dropped, it came to nothing.
#[derive(Debug)]
pub struct Opener {
    session: Arc<Session>,
    epoch: u64,
    opened: Option<oneshot::Sender<Arc<Live>>>,
}

impl Opener {
    /// The handshake was answered with `result`, and the server calls the session `id`.
    pub fn established(mut self, id: Option<HeaderValue>, result: &str) {
        let live = Live::opened(id, result, self.epoch);
        if self.session.opened(self.epoch, Phase::Open(Arc::clone(&live))) {
            if let Some(opened) = self.opened.take() {
                let _ = opened.send(live);
            }
        } else {
            let session = Arc::clone(&self.session);
            self.session.context.work.spawn(async move { session.end(&live).await });
        }
    }
}

impl Opener {
    /// Another session answers the client's handshake. This one opens when it is needed, by a replay.
    pub fn give_way(mut self) {
        if self.opened.take().is_some() {
            self.session.opened(self.epoch, Phase::Closed);
        }
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        if self.opened.take().is_some() && self.session.opened(self.epoch, Phase::Closed) {
            self.session.context.handshake.forget();
        }
    }
}
