//! One request of the client, from its line to its response.

mod follow;
mod route;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use rmcp::model::ErrorCode;

use self::follow::Followed;
pub(crate) use self::follow::repaired;
pub(crate) use self::route::Route;
use super::{Flight, Outlet, Relay};
use crate::budget::Message;
use crate::config::ProfileName;
use crate::error::{Error, Resend};
use crate::protocol::{self, Generation, ParameterHeader};
use crate::session::Session;
use crate::wire::{self, Edits, Envelope, Id};

/// The first wait before a retry.
const BACKOFF: Duration = Duration::from_millis(200);
/// The longest.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What a request says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) id: Id,
    pub(crate) method: String,
    pub(crate) generation: Generation,
    /// The tool that is called.
    pub(crate) tool: Option<String>,
}

/// A request and its text.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) head: Head,
    message: Message,
}

/// Why a request has no response from upstream.
#[derive(Debug)]
pub(crate) enum Failed {
    /// For the model: the call can't be made as it was asked for.
    Tool(String),
    /// For the client: the request is wrong.
    Params(String),
    /// Something on the way failed.
    Exchange(Error),
    /// `--tool-timeout`
    TimedOut(Duration),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Exchange(error)
    }
}

impl Head {
    pub(crate) fn read(envelope: &Envelope<'_>) -> Self {
        let params = envelope.params_object();
        let tool = (envelope.method == "tools/call")
            .then(|| params.as_ref().and_then(|params| params.find_string("name")))
            .flatten();
        Self {
            id: envelope.owned_id(),
            method: envelope.method.clone().into_owned(),
            generation: Generation::of(params.as_ref()),
            tool: tool.map(Cow::into_owned),
        }
    }

    pub(crate) fn with(self, message: Message) -> Call {
        Call { head: self, message }
    }
}

impl Call {
    /// What the client sent.
    pub(crate) fn text(&self) -> &str {
        &self.message.text
    }

    /// The same call in other words.
    pub(super) fn with_text(&self, text: String) -> Self {
        Self { head: self.head.clone(), message: self.message.clone().with(text) }
    }

    pub(crate) fn is_tool_call(&self) -> bool {
        self.head.method == "tools/call"
    }
}

impl Failed {
    /// The profile that needs a sign-in, if that is what is wrong.
    pub(crate) fn login_required(&self) -> Option<&ProfileName> {
        match self {
            Self::Exchange(error) => error.login_required(),
            Self::Tool(_) | Self::Params(_) | Self::TimedOut(_) => None,
        }
    }

    /// The response that says it. A failed tool call is one that the model shall read; other
    /// requests have JSON-RPC errors for that.
    pub(crate) fn into_response(self, call: &Call) -> String {
        let (message, code) = match self {
            Self::Tool(message) => (message, ErrorCode::INVALID_PARAMS),
            Self::Params(message) => (message, ErrorCode::INVALID_PARAMS),
            Self::Exchange(error) => {
                if !error.is_logged() {
                    tracing::error!(method = %call.head.method, %error, "a request failed");
                }
                (sentence(&error.to_string()), ErrorCode::INTERNAL_ERROR)
            }
            Self::TimedOut(limit) => {
                let limit = limit.as_secs_f64();
                let why = format!(
                    "The call took longer than {limit} s (--tool-timeout) and was cancelled."
                );
                (why, ErrorCode::INTERNAL_ERROR)
            }
        };
        let id = &call.head.id;
        if call.is_tool_call() {
            wire::tool_error(id, &message, call.head.generation.is_stateless())
        } else {
            wire::error_response(id, code, &message)
        }
    }
}

/// An error's text, from lower case to a sentence.
pub(crate) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    let end = if text.ends_with(['.', ')', '?', '!', '…']) { "" } else { "." };
    format!("{first}{}{end}", chars.as_str())
}

/// `text` under another id; `None` where it has that id.
pub(super) fn with_id(text: &str, envelope: &Envelope<'_>, id: &Id) -> Option<String> {
    let mut edits = Edits::new(text);
    match envelope.id {
        Some(token) if token == id.token() => return None,
        Some(token) => edits.replace(token, id.token()),
        None => edits.members(&envelope.object, |_| false, &[("id", id.token())]),
    }
    Some(edits.apply())
}

impl Relay {
    /// Does what a request asks for, up to its response.
    pub(super) async fn call(
        self: &Arc<Self>,
        call: &Call,
        flight: &Flight,
    ) -> Result<Message, Failed> {
        let route = self.receive_call(call).await?;
        let session = self.session(&route.profile);
        let _ = flight.session.set(Arc::clone(&session));
        let text = self.final_text(&route);
        if call.head.method == "initialize" && !call.head.generation.is_stateless() {
            return Ok(self.initialize(call, text, flight).await?);
        }
        let request = Request { call, session: &session, body: text.into(), out: &flight.out };
        let response = match &call.head.generation {
            Generation::Sessions => {
                self.over_session(&request, route.repeatable, &flight.sent).await
            }
            Generation::Stateless(version) => {
                let version = version.clone();
                self.on_its_own(&request, &version, route, &flight.sent).await
            }
        }?;
        Ok(response)
    }

    /// Where a call goes, once all is known that it takes to tell.
    pub(crate) async fn receive_call<'a>(
        self: &Arc<Self>,
        call: &'a Call,
    ) -> Result<Route<'a>, Failed> {
        self.shared.metadata.load().await?;
        self.introduce(call);
        self.route(call).await
    }

    /// What the server gets to read.
    pub(crate) fn final_text(&self, route: &Route<'_>) -> String {
        wire::with_metadata(route.text.to_string(), &self.shared.metadata.of(&route.profile))
    }

    /// Lets upstream know who the client is: from its handshake, or, in 2026-07-28, any request.
    fn introduce(&self, call: &Call) {
        let stateless = call.head.generation.is_stateless();
        if self.context.upstream.is_introduced() || !(stateless || call.head.method == "initialize")
        {
            return;
        }
        let Ok(envelope) = Envelope::parse(call.text()) else { return };
        let Some(params) = envelope.params_object() else { return };
        let client = if stateless {
            params.find_object("_meta").and_then(|meta| meta.find_object(protocol::META_CLIENT))
        } else {
            params.find_object("clientInfo")
        };
        if let Some(client) = client {
            let field = |name| client.find_string(name).unwrap_or_default();
            self.context.upstream.introduce(&field("name"), &field("version"));
        }
    }

    /// The client's own handshake: what it says and hears is what makes the default session.
    async fn initialize(
        self: &Arc<Self>,
        call: &Call,
        text: String,
        flight: &Flight,
    ) -> Result<Message, Error> {
        // A second handshake starts over. The sessions of the first one end by themselves.
        super::lock(&self.tasks).clear();
        for (_, stale) in super::lock(&self.sessions).drain() {
            self.work.spawn(async move { stale.close().await });
        }
        let session = &self.default_session();
        let request = Request { call, session, body: text.into(), out: &flight.out };
        let answer = self
            .attempts(self.shared.retries, false, || {
                let body = request.body.clone();
                session.post_unbound(protocol::post_headers(), body, false, &flight.sent)
            })
            .await?;
        let id = answer.session_id.clone();
        match self.follow(&request, None, answer).await? {
            Followed::Answered(response, _) => {
                let envelope = Envelope::parse(&response.text).ok();
                if let Some(result) = envelope.and_then(|envelope| envelope.result) {
                    let sent = Envelope::parse(call.text()).ok();
                    if let Some(params) = sent.and_then(|envelope| envelope.params) {
                        self.context.handshake.initialize(params);
                    }
                    session.establish(id, result);
                }
                Ok(response)
            }
            Followed::Expired => Err(Error::NoAnswer),
            Followed::Failed(failure) => Err(failure.into()),
        }
    }

    /// Up to 2025-11-25. A session that the server dropped is renewed once, and the request, which
    /// it can't have acted on, sent once more.
    async fn over_session(
        self: &Arc<Self>,
        request: &Request<'_>,
        repeatable: bool,
        sent: &AtomicBool,
    ) -> Result<Message, Error> {
        let session = request.session;
        if session.is_default {
            let mut settled = self.settled.subscribe();
            let _ = settled.wait_for(|&settled| settled).await;
        }
        let mut live = session.live().await?;
        let mut renewed = false;
        loop {
            live.settled().await;
            let followed = self
                .attempts(self.shared.retries, repeatable, || async {
                    let answer = session.post(&live, request.body.clone(), sent).await?;
                    self.follow(request, Some(&live), answer).await?.retryable(repeatable)
                })
                .await?;
            match followed {
                Followed::Answered(response, _) => return Ok(response),
                Followed::Failed(failure) => return Err(failure.into()),
                Followed::Expired if renewed => {
                    return Err(Error::SessionLost { profile: session.profile.to_string() });
                }
                Followed::Expired => {
                    live = session.renew(&live).await?;
                    renewed = true;
                }
            }
        }
    }

    /// From 2026-07-28 on. Headers that don't mirror what the server wants to see are made again
    /// from a fresh list of its tools, once.
    async fn on_its_own(
        self: &Arc<Self>,
        request: &Request<'_>,
        version: &http::HeaderValue,
        route: route::Route<'_>,
        sent: &AtomicBool,
    ) -> Result<Message, Error> {
        let patient = request.call.head.method == "subscriptions/listen";
        let mut parameters = route.headers;
        let mut relisted = false;
        loop {
            let followed = self
                .attempts(self.shared.retries, route.repeatable, || async {
                    let headers = request.headers(version, &parameters);
                    let body = request.body.clone();
                    let answer = request.session.post_unbound(headers, body, patient, sent).await?;
                    self.follow(request, None, answer).await?.retryable(route.repeatable)
                })
                .await?;
            match followed {
                Followed::Answered(response, code) => {
                    let mismatch = code == Some(protocol::HEADER_MISMATCH);
                    let Some(tool) = request.call.head.tool.as_ref().filter(|_| mismatch) else {
                        return Ok(response);
                    };
                    if std::mem::replace(&mut relisted, true) {
                        return Ok(response);
                    }
                    self.catalog.clear();
                    self.list_tools(request.call).await?;
                    let fresh = self.catalog.tool(tool).map(|tool| tool.headers.clone());
                    if fresh.as_ref().is_none_or(|fresh| *fresh == parameters) {
                        return Ok(response);
                    }
                    parameters = fresh.unwrap_or_default();
                }
                Followed::Failed(failure) => return Err(failure.into()),
                Followed::Expired => return Err(Error::NoAnswer),
            }
        }
    }

    /// Tries until it works, fails for good, or `retries` are used up. What upstream may have acted
    /// on is only repeated where that is `repeatable`.
    pub(crate) async fn attempts<T, F>(
        &self,
        retries: u32,
        repeatable: bool,
        attempt: impl Fn() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut wait = BACKOFF;
        for _ in 0..retries {
            let error = match attempt().await {
                Err(error) => error,
                done => return done,
            };
            match error.resend() {
                Resend::Safe => {}
                Resend::IfReadOnly if repeatable => {}
                Resend::IfReadOnly | Resend::Pointless => return Err(error),
            }
            tracing::info!(%error, "trying again in {wait:?}");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(BACKOFF_MAX);
        }
        attempt().await
    }
}

/// A request on its way upstream.
pub(super) struct Request<'a> {
    call: &'a Call,
    session: &'a Arc<Session>,
    /// The final text, shared by all attempts to send it.
    body: Bytes,
    out: &'a Outlet,
}

impl Request<'_> {
    /// The final text.
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or_default()
    }

    fn headers(
        &self,
        version: &http::HeaderValue,
        parameters: &[ParameterHeader],
    ) -> http::HeaderMap {
        let mut headers = protocol::post_headers();
        if let Ok(envelope) = Envelope::parse(self.text()) {
            protocol::mirror(&mut headers, version, &envelope, parameters);
        }
        headers
    }
}
