//! One request of the client, from its line to its response.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use sigward_proto::{phase, traces};
use tokio::sync::mpsc;
use tracing::Instrument;

use super::annotation::{self, annotated};
use super::announced::Announced;
use super::failed::{Failed, sentence};
use super::in_flight::InFlight;
use super::learn::learn;
use super::questions::Questions;
use super::server::FromServers;
use super::sessions::Sessions;
use super::shared::{Outlet, Shared};
use super::stand_in::{self, StandIns};
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
    pub(super) stand_ins: StandIns,
    announced: Arc<Announced>,
    /// Where messages go that belong to no call of the client.
    pub(super) out: Outlet,
    listing: Attempt,
}

impl Caller {
    pub(super) fn new(
        announced: Arc<Announced>,
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
        let stand_ins = StandIns::new(Arc::clone(&shared), Arc::clone(&context));
        let listing = Attempt::default();
        Self { shared, context, sessions, router, from_servers, stand_ins, announced, out, listing }
    }

    /// Does what a request asks for, up to its response.
    pub(super) async fn call(
        self: &Arc<Self>,
        call: &Request,
        flight: &InFlight,
        patience: &mut Patience,
    ) -> Result<Message, Failed> {
        if self.stand_ins.is_own_tool(call) {
            // Whoever can list the server's tools can sign.
            Box::pin(self.list_tools(call, true)).await?;
            return Ok(self.stand_ins.tool_result(call).into());
        }
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
        };
        if call.is_tool_call() && flight.sent.is_set() && !call.is_stateless() {
            session.on_call();
        }
        match response {
            Err(error) if self.is_answered_without(call, &session, &error) => {
                Ok(Box::pin(self.answer_without(&request, error)).await?)
            }
            response => Ok(response?),
        }
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
        let is_annotated = self.shared.show_identity && call.is_tool_call();
        let needs_whole = call.method() == "tools/list" || is_annotated;
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
            if self.shared.offer.is_choice() {
                self.shared.metadata.follow();
            }
            let describe = |profile: &_| self.shared.metadata.description(profile);
            // Which tools an HTTP client leaves out for their headers is for that client to decide.
            let mirrors = call.is_stateless() && self.context.ownership.is_proxy();
            return self.router.catalog.rewrite(text, mirrors, &self.shared.offer, describe);
        }
        learn((&self.context, &self.sessions, &self.router.tasks), call, session, body, text);
        if call.method() == "logging/setLevel"
            && let Some(params) = call.params()
            && Envelope::parse(text).is_ok_and(|envelope| envelope.result.is_some())
        {
            self.announced.set_level(params);
        }
        if call.is_tool_call() { self.annotated(session, text) } else { None }
    }

    /// A tool's result with what the agent is told beside it.
    fn annotated(&self, session: &Session, text: &str) -> Option<String> {
        let notice = session.take_notice();
        let shown = self.shared.show_identity;
        if notice.is_none() && !shown {
            return None;
        }
        let identity = shown.then(|| self.shared.metadata.identity(&session.profile));
        let identity = identity.as_deref().map(|identity| (annotation::IDENTITY, identity));
        let notice = notice.as_deref().map(|notice| (annotation::NOTICE, notice));
        annotated(text, &identity.into_iter().chain(notice).collect::<Vec<_>>())
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
            self.listing.once(known, Box::pin(self.list_tools(call, false))).await?;
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
                Err(error) if error.cannot_sign() => {
                    return Box::pin(self.initialize_without(request, flight, error)).await;
                }
                Err(error) => attempts.after(error).await?,
            }
        };
        let response = self.follow(request, reading).await?.message;
        let envelope = Envelope::parse(&response.text).ok();
        let opener = lock(&flight.opener).take();
        if let (Some(result), Some(opener)) = (envelope.and_then(|it| it.result), opener) {
            self.announced.learn(result);
            opener.established(id, result);
        }
        Ok(response)
    }

    /// The client's own handshake, while the default profile can't sign: see [`stand_in`].
    async fn initialize_without(
        self: &Arc<Self>,
        request: &Outbound<'_>,
        flight: &InFlight,
        why: Error,
    ) -> Result<Message, Error> {
        if let Some(opener) = lock(&flight.opener).take() {
            opener.give_way();
        }
        let call = request.call;
        let (result, present) = self.stand_ins.answer_handshake(&self.sessions, call, why).await?;
        self.announced.learn(&result);
        let (default, catalog) = (self.sessions.of_default(), Arc::clone(&self.router.catalog));
        let announces = self.announced.lists_change();
        self.stand_ins.announce_return(&present, announces, default, catalog, self.out.clone());
        Ok(wire::result_response(call.id(), &result).into())
    }

    /// Whether somebody else may answer a call over `session` that can't be signed.
    pub(super) fn is_answered_without(
        &self,
        call: &Request,
        session: &Session,
        why: &Error,
    ) -> bool {
        session.is_default && why.cannot_sign() && stand_in::needs_no_identity(call)
    }

    /// The answer to such a call.
    async fn answer_without(
        self: &Arc<Self>,
        request: &Outbound<'_>,
        why: Error,
    ) -> Result<Message, Error> {
        let why = match self.answer_by_others(request, why).await {
            Err(why) if why.may_pass() => why,
            done => return done,
        };
        // A handshake of the profile's own, or of another one, promised more than the proxy has.
        let is_ours = request.call.is_stateless()
            || self.stand_ins.present().is_some_and(|present| present.session.is_none());
        let own = || self.stand_ins.own_answer(request.call, &why, &self.router.catalog);
        match is_ours.then(own).flatten() {
            Some(answer) => Ok(answer.into()),
            None => Err(why),
        }
    }

    /// The same by another session; where there is none, the error `why` there is none of the default profile.
    async fn answer_by_others(
        self: &Arc<Self>,
        request: &Outbound<'_>,
        why: Error,
    ) -> Result<Message, Error> {
        let limit = self.shared.tool_timeout;
        let mut patience = Patience::new(request.call, request.out, Deadline::none(), limit);
        match request.call.generation() {
            Generation::Sessions => {
                let present = self.stand_ins.present();
                match present.as_ref().and_then(|present| present.session.as_ref()) {
                    Some(session) => {
                        self.over_session(&request.over(session), true, &mut patience, None).await
                    }
                    None => Err(why),
                }
            }
            Generation::Stateless(version) => {
                for session in self.stand_ins.candidates(&self.sessions, &why).await {
                    if let Ok(Response { message, code: None }) =
                        self.once(&request.over(&session), version, &[], &mut patience, None).await
                    {
                        return Ok(message);
                    }
                }
                Err(why)
            }
        }
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
            self.list_tools(request.call, false).await?;
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

    /// Lists the tools for ourselves, all pages, in the generation of `call`; `signed`: by the default profile alone.
    async fn list_tools(self: &Arc<Self>, call: &Request, signed: bool) -> Result<(), Error> {
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
            let listed = match call.generation() {
                Generation::Sessions => {
                    self.over_session(&request, true, &mut patience, None).await
                }
                Generation::Stateless(version) => {
                    let once = self.once(&request, version, &[], &mut patience, None).await;
                    once.map(|response| response.message)
                }
            };
            let response = match listed {
                // What tools there are needs no identity. The call that waits for it may name another profile.
                Err(why) if !signed && why.cannot_sign() => {
                    Box::pin(self.answer_by_others(&request, why)).await?
                }
                listed => listed?,
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
            Ownership::Hosted | Ownership::Client | Ownership::Nobody => mpsc::channel(1).0,
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

impl<'a> Outbound<'a> {
    /// The same over another session.
    fn over(&self, session: &'a Arc<Session>) -> Self {
        let Exchange { id, body, sent, headers, .. } = &self.exchange;
        let exchange = Exchange { session, id, body: body.clone(), sent, headers: *headers };
        Self { call: self.call, exchange, out: self.out }
    }

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
