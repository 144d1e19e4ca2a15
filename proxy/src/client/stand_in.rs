//! Answers for the default profile while that can't sign, so that an expired sign-in doesn't leave a client with a dead
//! server.
//!
//! Handshakes and lists need no identity. While the default profile has no credentials, they use the session of another
//! profile that can sign, or else are sent unsigned if the server accepts that. Otherwise the proxy answers them
//! itself: it announces only tools, with a list that can change, and the list has one tool, which signs in or reports
//! what to do. Once the profile can sign, its own session is opened and the client is notified that the list has
//! changed.
//!
//! Invariant: a request that acts, above all a tool call, is signed by the profile that it is for, or fails with the
//! reason.

mod answers;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sigward_proto::v1::Reason;
use tokio::task::AbortHandle;

use self::answers::TOOL;
use super::announced::Announced;
use super::outbound::Outbound;
use super::sender::Sender;
use super::sessions::Sessions;
use super::shared::{Outlet, Shared};
use crate::broker::Broker;
use crate::budget::Message;
use crate::error::Error;
use crate::exchange::{Deadline, Patience, Response};
use crate::protocol::Generation;
use crate::request::Request;
use crate::session::{Context, Session};
use crate::sync::lock;
use crate::tools::Catalog;
use crate::wire;

/// The most profiles that are tried in place of the default one: the client's start waits for them.
const MAX_TRIED: usize = 4;
/// The pause before reconnecting to a broker that went away.
const BROKER_PAUSE: Duration = Duration::from_secs(2);
/// The pause before retrying a session that the server, not the broker, refused.
const SESSION_PAUSE: Duration = Duration::from_secs(30);
/// The same, where only a retry shows whether credentials are available again.
const CREDENTIALS_PAUSE: Duration = Duration::from_secs(10);
/// The limit for opening another session while AWS can't be reached: the server may be unreachable, too, and a client's
/// start must not wait for the connection timeout.
const OPEN_LIMIT: Duration = Duration::from_secs(5);

/// What stands in for the default profile of one client.
#[derive(Debug)]
pub(super) struct StandIns {
    pub(super) shared: Arc<Shared>,
    pub(super) context: Arc<Context>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) announced: Arc<Announced>,
    pub(super) sender: Arc<Sender>,
    /// The channel for the notification that the profile can sign.
    pub(super) out: Outlet,
    pub(super) current: Current,
}

/// The current stand-in.
#[derive(Debug, Default)]
pub(super) struct Current {
    stand_in: Mutex<Option<Arc<StandIn>>>,
    /// Whether the client was shown the proxy's own tool.
    offers_tool: AtomicBool,
}

/// What answered a client's handshake.
#[derive(Debug)]
struct StandIn {
    /// The session that answered; `None` if the proxy answered itself.
    session: Option<Arc<Session>>,
    watch: Mutex<Option<AbortHandle>>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if let Some(watch) = lock(&self.watch).take() {
            watch.abort();
        }
    }
}

impl StandIns {
    /// What answered the client's handshake in place of its default profile.
    fn current(&self) -> Option<Arc<StandIn>> {
        lock(&self.current.stand_in).clone()
    }

    /// Whether the default profile didn't answer the client's handshake itself.
    pub(super) fn is_active(&self) -> bool {
        self.current().is_some()
    }

    /// Removes the stand-in, because the client begins another session. Returns its session, if it
    /// has one.
    pub(super) fn remove(&self) -> Option<Arc<Session>> {
        let left = lock(&self.current.stand_in).take();
        left.and_then(|it| it.session.clone())
    }

    /// Answers the client's own handshake. `why` is the error of the default profile.
    pub(super) async fn initialize(&self, call: &Request, why: Error) -> Result<Message, Error> {
        let (result, current) = self.answer_handshake(call, why).await?;
        self.announced.learn(&result);
        self.announce_return(&current);
        Ok(wire::result_response(call.id(), &result).into())
    }

    /// Whether a call over `session` that can't be signed may be answered without the default profile: it needs no
    /// identity.
    pub(super) fn may_answer(call: &Request, session: &Session, why: &Error) -> bool {
        session.is_default && why.cannot_sign() && needs_no_identity(call)
    }

    /// The answer to such a call.
    pub(super) async fn answer(
        &self,
        request: &Outbound<'_>,
        why: Error,
    ) -> Result<Message, Error> {
        let why = match self.answer_by_others(request, why).await {
            Err(why) if why.is_recoverable() => why,
            done => return done,
        };
        // A handshake of the profile itself, or of another one, announced more than the proxy can
        // offer.
        let is_ours = request.call.is_stateless()
            || self.current().is_some_and(|current| current.session.is_none());
        let own = || self.own_answer(request.call, &why);
        match is_ours.then(own).flatten() {
            Some(answer) => Ok(answer.into()),
            None => Err(why),
        }
    }

    /// The answer over another session; `why`, the default profile's error, if there is none.
    pub(super) async fn answer_by_others(
        &self,
        request: &Outbound<'_>,
        why: Error,
    ) -> Result<Message, Error> {
        let limit = self.shared.tool_timeout;
        let mut patience = Patience::new(request.call, request.out, Deadline::none(), limit);
        match request.call.generation() {
            Generation::Sessions => {
                let current = self.current();
                match current.as_ref().and_then(|current| current.session.as_ref()) {
                    Some(session) => {
                        let request = request.over(session);
                        self.sender.over_session(&request, true, &mut patience, None).await
                    }
                    None => Err(why),
                }
            }
            Generation::Stateless(version) => {
                for session in self.candidates(&why).await {
                    let request = request.over(&session);
                    let once = self.sender.once(&request, version, &[], &mut patience, None);
                    let answer = in_time(&why, once).await;
                    if let Some(Ok(Response { message, code: None })) = answer {
                        return Ok(message);
                    }
                }
                Err(why)
            }
        }
    }

    /// The sessions that can replace the default one, the best first. The last sends unsigned.
    async fn candidates(&self, why: &Error) -> Vec<Arc<Session>> {
        let default = self.shared.profiles.default();
        let known = self.shared.broker.profiles(default).await.unwrap_or_default();
        // A reason tells why a profile can't sign.
        let signs = |name: &str| known.iter().any(|it| it.name == name && it.reason.is_empty());
        let others = self.shared.profiles.all().iter().filter(|profile| *profile != default);
        let others = others.filter(|profile| signs(profile.as_str())).take(MAX_TRIED);
        let unsigned = || {
            let context = Arc::clone(&self.context);
            Arc::new(Session::unsigned(default.clone(), context))
        };
        let unsigned = why.is_recoverable().then(unsigned);
        others.map(|profile| self.sessions.of(profile)).chain(unsigned).collect()
    }

    /// Finds and stores what answers the client's handshake, and returns the result.
    async fn answer_handshake(
        &self,
        call: &Request,
        why: Error,
    ) -> Result<(String, Arc<StandIn>), Error> {
        let handshake = &self.context.handshake;
        handshake.want_result();
        let mut found = None;
        for session in self.candidates(&why).await {
            if in_time(&why, session.live()).await.is_some_and(|live| live.is_ok()) {
                found = Some(session);
                break;
            }
        }
        let result = match handshake.take_result().filter(|_| found.is_some()) {
            Some(result) => result,
            None if why.is_recoverable() => {
                found = None;
                self.current.offers_tool.store(true, Ordering::Relaxed);
                answers::handshake_result(call, &why)
            }
            None => {
                handshake.forget();
                return Err(why);
            }
        };
        let profile = self.shared.profiles.default();
        match &found {
            Some(session) => {
                tracing::warn!(%profile, by = %session.profile, "the handshake was answered without the profile: {why}");
            }
            None => tracing::warn!(%profile, "the proxy answered the handshake itself: {why}"),
        }
        let current = Arc::new(StandIn { session: found, watch: Mutex::default() });
        *lock(&self.current.stand_in) = Some(Arc::clone(&current));
        Ok((result, current))
    }

    /// Spawns a task that notifies the client once the default profile can sign.
    fn announce_return(&self, stand_in: &StandIn) {
        let (default, broker) = (self.sessions.of_default(), self.shared.broker.clone());
        let (catalog, out) = (Arc::clone(&self.catalog), self.out.clone());
        let announces = self.announced.lists_change();
        let watch = tokio::spawn(async move {
            wait_until_open(&broker, &default).await;
            tracing::info!(profile = %default.profile, "the profile can sign now");
            catalog.clear();
            if announces {
                let changed = wire::notification("notifications/tools/list_changed", None);
                // It fails only if the client is gone.
                let _ = out.send(changed.into()).await;
            }
        });
        *lock(&stand_in.watch) = Some(watch.abort_handle());
    }

    /// The proxy's own answer to a request that needs no identity; `None` if it has none.
    fn own_answer(&self, call: &Request, why: &Error) -> Option<String> {
        let result = match call.method() {
            "ping" => "{}".to_owned(),
            "tools/list" => {
                self.current.offers_tool.store(true, Ordering::Relaxed);
                answers::tools(call, why, self.shared.profiles.default(), &self.catalog)
            }
            "server/discover" => answers::discovery(call, why)?,
            _ => return None,
        };
        Some(wire::result_response(call.id(), &result))
    }

    /// Whether a call is for the proxy's own tool.
    pub(super) fn is_own_tool(&self, call: &Request) -> bool {
        self.current.offers_tool.load(Ordering::Relaxed) && call.tool() == Some(TOOL)
    }

    /// The result of the proxy's own tool, once the profile can sign.
    pub(super) fn tool_result(&self, call: &Request) -> String {
        answers::tool_result(call, self.shared.profiles.default())
    }
}

/// Whether a request needs no identity, so that any session may answer it.
fn needs_no_identity(call: &Request) -> bool {
    matches!(
        call.method(),
        "ping"
            | "server/discover"
            | "tools/list"
            | "resources/list"
            | "resources/templates/list"
            | "prompts/list"
            | "logging/setLevel"
    )
}

/// Waits for another session's answer, with a limit if AWS can't be reached.
async fn in_time<T>(why: &Error, answer: impl Future<Output = T>) -> Option<T> {
    match why.recovers_by_itself() {
        true => tokio::time::timeout(OPEN_LIMIT, answer).await.ok(),
        false => Some(answer.await),
    }
}

/// Returns when the default profile's session is open.
async fn wait_until_open(broker: &Broker, default: &Arc<Session>) {
    loop {
        if let Ok(mut changes) = broker.watch(&default.profile).await {
            let (mut signs, mut pause) = (false, SESSION_PAUSE);
            loop {
                match tokio::time::timeout(pause, changes.message()).await {
                    Ok(Ok(Some(list))) => {
                        let profile = default.profile.as_str();
                        let found = list.profiles.iter().find(|it| it.name == profile);
                        let reason = found.map(|it| it.reason.as_str());
                        // Without credentials, the broker reloads nothing by itself and sends no further change.
                        let recovers = reason == Some(Reason::CredentialsUnavailable.name());
                        signs = recovers || reason == Some("");
                        pause = if recovers { CREDENTIALS_PAUSE } else { SESSION_PAUSE };
                    }
                    Ok(Ok(None) | Err(_)) => break,
                    // No change within the pause.
                    Err(_) => {}
                }
                if signs && default.live().await.is_ok() {
                    return;
                }
            }
        }
        tokio::time::sleep(BROKER_PAUSE).await;
    }
}
