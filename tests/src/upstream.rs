//! A local MCP server that verifies every signature, with responses that a test can script.
//!
//! It speaks both versions of the protocol on raw JSON, records everything that it receives, and sends the usual
//! response, a scripted one, or none. It serves `http://127.0.0.1:PORT/mcp`, and ends with its last handle.
//!
//! | tool | |
//! |---|---|
//! | `whoami` | read-only; the ARN that was verified, and `_meta.AWS_REGION` |
//! | `echo` | no annotations; its arguments, exactly as received |
//! | `slow` | read-only; answers once [`Upstream::slow`] is open |
//! | `switch_account` | has an `aws_profile` of its own; its arguments |
//! | `write_note` | not read-only; its arguments |
//! | `lookup` | read-only; wants its `region` in the header `Mcp-Param-Region` |

mod message;
mod record;
pub(crate) mod reply;
mod script;
pub(crate) mod serve;
mod sessions;
mod stateless;
#[cfg(test)]
mod tests;
mod tools;

use std::sync::Arc;

use bytes::Bytes;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

pub use self::message::Message;
pub use self::record::Received;
use self::record::Record;
pub use self::reply::{Gate, ID, Reply, Step, event};
use self::script::Script;
use self::serve::State;
use self::sessions::Sessions;
use self::tools::Tools;
use crate::authority::Authority;
use crate::deadline;
use crate::keys::KeyTable;
use crate::loopback::Loopback;
use crate::sigv4::Verifier;

/// The service in the credential scope of every signature for an upstream of the tests.
pub const SERVICE: &str = "aws-mcp";
/// The region in the credential scope.
pub const REGION: &str = "us-east-1";

/// The versions of the protocol that the server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// The version of each request.
    Both,
    /// Only 2025-03-26 to 2025-11-25.
    Sessions,
    /// Only 2026-07-28.
    Stateless,
}

/// How usual responses are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// `application/json`.
    Json,
    /// `text/event-stream` with one event.
    Events,
}

/// The settings of an [`Upstream`].
#[derive(Debug)]
pub struct Builder {
    keys: KeyTable,
    era: Era,
    answers: Answers,
    keep: bool,
    tools: Tools,
    port: u16,
    regions: String,
    tls: Option<Arc<ServerConfig>>,
    unsigned: Vec<&'static str>,
}

impl Builder {
    /// The JSON-RPC methods that need no signature; by default none.
    #[must_use]
    pub fn unsigned(mut self, methods: &[&'static str]) -> Self {
        self.unsigned = methods.to_vec();
        self
    }

    /// The regions in which signatures must be valid; by default [`REGION`], with SigV4. For `*` and a list with commas
    /// it is SigV4a.
    #[must_use]
    pub fn regions(mut self, regions: &str) -> Self {
        regions.clone_into(&mut self.regions);
        self
    }

    /// Serves over TLS, with the authority's certificate.
    #[must_use]
    pub fn vouched_for_by(mut self, authority: &Authority) -> Self {
        self.tls = Some(Arc::clone(&authority.server));
        self
    }

    /// The versions to speak; by default both.
    #[must_use]
    pub fn era(mut self, era: Era) -> Self {
        self.era = era;
        self
    }

    /// The form of usual responses; by default JSON.
    #[must_use]
    pub fn answers(mut self, answers: Answers) -> Self {
        self.answers = answers;
        self
    }

    /// Other tools than the usual ones, page by page (two at most), each a definition in JSON.
    #[must_use]
    pub fn pages(mut self, pages: Vec<Vec<String>>) -> Self {
        self.tools.pages = pages;
        self
    }

    /// Keeps no record: for benchmarks, whose memory it would dominate.
    #[must_use]
    pub fn forgetful(mut self) -> Self {
        self.keep = false;
        self
    }

    /// A fixed port; by default any free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Binds the port and serves.
    ///
    /// # Panics
    /// If the port can't be bound.
    pub async fn start(self) -> Upstream {
        let state = Arc::new(State {
            verifier: Verifier::new(self.keys, SERVICE, &self.regions),
            era: self.era,
            answers: self.answers,
            keep: self.keep,
            unsigned: self.unsigned,
            tools: self.tools,
            record: Record::default(),
            script: Script::default(),
            sessions: Sessions::default(),
        });
        let shared = Arc::clone(&state);
        let handler = move |parts, body| serve::respond(Arc::clone(&shared), parts, body);
        let tls = self.tls.map(TlsAcceptor::from);
        let scheme = if tls.is_some() { "https" } else { "http" };
        Upstream { server: Loopback::serve(self.port, tls, handler).await, scheme, state }
    }
}

/// A running server. Dropping it closes its socket and every connection.
#[derive(Debug)]
pub struct Upstream {
    server: Loopback,
    scheme: &'static str,
    state: Arc<State>,
}

impl Upstream {
    /// The settings of a server that knows `keys`.
    #[must_use]
    pub fn builder(keys: KeyTable) -> Builder {
        Builder {
            keys,
            era: Era::Both,
            answers: Answers::Json,
            keep: true,
            tools: Tools::default(),
            port: 0,
            regions: REGION.to_owned(),
            tls: None,
            unsigned: Vec::new(),
        }
    }

    /// A usual server that knows `keys`.
    pub async fn start(keys: KeyTable) -> Self {
        Self::builder(keys).start().await
    }

    /// `http://127.0.0.1:PORT/mcp`; over TLS, `https`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}/mcp", self.scheme, self.server.address)
    }

    /// The number of connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.server.connections()
    }

    /// Queues `reply` for the next message of a JSON-RPC method, or the next `GET` or `DELETE`. Signatures are checked
    /// first.
    pub fn next(&self, method: &str, reply: Reply) {
        self.state.script.push(method, reply);
    }

    /// Removes the queued replies for a JSON-RPC method.
    pub fn clear(&self, method: &str) {
        self.state.script.clear(method);
    }

    /// Calls `hook` for every request without a queued reply; `None` means the usual response.
    pub fn hook(&self, hook: impl Fn(&Received) -> Option<Reply> + Send + Sync + 'static) {
        self.state.script.hook(Box::new(hook));
    }

    /// Answers 403 to the next `count` signatures, even valid ones.
    pub fn refuse_signatures(&self, count: usize) {
        self.state.script.refuse_signatures(count);
    }

    /// Forgets every session: requests in one get 404.
    pub fn forget_sessions(&self) {
        self.state.sessions.forget();
    }

    /// Forgets the sessions of one identity.
    pub fn forget_sessions_of(&self, identity: &str) {
        self.state.sessions.forget_of(identity);
    }

    /// The ids of the open sessions of an identity.
    #[must_use]
    pub fn sessions_of(&self, identity: &str) -> Vec<String> {
        self.state.sessions.of(identity)
    }

    /// Sends a message on the GET stream of a session, once that is open.
    ///
    /// # Panics
    /// If no client opens it, or reads it.
    pub async fn push(&self, session: &str, message: &str) {
        let event = Bytes::from(reply::event(None, message));
        let pushing = async {
            let stream = self.state.sessions.stream(session).await;
            stream.send(Ok(event)).await.expect("the client reads its GET stream");
        };
        deadline::within(pushing, || format!("no GET stream of {session}")).await;
    }

    /// Sends a message on every open GET stream that has room for it.
    pub fn push_to_all(&self, message: &str) {
        let event = Bytes::from(reply::event(None, message));
        for stream in self.state.sessions.streams() {
            let _ = stream.try_send(Ok(event.clone()));
        }
    }

    /// Ends the GET stream of a session.
    pub fn end_stream(&self, session: &str) {
        self.state.sessions.end_stream(session);
    }

    /// The gate that the tool `slow` waits for.
    #[must_use]
    pub fn slow(&self) -> &Gate {
        &self.state.tools.slow
    }

    /// All requests received so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Received> {
        self.state.record.requests()
    }

    /// The requests of one JSON-RPC method.
    #[must_use]
    pub fn requests_of(&self, method: &str) -> Vec<Received> {
        let mut requests = self.requests();
        requests.retain(|request| request.method() == method);
        requests
    }

    /// The first request, past or future, that `matches`; `what` is its name in the panic if none comes.
    pub async fn expect(&self, what: &str, matches: impl Fn(&Received) -> bool) -> Received {
        self.state.record.expect(what, matches).await
    }

    /// Waits until the client has closed the response to a request before its end.
    pub async fn expect_abandoned(&self, request: &Received) {
        let waiting = self.state.record.wait_abandoned(request.number);
        deadline::within(waiting, || format!("the client still reads {}", request.text())).await;
    }
}
