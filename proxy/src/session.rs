//! The MCP session of one profile: opened once, renewed once, closed.
//!
//! The default profile's session is the client's own: its `initialize` is relayed word for word. A
//! session of another profile replays that handshake on first use. However many calls wait for a
//! session, one opens it; calls of other profiles don't wait at all. An opening outlives the call
//! that asked for it.

mod handshake;
mod listen;
mod live;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::{HeaderMap, HeaderValue, Method};
use tokio::sync::mpsc;

pub use self::handshake::Handshake;
pub use self::live::{Live, code_of, error_code};
use crate::budget::Message;
use crate::config::ProfileName;
use crate::error::Error;
use crate::protocol::{self, LAST_EVENT_ID};
use crate::upstream::{Answer, Incoming, Outgoing, Reply, Upstream};
use crate::wire::{self, Envelope, Id, Kind, Object};

/// A message that a server sent on its own account.
#[derive(Debug)]
pub struct Unsolicited {
    /// Whose session it came from.
    pub session: Arc<Session>,
    /// Which of the profile's sessions that was.
    pub generation: u64,
    /// The message.
    pub message: Message,
}

/// Whose the default profile's session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Ours, made of the handshake of a client that knows nothing of sessions. We renew it.
    Proxy,
    /// The client's, that speaks HTTP itself: it opens, renews and ends it.
    Client,
    /// Nobody's: the server has no sessions, or the protocol. All clients are one to us, so nothing
    /// that the server sends on its own account can be passed on.
    Nobody,
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
    /// Where messages of GET streams go.
    pub unsolicited: mpsc::Sender<Unsolicited>,
}

/// A profile's session, open or not.
#[derive(Debug)]
pub struct Session {
    /// Whose.
    pub profile: ProfileName,
    /// Whether it is the client's own.
    pub is_default: bool,
    /// Goes into `_meta` of what the session sends by itself.
    metadata: Vec<(String, String)>,
    context: Arc<Context>,
    state: Mutex<State>,
}

type Opening = Shared<BoxFuture<'static, Result<Arc<Live>, Arc<Error>>>>;

#[derive(Debug, Default)]
struct State {
    live: Option<Arc<Live>>,
    opening: Option<Opening>,
    generation: u64,
    subscriptions: BTreeMap<String, String>,
}

impl Session {
    /// A session that isn't open yet. `metadata` holds JSON text by key.
    #[must_use]
    pub fn new(
        profile: ProfileName,
        is_default: bool,
        metadata: Vec<(String, String)>,
        context: Arc<Context>,
    ) -> Self {
        Self { profile, is_default, metadata, context, state: Mutex::default() }
    }

    /// The open session, if it is open.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Live>> {
        self.lock().live.clone()
    }

    /// The open session, opened if need be.
    pub async fn live(self: &Arc<Self>) -> Result<Arc<Live>, Error> {
        let opening = {
            let mut state = self.lock();
            if let Some(live) = &state.live {
                return Ok(Arc::clone(live));
            }
            match &state.opening {
                Some(opening) => opening.clone(),
                None => {
                    state.generation += 1;
                    let (session, generation) = (Arc::clone(self), state.generation);
                    // A task: the call that asked first may be cancelled, the others still wait.
                    let task = tokio::spawn(async move { session.open(generation).await });
                    let opening = task
                        .map(|done| done.unwrap_or_else(|_| Err(Arc::new(Error::NoAnswer))))
                        .boxed()
                        .shared();
                    state.opening = Some(opening.clone());
                    opening
                }
            }
        };
        opening.await.map_err(Error::Shared)
    }

    /// The session in place of `lost`: one renewal, however many calls found it lost.
    pub async fn renew(self: &Arc<Self>, lost: &Live) -> Result<Arc<Live>, Error> {
        if self.is_default && self.context.ownership != Ownership::Proxy {
            return Err(Error::SessionExpired);
        }
        {
            let mut state = self.lock();
            if state.live.as_ref().is_some_and(|live| live.generation() == lost.generation()) {
                lost.listening.cancel();
                tracing::info!(profile = %self.profile, "the server dropped the session, opening another");
                state.live = None;
            }
        }
        self.live().await
    }

    /// Sends one message over the session. `sent` becomes true before it may leave.
    pub async fn post(
        &self,
        live: &Live,
        text: impl Into<Bytes>,
        sent: &AtomicBool,
    ) -> Result<Answer, Error> {
        let mut headers = protocol::post_headers();
        protocol::bind(&mut headers, live.id.as_ref(), live.version.as_ref());
        self.send(Method::POST, headers, text.into(), sent).await
    }

    /// Sends one message that belongs to no session: `initialize`, and all of 2026-07-28.
    pub async fn post_unbound(
        &self,
        headers: HeaderMap,
        text: impl Into<Bytes>,
        patient: bool,
        sent: &AtomicBool,
    ) -> Result<Answer, Error> {
        let out = Outgoing {
            profile: self.profile.clone(),
            method: Method::POST,
            headers,
            body: text.into(),
            patient,
        };
        self.context.upstream.exchange(out, sent).await
    }

    /// Opens a stream by GET: the one of what the server says on its own account, or the rest of the
    /// one that was cut `after` an event. `patient` is for the former, which may be silent for hours.
    pub async fn stream(
        &self,
        live: &Live,
        after: Option<&str>,
        patient: bool,
    ) -> Result<Answer, Error> {
        let mut headers = HeaderMap::with_capacity(6);
        headers.insert(http::header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        protocol::bind(&mut headers, live.id.as_ref(), live.version.as_ref());
        if let Some(after) = after.and_then(|after| HeaderValue::try_from(after).ok()) {
            headers.insert(LAST_EVENT_ID, after);
        }
        let out = Outgoing {
            profile: self.profile.clone(),
            method: Method::GET,
            headers,
            body: Bytes::new(),
            patient,
        };
        self.context.upstream.exchange(out, &AtomicBool::new(false)).await
    }

    /// The client's own `initialize` was answered with `result`: this is the session now.
    pub fn establish(&self, id: Option<HeaderValue>, result: &str) -> Arc<Live> {
        let mut state = self.lock();
        state.generation += 1;
        let live = Live::opened(id, result, state.generation);
        state.live = Some(Arc::clone(&live));
        live
    }

    /// Opens the stream of what the server has to say on its own account.
    pub fn listen(self: &Arc<Self>, live: &Arc<Live>) {
        if self.context.ownership == Ownership::Nobody {
            return;
        }
        live.opening.send_replace(true);
        let stop = live.listening.clone();
        let (session, live) = (Arc::clone(self), Arc::downgrade(live));
        tokio::spawn(async move {
            stop.run_until_cancelled(listen::listen(session, live)).await;
        });
    }

    /// Keeps a subscription for replay, or drops it.
    pub fn subscribed(&self, uri: &str, params: Option<&str>) {
        let mut state = self.lock();
        match params {
            Some(params) => state.subscriptions.insert(uri.to_owned(), params.to_owned()),
            None => state.subscriptions.remove(uri),
        };
    }

    /// Whoever it belongs to has ended it.
    pub fn forget(&self) {
        self.lock().live = None;
    }

    /// Ends the session: with a DELETE, where the server gave it an id.
    pub async fn close(&self) {
        let opening = self.lock().opening.clone();
        if let Some(opening) = opening {
            let _ = opening.await;
        }
        let live = self.lock().live.take();
        let Some(live) = live else { return };
        live.listening.cancel();
        let Some(id) = &live.id else { return };
        let mut headers = HeaderMap::with_capacity(4);
        protocol::bind(&mut headers, Some(id), live.version.as_ref());
        let answer =
            self.send(Method::DELETE, headers, Bytes::new(), &AtomicBool::new(false)).await;
        if let Err(error) = answer {
            tracing::debug!(profile = %self.profile, %error, "the session's DELETE failed");
        }
    }

    async fn send(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
        sent: &AtomicBool,
    ) -> Result<Answer, Error> {
        let profile = self.profile.clone();
        let out = Outgoing { profile, method, headers, body, patient: false };
        self.context.upstream.exchange(out, sent).await
    }

    async fn open(self: Arc<Self>, generation: u64) -> Result<Arc<Live>, Arc<Error>> {
        let opened = self.replay(generation).await;
        let mut state = self.lock();
        state.opening = None;
        match opened {
            Ok(live) => {
                state.live = Some(Arc::clone(&live));
                Ok(live)
            }
            Err(error) => Err(Arc::new(error)),
        }
    }

    /// Says everything again that the client said.
    async fn replay(self: &Arc<Self>, generation: u64) -> Result<Arc<Live>, Error> {
        let said = self.context.handshake.said();
        let Some(initialize) = said.initialize else {
            // No handshake to replay: the server will say if it wants one.
            return Ok(Live::unbound(generation));
        };
        tracing::debug!(profile = %self.profile, "opening a session");
        let (id, result) = self.handshake(&initialize).await?;
        let live = Live::opened(id, &result, generation);
        if said.initialized {
            let text = wire::notification("notifications/initialized", None);
            self.post(&live, text, &AtomicBool::new(false)).await?;
            self.listen(&live);
        }
        if let Some(level) = said.log_level {
            self.tell(&live, "logging/setLevel", &level).await;
        }
        let subscriptions: Vec<String> = self.lock().subscriptions.values().cloned().collect();
        for params in subscriptions {
            self.tell(&live, "resources/subscribe", &params).await;
        }
        Ok(live)
    }

    async fn handshake(&self, params: &str) -> Result<(Option<HeaderValue>, String), Error> {
        let id = Id::from_token("\"sigward-initialize\"");
        let text = wire::request(&id, "initialize", params);
        let text = wire::with_metadata(text, &self.metadata);
        let answer = self
            .post_unbound(protocol::post_headers(), text, false, &AtomicBool::new(false))
            .await?;
        let session_id = answer.session_id.clone();
        match self.response(answer.reply).await {
            Ok(result) => Ok((session_id, result)),
            Err(Ok(detail)) => Err(Error::Handshake { profile: self.profile.to_string(), detail }),
            Err(Err(error)) => Err(error),
        }
    }

    /// Sends a request of our own whose result doesn't matter.
    pub async fn tell(&self, live: &Live, method: &str, params: &str) {
        let id = Id::from_token("\"sigward-replay\"");
        let text = wire::with_metadata(wire::request(&id, method, params), &self.metadata);
        let told = async {
            let answer = self.post(live, text, &AtomicBool::new(false)).await.map_err(Err)?;
            self.response(answer.reply).await
        };
        if let Err(Err(error)) = told.await {
            tracing::warn!(profile = %self.profile, method, %error, "replaying to a session failed");
        }
    }

    /// The result of a request of our own; `Err(Ok(…))` is the server's error message.
    pub async fn response(&self, reply: Reply) -> Result<String, Result<String, Error>> {
        let mut messages = match reply {
            Reply::Messages(messages) => messages,
            Reply::Accepted => return Err(Err(Error::NoAnswer)),
            Reply::Failure(failure) => {
                return Err(match failure.message.as_deref().and_then(error_message) {
                    Some(message) => Ok(message),
                    None => Err(failure.into()),
                });
            }
        };
        while let Some(incoming) = messages.next().await.map_err(Err)? {
            let Incoming::Message(Message { text, .. }) = &incoming else { continue };
            let Ok(envelope) = Envelope::parse(text) else {
                return Err(Err(Error::NotMessage("not JSON-RPC")));
            };
            if envelope.kind == Kind::Response {
                return match (envelope.result, error_message(text)) {
                    (Some(result), None) => Ok(result.to_owned()),
                    (_, message) => Err(Ok(message.unwrap_or_default())),
                };
            }
        }
        Err(Err(Error::NoAnswer))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The message of a JSON-RPC error.
fn error_message(text: &str) -> Option<String> {
    let envelope = Envelope::parse(text).ok()?;
    let error = Object::parse(envelope.error?).ok()?;
    error.find_string("message").map(std::borrow::Cow::into_owned)
}

/// How long to wait before a stream is taken up again, where the server didn't say.
pub(crate) const RETRY: Duration = Duration::from_secs(1);
/// The shortest such wait: a server that says 0 would have us spin.
pub(crate) const RETRY_MIN: Duration = Duration::from_millis(50);
/// The longest such wait.
const RETRY_MAX: Duration = Duration::from_secs(30);
