//! One request of the client, from its line to its response.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use sigward_proto::{phase, traces};
use tokio::sync::mpsc;
use tracing::Instrument;

use super::failed::{Failed, sentence};
use super::in_flight::InFlight;
use super::learn::learn;
use super::questions::Questions;
use super::server::FromServers;
use super::sessions::Sessions;
use super::shared::{Outlet, Shared};
use crate::attempt::Attempt;
use crate::budget::Message;
use crate::error::Error;
use crate::exchange::{
    Attempts, Deadline, Exchange, FrameReading, Held, OnResponse, Part, Pass, Patience, RawAnswer,
    Reading, Renewal, Response,
};
use crate::protocol::{self, Generation, META_PREFIX, ParameterHeader};
use crate::request::Request;
use crate::route::{Route, Router};
use crate::session::{Context, Ownership, Session};
use crate::sync::lock;
use crate::tasks::Tasks;
use crate::tools::Catalog;
use crate::upstream::{Frames, Sent};
use crate::wire::{self, Envelope, Id, Object};

/// More pages of tools than any server has.
const MAX_PAGES: usize = 100;

/// Makes the calls of one client.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) shared: Arc<Shared>,
    pub(super) context: Arc<Context>,
    pub(super) sessions: Sessions,
    pub(super) router: Router,
    pub(super) from_servers: FromServers,
    /// Where messages go that belong to no call of the client.
    pub(super) out: Outlet,
    listing: Attempt,
}

impl Caller {
    pub(super) fn new(
        shared: Arc<Shared>,
        context: Arc<Context>,
        questions: Arc<Questions>,
        out: Outlet,
    ) -> Self {
        let catalog = Arc::new(Catalog::new(shared.tools.clone()));
        let router = Router {
            profiles: shared.profiles.clone(),
            offer: Arc::clone(&shared.offer),
            catalog: Arc::clone(&catalog),
            tasks: Tasks::default(),
        };
        let sessions = Sessions::new(shared.profiles.default().clone(), Arc::clone(&context));
        let from_servers = FromServers { questions, catalog };
        Self { shared, context, sessions, router, from_servers, out, listing: Attempt::default() }
    }

    /// Does what a request asks for, up to its response.
    pub(super) async fn call(
        self: &Arc<Self>,
        call: &Request,
        flight: &InFlight,
        patience: &mut Patience,
    ) -> Result<Message, Failed> {
        let route = self.receive_call(call).await?;
        let session = self.sessions.of(&route.profile);
        let _ = flight.session.set(Arc::clone(&session));
        let body = self.final_text(call, &route)?;
        let (id, sent, headers) = (call.id(), &flight.sent, flight.headers());
        let exchange = Exchange { session: &session, id, body, sent, headers };
        let request = Outbound { call, exchange, out: &flight.out };
        if call.begins_session() {
            return Ok(self.initialize(&request, flight, patience).await?);
        }
        let response = match call.generation() {
            Generation::Sessions => {
                let held = flight.take_held();
                self.over_session(&request, route.repeatable, patience, held).await
            }
            Generation::Stateless(version) => {
                let version = version.clone();
                self.on_its_own(&request, &version, route, patience, flight.take_held()).await
            }
        }?;
        Ok(response)
    }

    /// Sends a call of a client that speaks HTTP itself, with the client's headers; the client gets
    /// the answer as it came. `on_response` gets the headers of the answer.
    pub(super) async fn pass(
        self: &Arc<Self>,
        call: &Request,
        flight: &InFlight,
        route: &Route,
        passed: Passed<'_>,
        patience: &mut Patience,
        on_response: impl Fn(&HeaderMap) -> Option<OnResponse>,
    ) -> Result<RawAnswer, Failed> {
        let session = self.sessions.of(&route.profile);
        flight.over(Arc::clone(&session));
        let body = self.final_text(call, route)?;
        let usual = || self.on_response(call, &session, body.clone());
        let exchange = Exchange {
            session: &session,
            id: call.id(),
            body: body.clone(),
            sent: &flight.sent,
            headers: None,
        };
        let attempts = Attempts::new(self.shared.retries, route.repeatable);
        let on_response = |headers: &HeaderMap| on_response(headers).unwrap_or_else(usual);
        let Passed { headers, hands_over } = passed;
        let pass = Pass { call, headers, budget: flight.budget.clone(), hands_over };
        Ok(exchange.passed(pass, patience, attempts, on_response).await?)
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

    /// The client's version of the response to `call`, which went over `session` as `body`; `None`
    /// where that is the server's.
    fn respond(
        &self,
        call: &Request,
        session: &Arc<Session>,
        body: &[u8],
        text: &str,
    ) -> Option<String> {
        if call.method() == "tools/list" {
            let describe = |profile: &_| self.shared.metadata.description(profile);
            // Which tools an HTTP client leaves out for their headers is for that client to decide.
            let mirrors = call.is_stateless() && self.context.ownership == Ownership::Proxy;
            return self.router.catalog.rewrite(text, mirrors, &self.shared.offer, describe);
        }
        learn((&self.context, &self.sessions, &self.router.tasks), call, session, body, text);
        None
    }

    /// The rest of the answer to `call`, which an HTTP client takes up again after an event.
    pub(super) fn resume(
        self: &Arc<Self>,
        call: &Request,
        after: &str,
        frames: Frames,
    ) -> Result<FrameReading, Error> {
        let on_response = self.on_response(call, &self.sessions.of_default(), call.bytes());
        FrameReading::resumed(call, after, frames, on_response)
    }

    /// When a call has taken too long: `--tool-timeout`, if it is one of a tool.
    pub(super) fn deadline(&self, call: &Request) -> Deadline {
        match call.is_tool_call() {
            true => Deadline::new(self.shared.tool_timeout),
            false => Deadline::none(),
        }
    }

    /// Where a call goes, once all is known that it takes to tell.
    pub(super) async fn receive_call(self: &Arc<Self>, call: &Request) -> Result<Route, Failed> {
        let route = self.route(call).instrument(phase!("route")).await?;
        if traces::in_request() {
            tracing::Span::current().record("sigward.profile", route.profile.as_str());
        }
        Ok(route)
    }

    async fn route(self: &Arc<Self>, call: &Request) -> Result<Route, Failed> {
        self.shared.metadata.load().await?;
        self.introduce(call);
        if self.router.needs_list(call)? {
            let known = || call.tool().and_then(|name| self.router.catalog.tool(name)).map(drop);
            // Rare, and large: it holds an exchange of its own.
            self.listing.once(known, Box::pin(self.list_tools(call))).await?;
        }
        Ok(self.router.route(call)?)
    }

    /// What the server gets to read.
    fn final_text(&self, call: &Request, route: &Route) -> Result<Bytes, Failed> {
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

    /// The client's own handshake: it opens the default session.
    async fn initialize(
        self: &Arc<Self>,
        request: &Outbound<'_>,
        flight: &InFlight,
        patience: &mut Patience,
    ) -> Result<Message, Error> {
        let mut attempts = Attempts::new(self.shared.retries, false);
        let (reading, id) = loop {
            match request.exchange.handshake(protocol::post_headers(), patience).await {
                Ok(begun) => break begun,
                Err(error) => attempts.after(error).await?,
            }
        };
        let response = self.follow(request, reading).await?.message;
        let envelope = Envelope::parse(&response.text).ok();
        let opener = lock(&flight.opener).take();
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
        patience: &mut Patience,
        mut held: Option<Held>,
    ) -> Result<Message, Error> {
        let mut attempts = Attempts::new(self.shared.retries, repeatable);
        let mut renewal = Renewal::default();
        loop {
            let done = async {
                let exchange = &request.exchange;
                let reading = exchange.over_session(&mut renewal, patience, held.take()).await?;
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
        patience: &mut Patience,
        mut held: Option<Held>,
    ) -> Result<Message, Error> {
        let mut parameters = route.headers;
        let mut relisted = false;
        let mut attempts = Attempts::new(self.shared.retries, route.repeatable);
        loop {
            let held = held.take();
            let response = match self.once(request, version, &parameters, patience, held).await {
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
            self.router.catalog.clear();
            self.list_tools(request.call).await?;
            let fresh = self.router.catalog.tool(tool).map(|tool| tool.headers.clone());
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
        patience: &mut Patience,
        held: Option<Held>,
    ) -> Result<Response, Error> {
        let endless = request.call.is_patient();
        let headers = request.headers(version, parameters);
        let reading = request.exchange.unbound(headers, endless, patience, held).await?;
        self.follow(request, reading).await
    }

    /// Reads an answer up to its response, and passes on the messages before it.
    async fn follow(
        self: &Arc<Self>,
        request: &Outbound<'_>,
        mut reading: Reading,
    ) -> Result<Response, Error> {
        loop {
            match reading.next().await? {
                Part::Message(message) => {
                    let session = request.exchange.session;
                    self.from_servers.pass_on(session, reading.epoch(), message, request.out).await;
                }
                Part::Response(Response { message, code }) => {
                    let Exchange { session, body, .. } = &request.exchange;
                    let changed = self.respond(request.call, session, body, &message.text);
                    return Ok(Response { message: message.changed(changed), code });
                }
            }
        }
    }

    /// Lists the tools for ourselves, all pages, in the generation of `call`.
    async fn list_tools(self: &Arc<Self>, call: &Request) -> Result<(), Error> {
        let session = self.sessions.of_default();
        let out = self.outlet_of_our_own();
        let mut cursor = None;
        for page in 0..MAX_PAGES {
            let id = Id::from_token(&format!("\"sigward-tools-{page}\""));
            let text = wire::request(&id, "tools/list", &list_params(call, cursor.as_deref()));
            let text = wire::with_metadata(text, &self.shared.metadata.of(&session.profile));
            let listing = Request::own(text)
                .map_err(|_| Error::NotMessage("its cursor can't be sent back"))?;
            let sent = Sent::default();
            let (id, body) = (listing.id(), listing.bytes());
            let exchange = Exchange { session: &session, id, body, sent: &sent, headers: None };
            let request = Outbound { call: &listing, exchange, out: &out };
            let limit = self.shared.tool_timeout;
            let mut patience = Patience::new(&listing, &out, Deadline::none(), limit);
            let response = match call.generation() {
                Generation::Sessions => {
                    self.over_session(&request, true, &mut patience, None).await?
                }
                Generation::Stateless(version) => {
                    self.once(&request, version, &[], &mut patience, None).await?.message
                }
            };
            let envelope = Envelope::parse(&response.text).ok();
            let result = envelope.and_then(|it| it.result).and_then(|it| Object::parse(it).ok());
            let Some(result) = result else {
                return Err(Error::NotMessage("it can't list its tools"));
            };
            cursor = result.find_string("nextCursor").map(Cow::into_owned);
            if cursor.is_none() {
                return Ok(());
            }
        }
        Err(Error::NotMessage("its list of tools never ends"))
    }

    /// Where what a server says on the way to an answer for ourselves goes. A client that speaks HTTP
    /// may have no stream open for it, and a message that waits for one would hold up the answer.
    fn outlet_of_our_own(&self) -> Outlet {
        match self.context.ownership {
            Ownership::Proxy => self.out.clone(),
            Ownership::Client | Ownership::Nobody => mpsc::channel(1).0,
        }
    }
}

/// What a client that speaks HTTP sends with its call.
#[derive(Clone, Copy)]
pub(crate) struct Passed<'a> {
    /// Its headers.
    pub(crate) headers: &'a HeaderMap,
    /// Whether it is to see that its call waits, where the server throttles it.
    pub(crate) hands_over: bool,
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

/// The params of a list of our own: in 2026-07-28 the sender describes itself in each request, so
/// ours says what the client's says.
fn list_params(call: &Request, cursor: Option<&str>) -> String {
    let mut members = Vec::new();
    if let Some(cursor) = cursor {
        members.push(format!(r#""cursor":{}"#, wire::quote(cursor)));
    }
    if call.is_stateless()
        && let Some(meta) = call.meta().and_then(|meta| Object::parse(meta).ok())
    {
        let sender: Vec<String> = meta
            .members()
            .iter()
            .filter(|member| member.name().starts_with(META_PREFIX))
            .map(|member| format!("{}:{}", member.key, member.value))
            .collect();
        members.push(format!(r#""_meta":{{{}}}"#, sender.join(",")));
    }
    format!("{{{}}}", members.join(","))
}
