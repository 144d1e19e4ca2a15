//! What answers for the default profile while that can't sign: a client isn't left with a dead server because a sign-in
//! ended during the night.
//!
//! Handshakes and lists need no identity. Where the default profile has no credentials yet, they go over the session of
//! another profile that can sign, else unsigned, where the server takes that. Else the proxy answers them itself: it
//! announces tools alone, with a list that changes, and the list has one tool, which signs in or says what to do. Once
//! the profile can sign, its own session is opened, and the client is told that the list has changed.
//!
//! Invariant: what acts, a call above all, is signed by the profile that it is for, or fails with the reason.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::AbortHandle;

use super::failed::sentence;
use super::sessions::Sessions;
use super::shared::{Outlet, Shared};
use crate::broker::Broker;
use crate::error::Error;
use crate::request::Request;
use crate::session::{Context, Session};
use crate::sync::lock;
use crate::tools::{Catalog, Tool};
use crate::wire::{self, Object};

/// The proxy's own tool.
const TOOL: &str = "sigward_sign_in";
/// The profiles that are tried in place of the default one: whoever starts a client waits for that.
const MAX_TRIED: usize = 4;
/// Versions with sessions, the newest first. The proxy's own answer has the one that the client asked for.
const VERSIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
/// The pause before a broker is asked again that went away.
const PAUSE: Duration = Duration::from_secs(2);
/// The pause before a session is tried again that the server, not the broker, refused.
const AGAIN: Duration = Duration::from_secs(30);

/// What stands in for the default profile of one client.
#[derive(Debug)]
pub(super) struct StandIns {
    shared: Arc<Shared>,
    context: Arc<Context>,
    present: Mutex<Option<Arc<StandIn>>>,
    /// Whether a client was told of the proxy's own tool.
    offers_tool: AtomicBool,
}

/// What answered a client's handshake.
#[derive(Debug)]
pub(super) struct StandIn {
    /// Whose session; none where the proxy answered itself.
    pub(super) session: Option<Arc<Session>>,
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
    pub(super) fn new(shared: Arc<Shared>, context: Arc<Context>) -> Self {
        let (present, offers_tool) = Default::default();
        Self { shared, context, present, offers_tool }
    }

    /// What answered the client's handshake in place of its default profile.
    pub(super) fn present(&self) -> Option<Arc<StandIn>> {
        lock(&self.present).clone()
    }

    /// The client begins another session.
    pub(super) fn leave(&self) -> Option<Arc<StandIn>> {
        lock(&self.present).take()
    }

    /// Whose sessions may take the place of the default one, the best first. The last sends unsigned.
    pub(super) async fn candidates(&self, sessions: &Sessions, why: &Error) -> Vec<Arc<Session>> {
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
        others.map(|profile| sessions.of(profile)).chain(unsigned).collect()
    }

    /// Finds who answers the client's handshake, which is kept: the result of that. The error says why the default
    /// profile doesn't.
    pub(super) async fn answer_handshake(
        &self,
        sessions: &Sessions,
        call: &Request,
        why: Error,
    ) -> Result<(String, Arc<StandIn>), Error> {
        let handshake = &self.context.handshake;
        handshake.want_result();
        let mut found = None;
        for session in self.candidates(sessions, &why).await {
            if session.live().await.is_ok() {
                found = Some(session);
                break;
            }
        }
        let result = match handshake.take_result().filter(|_| found.is_some()) {
            Some(result) => result,
            None if why.may_pass() => {
                found = None;
                self.offers_tool.store(true, Ordering::Relaxed);
                handshake_result(call, &why)
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
        *lock(&self.present) = Some(Arc::clone(&present));
        Ok((result, present))
    }

    /// Has the client told once the default profile can sign.
    pub(super) fn announce_return(
        &self,
        stand_in: &StandIn,
        announces: bool,
        default: Arc<Session>,
        catalog: Arc<Catalog>,
        out: Outlet,
    ) {
        let broker = self.shared.broker.clone();
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
    pub(super) fn own_answer(
        &self,
        call: &Request,
        why: &Error,
        catalog: &Catalog,
    ) -> Option<String> {
        let result = match call.method() {
            "ping" => "{}".to_owned(),
            "tools/list" => {
                self.offers_tool.store(true, Ordering::Relaxed);
                self.tools(call, why, catalog)
            }
            "server/discover" => discovery(call, why)?,
            _ => return None,
        };
        Some(wire::result_response(call.id(), &result))
    }

    /// Whether a call is one of the proxy's own tool.
    pub(super) fn is_own_tool(&self, call: &Request) -> bool {
        self.offers_tool.load(Ordering::Relaxed) && call.tool() == Some(TOOL)
    }

    /// The result of the proxy's own tool, once the profile can sign.
    pub(super) fn tool_result(&self, call: &Request) -> String {
        let profile = self.shared.profiles.default();
        let text = format!(
            "The AWS profile {profile} can sign now. List the tools again: those of the server are there."
        );
        wire::tool_text(call.id(), &text, call.is_stateless())
    }

    /// The list of tools while nobody else has one. It holds for no time at all.
    fn tools(&self, call: &Request, why: &Error, catalog: &Catalog) -> String {
        let tool = Tool { argument: String::new(), read_only: true, headers: Vec::new() };
        let description = format!(
            "Makes the other tools of this server available: they need the AWS profile {}, which can't sign yet. {} Call \
             this once that is done; where the client can open a page for its user, it signs in.",
            self.shared.profiles.default(),
            sentence(&why.to_string())
        );
        let tools = match catalog.check(TOOL, Some(&tool)) {
            Ok(()) => format!(
                r#"{{"name":"{TOOL}","title":"Sign in to AWS","description":{},"inputSchema":{{"type":"object","properties":{{}}}},"annotations":{{"readOnlyHint":true}}}}"#,
                wire::quote(&description)
            ),
            Err(_) => String::new(),
        };
        let cached = if call.is_stateless() { CACHED } else { "" };
        format!(r#"{{"tools":[{tools}]{cached}}}"#)
    }
}

/// Of what the proxy answers in 2026-07-28: it holds for this moment, and for this client.
const CACHED: &str = r#","resultType":"complete","ttlMs":0,"cacheScope":"private""#;

/// Whether a request can be answered by whoever is there: it needs nobody's identity.
pub(super) fn needs_no_identity(call: &Request) -> bool {
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

/// Ends when the default profile's session is open.
async fn returned(broker: &Broker, default: &Arc<Session>) {
    loop {
        if let Ok(mut changes) = broker.watch(&default.profile).await {
            let mut signs = false;
            loop {
                match tokio::time::timeout(AGAIN, changes.message()).await {
                    Ok(Ok(Some(list))) => {
                        let profile = default.profile.as_str();
                        let found = list.profiles.iter().find(|it| it.name == profile);
                        signs = found.is_some_and(|it| it.reason.is_empty());
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

/// What a model reads of the proxy in place of the server.
fn instructions(why: &Error) -> String {
    wire::quote(&format!(
        "The AWS MCP server behind this proxy can't be used yet: {} Its tools appear then.",
        sentence(&why.to_string())
    ))
}

fn server_info() -> String {
    format!(r#"{{"name":"sigward-proxy","version":"{}"}}"#, env!("CARGO_PKG_VERSION"))
}

/// The proxy's own answer to `initialize`. What the server can do beside tools isn't known, and isn't guessed.
fn handshake_result(call: &Request, why: &Error) -> String {
    let params = call.params().and_then(|params| Object::parse(params).ok());
    let asked =
        params.and_then(|params| params.find_string("protocolVersion").map(|it| it.into_owned()));
    let version = VERSIONS.iter().find(|it| asked.as_deref() == Some(**it)).unwrap_or(&VERSIONS[0]);
    format!(
        r#"{{"protocolVersion":"{version}","capabilities":{{"tools":{{"listChanged":true}}}},"serverInfo":{},"instructions":{}}}"#,
        server_info(),
        instructions(why)
    )
}

/// The proxy's own answer to `server/discover`: the version that the client speaks, and tools.
fn discovery(call: &Request, why: &Error) -> Option<String> {
    let crate::protocol::Generation::Stateless(version) = call.generation() else { return None };
    Some(format!(
        r#"{{"supportedVersions":[{}],"capabilities":{{"tools":{{}}}},"instructions":{},"_meta":{{"io.modelcontextprotocol/serverInfo":{}}}{CACHED}}}"#,
        wire::quote(version.to_str().ok()?),
        instructions(why),
        server_info()
    ))
}
