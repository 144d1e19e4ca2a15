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
mod subscriptions;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
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
use self::subscriptions::Subscriptions;
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

/// Who looks after the default profile's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// The proxy, for a client that knows nothing of sessions: the proxy renews it.
    Proxy,
    /// The same, for a client that speaks HTTP: its server answered no handshake, and gave it no session.
    Hosted,
    /// The client, which speaks HTTP itself: it opens, renews and ends the session.
    Client,
    /// Nobody: neither the server nor this protocol version has sessions. All clients are one, so
    /// nothing that the server sends on its own account can be passed on.
    Nobody,
}

impl Ownership {
    /// Whether the proxy opens and renews the default profile's session.
    #[must_use]
    pub fn is_proxy(self) -> bool {
        match self {
            Self::Proxy | Self::Hosted => true,
            Self::Client | Self::Nobody => false,
        }
    }
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
    /// Whether a tool was called over the session that is open.
    was_called: AtomicBool,
    /// Whether the next result is to say that the session was renewed.
    has_notice: AtomicBool,
}

/// `None`: the client's own handshake came to nothing.
type Opening = Shared<BoxFuture<'static, Result<Option<Arc<Live>>, Arc<Error>>>>;

#[derive(Debug, Default)]
enum Phase {
    /// Not open yet, or lost: it can be opened.
    #[default]
    Closed,
    /// Its handshake is in flight.
    Opening(Opening),
    /// Requests can be sent over it.
    Open(Arc<Live>),
    /// Its client has ended. Nothing opens any more, and what still opens is ended.
    Closing,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// Counts the sessions that were opened one after the other.
    epoch: u64,
    subscriptions: Subscriptions,
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
        let (was_called, has_notice) = Default::default();
        Self { link, profile, is_default, context, state, lane, was_called, has_notice }
    }

    /// The way to the server.
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// The open session, if it is open.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Live>> {
        match &self.lock().phase {
            Phase::Open(live) => Some(Arc::clone(live)),
            Phase::Closed | Phase::Opening(_) | Phase::Closing => None,
        }
    }

    /// Whether requests can be sent over it, now or in a moment.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        matches!(self.lock().phase, Phase::Opening(_) | Phase::Open(_))
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
                        state.epoch += 1;
                        let (session, epoch) = (Arc::clone(self), state.epoch);
                        // A task: the call that asked first may be cancelled, the others still wait.
                        let task = self.context.work.spawn(session.open(epoch).in_current_span());
                        let opening = task
                            .map(|done| done.unwrap_or_else(|_| Err(Arc::new(Error::NoAnswer))))
                            .boxed()
                            .shared();
                        state.phase = Phase::Opening(opening.clone());
                        opening
                    }
                }
            };
            if let Some(live) = opening.await.map_err(Error::Shared)? {
                return Ok(live);
            }
        }
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
        let mut state = self.lock();
        if matches!(&state.phase, Phase::Open(live) if live.epoch() == lost.epoch()) {
            lost.listening.cancel();
            tracing::info!(profile = %self.profile, "the server dropped the session");
            state.phase = Phase::Closed;
            let report = Lost { session: Arc::clone(self), epoch: lost.epoch() };
            // It fails only once the client is gone.
            let _ = self.context.lost.send(report);
        }
    }

    /// The client begins its own handshake: its next messages wait for the answer.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Opener {
        let (opened, waiting) = oneshot::channel::<Arc<Live>>();
        let mut state = self.lock();
        state.epoch += 1;
        if !matches!(state.phase, Phase::Closing) {
            let opening = async { Ok(waiting.await.ok()) }.boxed().shared();
            state.phase = Phase::Opening(opening);
        }
        let epoch = state.epoch;
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
        if let Phase::Open(live) = std::mem::replace(&mut self.lock().phase, Phase::Closing) {
            live.listening.cancel();
        }
    }

    /// Ends the session: with a DELETE, where the server gave it an id. What still opens is ended
    /// when it is open.
    pub async fn close(&self) {
        let phase = std::mem::replace(&mut self.lock().phase, Phase::Closing);
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
        if !self.was_called.load(Ordering::Relaxed) {
            self.was_called.store(true, Ordering::Relaxed);
        }
    }

    /// What the next result is to say of the session, once; a JSON object.
    pub(crate) fn take_notice(&self) -> Option<String> {
        if !self.has_notice.load(Ordering::Relaxed)
            || !self.has_notice.swap(false, Ordering::Relaxed)
        {
            return None;
        }
        Some(format!(
            r#"{{"event":"session-renewed","profile":{},"message":{}}}"#,
            wire::quote(self.profile.as_str()),
            wire::quote(&self.renewed())
        ))
    }

    /// What an agent is told of a renewal.
    pub(crate) fn renewed(&self) -> String {
        format!(
            "The server had dropped the MCP session of the AWS profile {}, and a new one was opened. Files and other \
             state of the old session are gone.",
            self.profile
        )
    }

    /// A session was opened. Where it takes the place of one that was used, whatever the server kept for that is gone.
    fn report_renewal(self: &Arc<Self>) {
        if self.was_called.swap(false, Ordering::Relaxed) {
            self.has_notice.store(true, Ordering::Relaxed);
            // It fails only once the client is gone.
            let _ = self.context.renewed.send(Arc::clone(self));
        }
    }

    /// The end of an opening. False if nobody wants it any more.
    fn opened(&self, epoch: u64, phase: Phase) -> bool {
        let mut state = self.lock();
        let is_wanted = matches!(state.phase, Phase::Opening(_)) && state.epoch == epoch;
        if is_wanted {
            state.phase = phase;
        }
        is_wanted
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
