//! The MCP session of one profile: opened once, replaced if it is lost, and closed once.
//!
//! The default profile's session belongs to the client: its `initialize` is relayed unchanged. A
//! session of another profile replays that handshake on first use. One call opens a session for all
//! calls that wait for it; calls of other profiles don't wait. An opening continues if the call
//! that started it is cancelled.
//!
//! ```text
//! Closed ──▶ Opening ──▶ Open ──▶ Closed        lost: the server no longer has it
//!    └──────────┴─────────┴─────▶ Closing       its client has closed; final
//! ```
//!
//! If the client closes during an opening, the session is ended as soon as it is open. Messages
//! that expect no response go through the session's `lane`, in order.

mod handshake;
mod lane;
mod link;
mod listen;
mod live;
mod lost;
mod ownership;
mod renewal;
mod requests;
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
pub use self::ownership::Ownership;
use self::renewal::Renewal;
pub(crate) use self::requests::{Outcome, outcome};
use self::state::{Opening, Phase, State};
use crate::budget::{Budget, Message};
use crate::config::ProfileName;
use crate::error::Error;
use crate::metadata::Metadata;
use crate::upstream::{Sent, Upstream};
use crate::wire;

/// An unsolicited message of a server.
#[derive(Debug)]
pub struct Unsolicited {
    /// The session that it came from.
    pub session: Arc<Session>,
    /// The epoch of that session.
    pub epoch: u64,
    /// The message.
    pub message: Message,
}

/// A session that its server no longer has.
#[derive(Debug)]
pub struct Lost {
    /// The session.
    pub session: Arc<Session>,
    /// The epoch of the lost session.
    pub epoch: u64,
}

/// What all sessions of one client share.
#[derive(Debug)]
pub struct Context {
    /// The endpoint.
    pub upstream: Arc<Upstream>,
    /// The messages to replay in a new session.
    pub handshake: Handshake,
    /// Who manages the default profile's session.
    pub ownership: Ownership,
    /// The client's share of the memory for messages.
    pub budget: Budget,
    /// The metadata for `_meta` of the proxy's own requests.
    pub(crate) metadata: Arc<Metadata>,
    /// The channel for messages of GET streams.
    pub unsolicited: mpsc::Sender<Unsolicited>,
    /// The channel for sessions that were opened in place of used ones.
    pub renewed: mpsc::UnboundedSender<Arc<Session>>,
    /// The channel for lost sessions.
    pub lost: mpsc::UnboundedSender<Lost>,
    /// The client's tasks; closing the client waits for them.
    pub work: TaskTracker,
}

/// A profile's session, open or not.
#[derive(Debug)]
pub struct Session {
    link: Link,
    /// The profile that signs.
    pub profile: ProfileName,
    /// Whether it is the session of the default profile, which is the client's own.
    pub is_default: bool,
    context: Arc<Context>,
    state: Mutex<State>,
    lane: Lane,
    renewal: Renewal,
}

impl Session {
    /// Makes a session that isn't open yet.
    #[must_use]
    pub fn new(profile: ProfileName, is_default: bool, context: Arc<Context>) -> Self {
        Self::over(false, profile, is_default, context)
    }

    /// Makes a session that signs nothing, for requests that need no identity while the profile can't sign.
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

    /// The connection to the server.
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// The open session, if it is open.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Live>> {
        self.lock().current()
    }

    /// Whether the session is open or opening.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.lock().is_in_use()
    }

    /// The open session; opens it if necessary.
    ///
    /// # Errors
    /// The opening failed, for all callers that waited for it, or the client has closed.
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

    /// Opens the session in a task: the call that started it may be cancelled while others wait.
    fn spawn_opening(self: &Arc<Self>, epoch: u64) -> Opening {
        let opening = Arc::clone(self).open(epoch).in_current_span();
        let task = self.context.work.spawn(opening);
        task.map(|done| done.unwrap_or_else(|_| Err(Arc::new(Error::NoAnswer)))).boxed().shared()
    }

    /// The session that replaces `lost`. All callers that found it lost share one renewal.
    pub async fn renew(self: &Arc<Self>, lost: &Live) -> Result<Arc<Live>, Error> {
        self.lose(lost);
        if self.is_default && !self.context.ownership.is_proxy() {
            return Err(Error::SessionExpired);
        }
        self.live().await
    }

    /// Marks the session `lost` as lost, because the server no longer has it. The next request
    /// opens another.
    pub fn lose(self: &Arc<Self>, lost: &Live) {
        if self.is_default && !self.context.ownership.is_proxy() {
            return;
        }
        if self.lock().lose(lost) {
            lost.listening.cancel();
            tracing::info!(profile = %self.profile, "the server dropped the session");
            let report = Lost { session: Arc::clone(self), epoch: lost.epoch() };
            // It fails only if the client is gone.
            let _ = self.context.lost.send(report);
        }
    }

    /// Begins the client's own handshake: the client's next messages wait for the answer.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Opener {
        let (opened, waiting) = oneshot::channel::<Arc<Live>>();
        let epoch = self.lock().begin(async { Ok(waiting.await.ok()) }.boxed().shared());
        Opener { session: Arc::clone(self), epoch, opened: Some(opened) }
    }

    /// Records that an HTTP client opened its own session `id`, with this `result`.
    pub fn establish(self: &Arc<Self>, id: Option<HeaderValue>, result: &str) {
        self.begin().established(id, result);
    }

    /// Opens the stream of unsolicited messages.
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

    /// Appends a message that expects no response to the lane.
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
                return requests::notify(&self.link, body, post).await;
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

    /// Sends a message that expects no response over the session.
    async fn notify(&self, live: &Live, text: impl Into<Bytes>) -> Result<(), Error> {
        let post = |body: Bytes| self.link.post(live, body, Sent::default());
        requests::notify(&self.link, text, post).await
    }

    /// Sends a request of the proxy whose result is ignored.
    pub(crate) async fn send_request(&self, live: &Live, method: &str, params: &str) {
        requests::send_request(&self.link, live, method, params).await;
    }

    /// Waits until the server has accepted the messages that were put into the lane before.
    pub(crate) async fn wait_for_delivery(&self) {
        self.lane.wait_for_delivery().await;
    }

    /// Stores a subscription for replay; without params, removes it.
    pub fn subscribed(&self, uri: &str, params: Option<&str>) {
        if !self.lock().subscriptions.keep(uri, params) {
            tracing::warn!(profile = %self.profile, "a subscription isn't stored: a new session won't have it");
        }
    }

    /// Closes the state without a DELETE: the client that owns the session has ended it.
    pub fn forget(&self) {
        let phase = self.lock().close();
        if let Phase::Open(live) = phase {
            live.listening.cancel();
        }
    }

    /// Closes the session, with a DELETE if the server gave it an id. If it is opening, waits for
    /// that first.
    pub async fn close(&self) {
        let phase = self.lock().close();
        match phase {
            Phase::Open(live) => self.end(&live).await,
            // The task that opens it ends it.
            Phase::Opening(opening) => drop(opening.await),
            Phase::Closed | Phase::Closing => {}
        }
    }

    /// Ends a session that was open.
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

    /// Records that a tool is called over the session: its server may store state for it.
    pub(crate) fn on_call(&self) {
        self.renewal.on_call();
    }

    /// Whether the next result carries a notice about the session.
    pub(crate) fn has_notice(&self) -> bool {
        self.renewal.has_notice()
    }

    /// Whether the loss of the session must be reported: a tool was called over it, or a replacement wasn't reported
    /// yet.
    pub(crate) fn was_used(&self) -> bool {
        self.renewal.was_used()
    }

    /// The notice for the next result, as a JSON object. It is returned once.
    pub(crate) fn take_notice(&self) -> Option<String> {
        self.renewal.take_notice(&self.profile)
    }

    /// The text that tells an agent about a renewal.
    pub(crate) fn renewed(&self) -> String {
        renewal::message(&self.profile)
    }

    /// Reports a renewal if the session replaces a used one, whose state at the server is lost.
    fn report_renewal(self: &Arc<Self>) {
        if self.renewal.on_open() {
            self.mark_replacement();
        }
    }

    /// Records that the session replaces a used one, of this client or of its predecessor.
    pub(crate) fn mark_replacement(self: &Arc<Self>) {
        self.renewal.on_replacement();
        // It fails only if the client is gone.
        let _ = self.context.renewed.send(Arc::clone(self));
    }

    /// Ends an opening. Returns false if the session is no longer wanted.
    fn opened(&self, epoch: u64, phase: Phase) -> bool {
        self.lock().opened(epoch, phase)
    }

    /// Replays the client's handshake, log level and subscriptions.
    async fn replay(self: &Arc<Self>, epoch: u64) -> Result<Arc<Live>, Error> {
        let stored = self.context.handshake.stored();
        let Some(initialize) = stored.initialize else {
            // There is no handshake to replay; the server reports an error if it needs one.
            return Ok(Live::unbound(epoch));
        };
        tracing::debug!(profile = %self.profile, "opening a session");
        let (id, result) = requests::handshake(&self.link, &initialize).await?;
        self.context.handshake.answered(&result);
        let live = Live::opened(id, &result, epoch);
        if matches!(self.lock().phase, Phase::Closing) {
            return Ok(live);
        }
        // This handshake is the proxy's, whatever the state of the client's own.
        let text = wire::notification("notifications/initialized", None);
        self.notify(&live, text).await?;
        self.listen(&live);
        if let Some(level) = stored.log_level {
            requests::send_request(&self.link, &live, "logging/setLevel", &level).await;
        }
        let subscriptions = self.lock().subscriptions.all();
        for params in subscriptions {
            requests::send_request(&self.link, &live, "resources/subscribe", &params).await;
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

/// The client's own handshake in flight. Dropping it without an answer closes the session.
#[derive(Debug)]
pub struct Opener {
    session: Arc<Session>,
    epoch: u64,
    opened: Option<oneshot::Sender<Arc<Live>>>,
}

impl Opener {
    /// Opens the session: the handshake was answered with `result`, and the server gave it `id`.
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
    /// Closes the session because another one answers the client's handshake. A replay opens it when it is needed.
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
