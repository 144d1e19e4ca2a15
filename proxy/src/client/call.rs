//! Handles one request of the client, from its text to its response.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use sigward_proto::v1::Reason;
use sigward_proto::{phase, traces};
use tracing::Instrument;

use super::announced::Announced;
use super::failed::{Failed, sentence};
use super::in_flight::InFlight;
use super::listing::{Listing, Signer};
use super::outbound::Outbound;
use super::questions::Questions;
use super::responses::Responses;
use super::sender::Sender;
use super::server::FromServers;
use super::sessions::Sessions;
use super::shared::{Outlet, Shared};
use super::stand_in::{Current, StandIns};
use crate::attempt::Attempt;
use crate::budget::Message;
use crate::error::Error;
use crate::exchange::{
    Attempts, Deadline, Exchange, ForwardedRequest, FrameReading, Held, OnResponse, Patience,
    RawAnswer,
};
use crate::protocol::{self, Generation};
use crate::request::Request;
use crate::route::{Route, Router};
use crate::session::Context;
use crate::sync::lock;
use crate::tasks::Tasks;
use crate::tools::Catalog;
use crate::upstream::Frames;
use crate::wire::{Envelope, Object};

/// How long a client's handshake may wait for its signature.
const FIRST_SIGNATURE: Duration = Duration::from_secs(10);

/// Makes the calls of one client.
#[derive(Debug)]
pub(super) struct Caller {
    shared: Arc<Shared>,
    context: Arc<Context>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) router: Router,
    pub(super) from_servers: Arc<FromServers>,
    pub(super) stand_ins: Arc<StandIns>,
    responses: Arc<Responses>,
    sender: Arc<Sender>,
    listing: Listing,
    announced: Arc<Announced>,
}

impl Caller {
    /// `out` gets the messages that belong to no call of the client.
    pub(super) fn new(
        announced: Arc<Announced>,
        shared: Arc<Shared>,
        context: Arc<Context>,
        questions: Arc<Questions>,
        out: Outlet,
    ) -> Self {
        let catalog = Arc::new(Catalog::new(shared.tools.clone()));
        let tasks = Arc::<Tasks>::default();
        let router = Router {
            profiles: shared.profiles.clone(),
            offer: Arc::clone(&shared.offer),
            catalog: Arc::clone(&catalog),
            tasks: Arc::clone(&tasks),
        };
        let default = shared.profiles.default().clone();
        let sessions = Arc::new(Sessions::new(default, Arc::clone(&context)));
        let from_servers = Arc::new(FromServers { questions, catalog: Arc::clone(&catalog) });
        let responses = Arc::new(Responses {
            shared: Arc::clone(&shared),
            context: Arc::clone(&context),
            sessions: Arc::clone(&sessions),
            catalog: Arc::clone(&catalog),
            tasks,
            announced: Arc::clone(&announced),
        });
        let sender = Arc::new(Sender {
            retries: shared.retries,
            from_servers: Arc::clone(&from_servers),
            responses: Arc::clone(&responses),
        });
        let stand_ins = Arc::new(StandIns {
            shared: Arc::clone(&shared),
            context: Arc::clone(&context),
            sessions: Arc::clone(&sessions),
            catalog: Arc::clone(&catalog),
            announced: Arc::clone(&announced),
            sender: Arc::clone(&sender),
            out: out.clone(),
            current: Current::default(),
        });
        let listing = Listing {
            shared: Arc::clone(&shared),
            context: Arc::clone(&context),
            sessions: Arc::clone(&sessions),
            catalog,
            sender: Arc::clone(&sender),
            stand_ins: Arc::clone(&stand_ins),
            out,
            attempt: Attempt::default(),
        };
        Self {
            shared,
            context,
            sessions,
            router,
            from_servers,
            stand_ins,
            responses,
            sender,
            listing,
            announced,
        }
    }

    /// Carries out a request, up to its response.
    pub(super) async fn call(
        &self,
        call: &Request,
        flight: &InFlight,
        patience: &mut Patience,
    ) -> Result<Message, Failed> {
        if self.stand_ins.is_own_tool(call) {
            // A profile that can list the server's tools can sign.
            Box::pin(self.listing.list(call, Signer::Default)).await?;
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
            return Ok(Box::pin(self.initialize(&request, flight, patience)).await?);
        }
        let response = match call.generation() {
            Generation::Sessions => {
                let held = flight.take_held();
                self.sender.over_session(&request, route.repeatable, patience, held).await
            }
            Generation::Stateless(version) => {
                let version = version.clone();
                self.without_session(&request, &version, route, patience, flight.take_held()).await
            }
        };
        if call.is_tool_call() && flight.sent.is_set() && !call.is_stateless() {
            session.on_call();
        }
        match response {
            Err(error) if StandIns::may_answer(call, &session, &error) => {
                Ok(Box::pin(self.stand_ins.answer(&request, error)).await?)
            }
            response => Ok(response?),
        }
    }

    /// Sends a call of an HTTP client with the client's headers and returns the server's answer
    /// unchanged. `on_response` gets the headers of the answer.
    pub(super) async fn forward(
        &self,
        call: &Request,
        flight: &InFlight,
        route: &Route,
        forwarding: Forwarding<'_>,
        patience: &mut Patience,
        on_response: impl Fn(&HeaderMap) -> Option<OnResponse>,
    ) -> Result<RawAnswer, Failed> {
        let session = self.sessions.of(&route.profile);
        flight.over(Arc::clone(&session));
        let body = self.final_text(call, route)?;
        let usual = || self.responses.on_response(call, &session, body.clone());
        let exchange = Exchange {
            session: &session,
            id: call.id(),
            body: body.clone(),
            sent: &flight.sent,
            headers: None,
        };
        let attempts = Attempts::new(self.shared.retries, route.repeatable);
        let on_response = |headers: &HeaderMap| on_response(headers).unwrap_or_else(usual);
        let Forwarding { headers, returns_throttled } = forwarding;
        let forwarded =
            ForwardedRequest { call, headers, budget: flight.budget.clone(), returns_throttled };
        let answer = exchange.forward(forwarded, patience, attempts, on_response).await;
        let is_taken = answer.as_ref().is_ok_and(|answer| answer.status.is_success());
        if is_taken && call.is_tool_call() && !call.is_stateless() {
            session.on_call();
        }
        Ok(answer?)
    }

    /// The rest of the answer to `call`, which an HTTP client resumes after an event.
    pub(super) fn resume(
        &self,
        call: &Request,
        after: &str,
        frames: Frames,
    ) -> Result<FrameReading, Error> {
        let session = self.sessions.of_default();
        let on_response = self.responses.on_response(call, &session, call.bytes());
        FrameReading::resumed(call, after, frames, on_response)
    }

    /// The deadline of a call: `--tool-timeout` for calls of tools.
    pub(super) fn deadline(&self, call: &Request) -> Deadline {
        match call.is_tool_call() {
            true => Deadline::new(self.shared.tool_timeout),
            false => Deadline::none(),
        }
    }

    /// The route of a call, after loading what routing needs.
    pub(super) async fn receive_call(&self, call: &Request) -> Result<Route, Failed> {
        let route = self.route(call).instrument(phase!("route")).await?;
        if traces::in_request() {
            tracing::Span::current().record("sigward.profile", route.profile.as_str());
        }
        Ok(route)
    }

    async fn route(&self, call: &Request) -> Result<Route, Failed> {
        self.shared.metadata.load().await?;
        self.introduce(call);
        if self.router.needs_list(call)? {
            self.listing.know(call).await?;
        }
        Ok(self.router.route(call)?)
    }

    /// The text that the server receives.
    fn final_text(&self, call: &Request, route: &Route) -> Result<Bytes, Failed> {
        let metadata = self.shared.metadata.of(&route.profile);
        let text = call.finish(route.cut.clone(), &metadata);
        text.map_err(|fault| Failed::Params(sentence(&fault.to_string())))
    }

    /// Reports the client's name and version to upstream: from its handshake, or, in 2026-07-28,
    /// from any request.
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

    /// Sends the client's own handshake, which opens the default session.
    async fn initialize(
        &self,
        request: &Outbound<'_>,
        flight: &InFlight,
        patience: &mut Patience,
    ) -> Result<Message, Error> {
        let mut attempts = Attempts::new(self.shared.retries, false);
        let (reading, id) = loop {
            let handshake = request.exchange.handshake(protocol::post_headers(), patience);
            let handshake = tokio::select! {
                biased;
                begun = handshake => begun,
                late = self.signature_timeout(&request.exchange) => Err(late),
            };
            match handshake {
                Ok(begun) => break begun,
                Err(error) if error.cannot_sign() => {
                    return Box::pin(self.initialize_by_stand_in(request, flight, error)).await;
                }
                Err(error) => attempts.after(error).await?,
            }
        };
        let response = self.sender.follow(request, reading).await?.message;
        let envelope = Envelope::parse(&response.text).ok();
        let opener = lock(&flight.opener).take();
        if let (Some(result), Some(opener)) = (envelope.and_then(|it| it.result), opener) {
            self.announced.learn(result);
            opener.established(id, result);
        }
        Ok(response)
    }

    /// Returns an error once a client's handshake has waited too long for its signature: AWS may accept connections and
    /// never answer, and most clients give up on a server after half a minute. Never returns if the request was sent, or
    /// if the broker paces the profile.
    async fn signature_timeout(&self, handshake: &Exchange<'_>) -> Error {
        tokio::time::sleep(FIRST_SIGNATURE).await;
        let profile = &handshake.session.profile;
        if handshake.sent.is_set() || self.shared.broker.is_paced(profile) {
            std::future::pending::<()>().await;
        }
        self.shared.broker.refused(Reason::CredentialsUnavailable, profile)
    }

    /// Answers the client's own handshake while the default profile can't sign.
    async fn initialize_by_stand_in(
        &self,
        request: &Outbound<'_>,
        flight: &InFlight,
        why: Error,
    ) -> Result<Message, Error> {
        if let Some(opener) = lock(&flight.opener).take() {
            opener.give_way();
        }
        self.stand_ins.initialize(request.call, why).await
    }

    /// Sends a request without a session (2026-07-28 and later). If the server reports mirrored
    /// headers that don't match, lists the tools again, and repeats the call once with fresh
    /// headers.
    async fn without_session(
        &self,
        request: &Outbound<'_>,
        version: &HeaderValue,
        route: Route,
        patience: &mut Patience,
        mut held: Option<Held>,
    ) -> Result<Message, Error> {
        let mut parameters = route.headers;
        let mut relisted = false;
        let mut attempts = Attempts::new(self.shared.retries, route.repeatable);
        loop {
            let held = held.take();
            let once = self.sender.once(request, version, &parameters, patience, held);
            let response = match once.await {
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
            Box::pin(self.listing.list(request.call, Signer::Anyone)).await?;
            let fresh = self.router.catalog.tool(tool).map(|tool| tool.headers.clone());
            if fresh.as_ref().is_none_or(|fresh| *fresh == parameters) {
                return Ok(response.message);
            }
            parameters = fresh.unwrap_or_default();
        }
    }
}

/// How a call of an HTTP client is forwarded.
#[derive(Clone, Copy)]
pub(crate) struct Forwarding<'a> {
    /// The client's headers.
    pub(crate) headers: &'a HeaderMap,
    /// Whether a throttled call is returned to the caller, because its client asked for progress.
    pub(crate) returns_throttled: bool,
}
