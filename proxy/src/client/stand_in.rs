//! What answers for the default profile while that can't sign: a client isn't left with a dead server because a sign-in
//! ended during the night.
//!
//! Handshakes and lists need no identity. Where the default profile has no credentials yet, they go over the session of
//! another profile that can sign, else unsigned, where the server takes that. Else the proxy answers them itself: it
//! announces tools alone, with a list that changes, and the list has one tool, which signs in or says what to do. Once
//! the profile can sign, its own session is opened, and the client is told that the list has changed.
//!
//! Invariant: what acts, a call above all, is signed by the profile that it is for, or fails with the reason.

mod own;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sigward_proto::v1::Reason;
use tokio::task::AbortHandle;

use self::own::TOOL;
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

/// The profiles that are tried in place of the default one: whoever starts a client waits for that.
const MAX_TRIED: usize = 4;
/// The pause before a broker is asked again that went away.
const PAUSE: Duration = Duration::from_secs(2);
/// The pause before a session is tried again that the server, not the broker, refused.
const AGAIN: Duration = Duration::from_secs(30);
/// The same, where nothing but another try shows that credentials can be had again.
const SOON: Duration = Duration::from_secs(10);
/// How long another session may take to open where AWS can't be reached: the server may be as far away, and a client doesn't
/// wait for its start for as long as a connection may take.
const AWAY: Duration = Duration::from_secs(5);

/// What stands in for the default profile of one client.
#[derive(Debug)]
pub(super) struct StandIns {
    pub(super) shared: Arc<Shared>,
    pub(super) context: Arc<Context>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) announced: Arc<Announced>,
    pub(super) sender: Arc<Sender>,
    /// Where the client is told that the profile can sign.
    pub(super) out: Outlet,
    pub(super) present: Present,
}

/// What there is of it now.
#[derive(Debug, Default)]
pub(super) struct Present {
    stand_in: Mutex<Option<Arc<StandIn>>>,
    /// Whether a client was told of the proxy's own tool.
    offers_tool: AtomicBool,
}

/// What answered a client's handshake.
#[derive(Debug)]
struct StandIn {
    /// Whose session; none where the proxy answered itself.
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
    fn present(&self) -> Option<Arc<StandIn>> {
        lock(&self.present.stand_in).clone()
    }

    /// Whether something else than the default profile answered the client's handshake.
    pub(super) fn is_present(&self) -> bool {
        self.present().is_some()
    }

    /// The client begins another session: the one that answered, if it was another profile's.
    pub(super) fn leave(&self) -> Option<Arc<Session>> {
        let left = lock(&self.present.stand_in).take();
        left.and_then(|it| it.session.clone())
    }

    /// Answers the client's own handshake. The error says `why` the default profile doesn't.
    pub(super) async fn initialize(&self, call: &Request, why: Error) -> Result<Message, Error> {
        let (result, present) = self.answer_handshake(call, why).await?;
        self.announced.learn(&result);
        self.announce_return(&present);
        Ok(wire::result_response(call.id(), &result).into())
    }

    /// Whether somebody else may answer a call over `session` that can't be signed: it needs nobody's identity.
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
            Err(why) if why.may_pass() => why,
            done => return done,
        };
        // A handshake of the profile's own, or of another one, promised more than the proxy has.
        let is_ours = request.call.is_stateless()
            || self.present().is_some_and(|present| present.session.is_none());
        let own = || self.own_answer(request.call, &why);
        match is_ours.then(own).flatten() {
            Some(answer) => Ok(answer.into()),
            None => Err(why),
        }
    }

    /// The same by another session; where there is none, the error `why` there is none of the default profile.
    pub(super) async fn answer_by_others(
        &self,
        request: &Outbound<'_>,
        why: Error,
    ) -> Result<Message, Error> {
        let limit = self.shared.tool_timeout;
        let mut patience = Patience::new(request.call, request.out, Deadline::none(), limit);
        match request.call.generation() {
            Generation::Sessions => {
                let present = self.present();
                match present.as_ref().and_then(|present| present.session.as_ref()) {
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

    /// Whose sessions may take the place of the default one, the best first. The last sends unsigned.
    async fn candidates(&self, why: &Error) -> Vec<Arc<Session>> {
        let default = self.shared.profiles.default();
        let known = self.shared.broker.profiles(default).await.unwrap_or_default();
        // A reason says why a profile can't sign.
        let signs = |name: &str| known.iter().any(|it| it.name == name && it.reason.is_empty());
        let others = self.shared.profiles.all().iter().filter(|profile| *profile != default);
        let others = others.filter(|profile| signs(profile.as_str())).take(MAX_TRIED);
        let unsigned = || {
            let context = Arc::clone(&self.context);
            Arc::new(Session::unsigned(default.clone(), context))
        };
        let unsigned = why.may_pass().then(unsigned);
        others.map(|profile| self.sessions.of(profile)).chain(unsigned).collect()
    }

    /// Finds who answers the client's handshake, which is kept: the result of that.
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
            None if why.may_pass() => {
                found = None;
                self.present.offers_tool.store(true, Ordering::Relaxed);
                own::handshake_result(call, &why)
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
        let present = Arc::new(StandIn { session: found, watch: Mutex::default() });
        *lock(&self.present.stand_in) = Some(Arc::clone(&present));
        Ok((result, present))
    }

    /// Has the client told once the default profile can sign.
    fn announce_return(&self, stand_in: &StandIn) {
        let (default, broker) = (self.sessions.of_default(), self.shared.broker.clone());
        let (catalog, out) = (Arc::clone(&self.catalog), self.out.clone());
        let announces = self.announced.lists_change();
        let watch = tokio::spawn(async move {
            returned(&broker, &default).await;
            tracing::info!(profile = %default.profile, "the profile can sign now");
            catalog.clear();
            if announces {
                let changed = wire::notification("notifications/tools/list_changed", None);
                // It fails where the client is gone.
                let _ = out.send(changed.into()).await;
            }
        });
        *lock(&stand_in.watch) = Some(watch.abort_handle());
    }

    /// The proxy's own answer to a request that needs no identity; none where it has none.
    fn own_answer(&self, call: &Request, why: &Error) -> Option<String> {
        let result = match call.method() {
            "ping" => "{}".to_owned(),
            "tools/list" => {
                self.present.offers_tool.store(true, Ordering::Relaxed);
                own::tools(call, why, self.shared.profiles.default(), &self.catalog)
            }
            "server/discover" => own::discovery(call, why)?,
            _ => return None,
        };
        Some(wire::result_response(call.id(), &result))
    }

    /// Whether a call is one of the proxy's own tool.
    pub(super) fn is_own_tool(&self, call: &Request) -> bool {
        self.present.offers_tool.load(Ordering::Relaxed) && call.tool() == Some(TOOL)
    }

    /// The result of the proxy's own tool, once the profile can sign.
    pub(super) fn tool_result(&self, call: &Request) -> String {
        own::tool_result(call, self.shared.profiles.default())
    }
}

/// Whether a request can be answered by whoever is there: it needs nobody's identity.
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

/// What another session answers, while it is worth to be waited for.
async fn in_time<T>(why: &Error, answer: impl Future<Output = T>) -> Option<T> {
    match why.passes_by_itself() {
        true => tokio::time::timeout(AWAY, answer).await.ok(),
        false => Some(answer.await),
    }
}

/// Ends when the default profile's session is open.
async fn returned(broker: &Broker, default: &Arc<Session>) {
    loop {
        if let Ok(mut changes) = broker.watch(&default.profile).await {
            let (mut signs, mut pause) = (false, AGAIN);
            loop {
                match tokio::time::timeout(pause, changes.message()).await {
                    Ok(Ok(Some(list))) => {
                        let profile = default.profile.as_str();
                        let found = list.profiles.iter().find(|it| it.name == profile);
                        let reason = found.map(|it| it.reason.as_str());
                        // The broker loads nothing by itself where it has no credentials, and says no more of it.
                        let passes = reason == Some(Reason::CredentialsUnavailable.name());
                        signs = passes || reason == Some("");
                        pause = if passes { SOON } else { AGAIN };
                    }
                    Ok(Ok(None) | Err(_)) => break,
                    // No change.
                    Err(_) => {}
                }
                if signs && default.live().await.is_ok() {
                    return;
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
