//! One request of the client, from its line to its response.

mod learn;
mod route;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use rmcp::model::ErrorCode;

pub(crate) use self::route::Route;
use super::{Flight, Outlet, Relay};
use crate::budget::Message;
use crate::config::ProfileName;
use crate::error::Error;
use crate::exchange::{
    Attempts, Deadline, Exchange, FrameReading, OnResponse, Part, RawAnswer, Reading, Renewal,
    Response,
};
use crate::protocol::{self, Generation, ParameterHeader};
use crate::request::Request;
use crate::session::Session;
use crate::upstream::Frames;
use crate::wire::{self, Envelope, Object};

/// Why a request has no response from upstream.
#[derive(Debug)]
pub(crate) enum Failed {
    /// For the model: the call can't be made as it was asked for.
    Tool(String),
    /// For the client: the request is wrong.
    Params(String),
    /// The exchange failed.
    Exchange(Error),
    /// `--tool-timeout`; whether the server may know of the call.
    TimedOut(Duration, bool),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Exchange(error)
    }
}

impl Failed {
    /// The profile that needs a sign-in, if that is what is wrong.
    pub(crate) fn login_required(&self) -> Option<&ProfileName> {
        match self {
            Self::Exchange(error) => error.login_required(),
            Self::Tool(_) | Self::Params(_) | Self::TimedOut(..) => None,
        }
    }

    /// The response that says it. A failed tool call is one that the model shall read; other
    /// requests have JSON-RPC errors for that.
    pub(crate) fn into_response(self, call: &Request) -> String {
        let (message, code) = match self {
            Self::Tool(message) => (message, ErrorCode::INVALID_PARAMS),
            Self::Params(message) => (message, ErrorCode::INVALID_PARAMS),
            Self::Exchange(error) => {
                if !error.is_logged() {
                    tracing::error!(method = %call.method(), %error, "a request failed");
                }
                (sentence(&error.to_string()), ErrorCode::INTERNAL_ERROR)
            }
            Self::TimedOut(limit, sent) => {
                let limit = limit.as_secs_f64();
                let end = if sent { "it was cancelled" } else { "nothing was sent" };
                let why = format!("The call took longer than {limit} s (--tool-timeout); {end}.");
                (why, ErrorCode::INTERNAL_ERROR)
            }
        };
        let id = call.id();
        if call.is_tool_call() {
            wire::tool_error(id, &message, call.is_stateless())
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

impl Relay {
    /// Does what a request asks for, up to its response.
    pub(super) async fn call(
        self: &Arc<Self>,
        call: &Request,
        flight: &Flight,
    ) -> Result<Message, Failed> {
        let route = self.receive_call(call).await?;
        let session = self.session(&route.profile);
        let _ = flight.session.set(Arc::clone(&session));
        let body = self.final_text(call, &route)?;
        let exchange = Exchange { session: &session, id: call.id(), body, sent: &flight.sent };
        let request = Outbound { call, exchange, out: &flight.out };
        if call.begins_session() {
            return Ok(self.initialize(&request, flight).await?);
        }
        let response = match call.generation() {
            Generation::Sessions => self.over_session(&request, route.repeatable).await,
            Generation::Stateless(version) => {
                let version = version.clone();
                self.on_its_own(&request, &version, route).await
            }
        }?;
        Ok(response)
    }

    /// Sends a call of a client that speaks HTTP itself, with its own headers; the answer is for it to
    /// show. `on_response` is told the headers of the answer.
    pub(crate) async fn pass(
        self: &Arc<Self>,
        call: &Request,
        flight: &Flight,
        route: &Route,
        headers: &HeaderMap,
        on_response: impl FnOnce(&HeaderMap) -> Option<OnResponse>,
    ) -> Result<RawAnswer, Failed> {
        let session = self.session(&route.profile);
        flight.over(Arc::clone(&session));
        let body = self.final_text(call, route)?;
        let usual = || self.on_response(call, &session, body.clone());
        let exchange =
            Exchange { session: &session, id: call.id(), body: body.clone(), sent: &flight.sent };
        let attempts = Attempts::new(self.shared.retries, route.repeatable);
        let on_response = |headers: &HeaderMap| on_response(headers).unwrap_or_else(usual);
        Ok(exchange.passed(call, headers, attempts, on_response).await?)
    }

    /// What is done with the response to a call of a client that speaks HTTP itself.
    fn on_response(
        self: &Arc<Self>,
        call: &Request,
        session: &Arc<Session>,
        body: Bytes,
    ) -> OnResponse {
        let (client, call, session) = (Arc::clone(self), call.clone(), Arc::clone(session));
        let needs_whole = call.method() == "tools/list";
        let inspect = Box::new(move |text: &str| client.respond(&call, &session, &body, text));
        OnResponse { inspect, needs_whole }
    }

    /// The rest of the answer to `call`, which an HTTP client takes up again after an event.
    pub(crate) fn resume(
        self: &Arc<Self>,
        call: &Request,
        after: &str,
        frames: Frames,
    ) -> Result<FrameReading, Error> {
        let on_response = self.on_response(call, &self.default_session(), call.bytes());
        FrameReading::resumed(call, after, frames, on_response)
    }

    /// When a call has taken too long: `--tool-timeout`, if it is one of a tool.
    pub(crate) fn deadline(&self, call: &Request) -> Deadline {
        match call.is_tool_call() {
            true => Deadline::new(self.shared.tool_timeout),
            false => Deadline::none(),
        }
    }

    /// A call has taken too long: nobody waits for its response any more.
    pub(crate) fn too_late(&self, call: &Request, flight: &Flight) -> Failed {
        self.abandon(call.id(), flight, "the call took too long");
        Failed::TimedOut(self.shared.tool_timeout, flight.sent.is_set())
    }

    /// Where a call goes, once all is known that it takes to tell.
    pub(crate) async fn receive_call(self: &Arc<Self>, call: &Request) -> Result<Route, Failed> {
        self.shared.metadata.load().await?;
        self.introduce(call);
        self.route(call).await
    }

    /// What the server gets to read.
    pub(crate) fn final_text(&self, call: &Request, route: &Route) -> Result<Bytes, Failed> {
        let metadata = self.shared.metadata.of(&route.profile);
        let text = call.finish(route.cut.clone(), &metadata);
        text.map_err(|fault| Failed::Params(sentence(&fault.to_string())))
    }

    /// Lets upstream know who the client is: from its handshake, or, in 2026-07-28, any request.
    fn introduce(&self, call: &Request) {
        if self.context.upstream.is_introduced()
            || !(call.is_stateless() || call.method() == "initialize")
        {
            return;
        }
        let client = match call.is_stateless() {
            true => call.client().and_then(|client| Object::parse(client).ok()),
            false => {
                let params = call.params().and_then(|params| Object::parse(params).ok());
                params.and_then(|params| params.find_object("clientInfo"))
            }
        };
        if let Some(client) = client {
            let field = |name| client.find_string(name).unwrap_or_default();
            self.context.upstream.introduce(&field("name"), &field("version"));
        }
    }

    /// The client's own handshake: what it sends and gets is what makes the default session.
    async fn initialize(
        self: &Arc<Self>,
        request: &Outbound<'_>,
        flight: &Flight,
    ) -> Result<Message, Error> {
        let mut attempts = Attempts::new(self.shared.retries, false);
        let (reading, id) = loop {
            match request.exchange.handshake(protocol::post_headers()).await {
                Ok(begun) => break begun,
                Err(error) => attempts.after(error).await?,
            }
        };
        let response = self.follow(request, reading).await?.message;
        let envelope = Envelope::parse(&response.text).ok();
        let opener = super::lock(&flight.opener).take();
        if let (Some(result), Some(opener)) = (envelope.and_then(|it| it.result), opener) {
            opener.established(id, result);
        }
        Ok(response)
    }

    /// Up to 2025-11-25.
    async fn over_session(
        self: &Arc<Self>,
        request: &Outbound<'_>,
        repeatable: bool,
    ) -> Result<Message, Error> {
        let mut attempts = Attempts::new(self.shared.retries, repeatable);
        let mut renewal = Renewal::default();
        loop {
            let done = async {
                let reading = request.exchange.over_session(&mut renewal).await?;
                self.follow(request, reading).await
            };
            match done.await {
                Ok(response) => return Ok(response.message),
                Err(error) => attempts.after(error).await?,
            }
        }
    }

    /// From 2026-07-28 on. Headers that don't mirror what the server wants to see are made again
    /// from a fresh list of its tools, once.
    async fn on_its_own(
        self: &Arc<Self>,
        request: &Outbound<'_>,
        version: &http::HeaderValue,
        route: Route,
    ) -> Result<Message, Error> {
        let mut parameters = route.headers;
        let mut relisted = false;
        let mut attempts = Attempts::new(self.shared.retries, route.repeatable);
        loop {
            let response = match self.once(request, version, &parameters).await {
                Ok(response) => response,
                Err(error) => {
                    attempts.after(error).await?;
                    continue;
                }
            };
            let mismatch = response.code == Some(protocol::HEADER_MISMATCH);
            let Some(tool) = request.call.tool().filter(|_| mismatch) else {
                return Ok(response.message);
            };
            if std::mem::replace(&mut relisted, true) {
                return Ok(response.message);
            }
            self.catalog.clear();
            self.list_tools(request.call).await?;
            let fresh = self.catalog.tool(tool).map(|tool| tool.headers.clone());
            if fresh.as_ref().is_none_or(|fresh| *fresh == parameters) {
                return Ok(response.message);
            }
            parameters = fresh.unwrap_or_default();
        }
    }

    /// One attempt of a request of 2026-07-28.
    async fn once(
        self: &Arc<Self>,
        request: &Outbound<'_>,
        version: &http::HeaderValue,
        parameters: &[ParameterHeader],
    ) -> Result<Response, Error> {
        let patient = request.call.is_patient();
        let headers = request.headers(version, parameters);
        let reading = request.exchange.unbound(headers, patient).await?;
        self.follow(request, reading).await
    }

    /// Reads an answer until its response, passing on what comes before.
    async fn follow(
        self: &Arc<Self>,
        request: &Outbound<'_>,
        mut reading: Reading,
    ) -> Result<Response, Error> {
        loop {
            match reading.next().await? {
                Part::Message(message) => {
                    let session = request.exchange.session;
                    self.pass_on(session, reading.epoch(), message, request.out).await;
                }
                Part::Response(Response { message, code }) => {
                    let Exchange { session, body, .. } = &request.exchange;
                    let changed = self.respond(request.call, session, body, &message.text);
                    return Ok(Response { message: message.changed(changed), code });
                }
            }
        }
    }
}

/// A request on its way upstream.
pub(super) struct Outbound<'a> {
    call: &'a Request,
    exchange: Exchange<'a>,
    out: &'a Outlet,
}

impl Outbound<'_> {
    /// The final text.
    fn text(&self) -> &str {
        std::str::from_utf8(&self.exchange.body).unwrap_or_default()
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
