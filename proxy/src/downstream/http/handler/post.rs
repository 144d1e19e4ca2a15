//! POST: one message of a client.
//!
//! A request of the default profile, and any of 2026-07-28, goes on as it is; one of another profile
//! goes over a session of that profile, see [`super::own`]. Where the client closes its connection
//! before anything was sent, nothing is.

use std::sync::Arc;

use http::{HeaderMap, Method, Response, StatusCode};
use rmcp::model::ErrorCode;
use tokio::sync::mpsc;

use super::answer;
use super::body::{self, Body};
use super::clients::{Busy, Client, Underway};
use super::deadline::Deadline;
use super::passing::Passing;
use super::rule::{Rule, Watch};
use super::{Reverse, headers, session_is_lost};
use crate::budget::Message;
use crate::client::{Failed, GRACE, Next, Relay, Route};
use crate::config::ProfileName;
use crate::error::Error;
use crate::exchange::Attempts;
use crate::protocol::PROTOCOL_VERSION;
use crate::request::{Incoming, Request};
use crate::session::is_lost;
use crate::upstream::{Failure, Outgoing, Passed, SESSION_ID};
use crate::wire::{self, Envelope, Kind};

impl Reverse {
    /// Takes a message, or a batch.
    pub(crate) async fn post(&self, headers: &HeaderMap, message: Message) -> Response<Body> {
        let Some(client) = self.client(headers) else { return answer::unknown_session() };
        let relay = Arc::clone(&client.0.relay);
        let text = &message.text;
        match wire::batch(text) {
            Ok(None) => {}
            Ok(Some(batch)) => return super::own::batch(client, &batch, &message),
            Err(fault) => return answer::malformed(text, &fault),
        }
        let (kind, message) = match Incoming::read(message) {
            Ok(Incoming::Request(call)) => {
                relay.on_request(&call);
                return self.request(client, headers, call).await;
            }
            Ok(Incoming::Other(kind, message)) => (kind, message),
            Err((fault, message)) => return answer::malformed(&message.text, &fault),
        };
        let is_taken = Envelope::parse(&message.text).is_ok_and(|envelope| match kind {
            Kind::Response => relay.take_response(&envelope, &message),
            Kind::Request | Kind::Notification => relay.take_notification(&envelope, &message),
        });
        if is_taken {
            return answer::accepted();
        }
        self.unanswered(client, headers, message).await
    }

    /// A notification or a response, for the client's own session.
    async fn unanswered(
        &self,
        client: Busy,
        headers: &HeaderMap,
        message: Message,
    ) -> Response<Body> {
        let budget = client.0.relay.budget().clone();
        let out = self.outgoing(&client, Method::POST, headers, message.into_bytes());
        match client.0.relay.upstream().pass(out).await {
            Ok(Passed::Success(response)) => {
                answer::stream(response, &budget, client, |passing| passing)
            }
            Ok(Passed::Failure { failure, headers: answered, body }) => {
                let is_lost = self.forget_if_lost(headers, &failure);
                answer::failure(None, failure, is_lost, &answered, body)
            }
            Err(error) => answer::unreachable(&error),
        }
    }

    async fn request(&self, client: Busy, headers: &HeaderMap, call: Request) -> Response<Body> {
        let client = if call.begins_session() {
            match self.clients.begin() {
                Some(client) => client,
                None => {
                    let why = "Too many sessions; end some of them, or try again later.";
                    return answer::refusal(StatusCode::SERVICE_UNAVAILABLE, why);
                }
            }
        } else {
            client
        };
        let (out, messages) = mpsc::channel(super::own::QUEUE);
        let underway = match Underway::begin(client, &call, out) {
            Ok(underway) => underway,
            Err(why) => {
                let error = wire::error_response(call.id(), ErrorCode::INVALID_REQUEST, why);
                return answer::json(StatusCode::OK, error);
            }
        };
        let cancelled = underway.flight.cancel.clone();
        let answered =
            cancelled.run_until_cancelled(self.answer(underway, headers, call, messages)).await;
        answered.unwrap_or_else(answer::nothing)
    }

    async fn answer(
        &self,
        underway: Underway,
        headers: &HeaderMap,
        call: Request,
        messages: mpsc::Receiver<Message>,
    ) -> Response<Body> {
        let relay = Arc::clone(&underway.client.0.relay);
        let call = match relay.resumed(&call).await {
            Ok(resumed) => resumed.unwrap_or(call),
            Err(failed) => return answer::failed(failed, &call),
        };
        let mut deadline = self.deadline(&underway, &call);
        let mut signed_in = false;
        loop {
            let route = match deadline.within(relay.receive_call(&call)).await {
                Ok(Ok(route)) => route,
                Ok(Err(Failed::Exchange(error))) if session_is_lost(&error) => {
                    return answer::lost(&call);
                }
                Ok(Err(failed)) => return answer::failed(failed, &call),
                Err(late) => return answer::json(StatusCode::OK, late),
            };
            let is_default = route.profile == *self.shared.profiles.default();
            if relay.has_session() && !call.is_stateless() && !is_default {
                return super::own::call(underway, call, messages).await;
            }
            let sending = self.send(&relay, &underway, headers, &call, &route);
            let sent = match deadline.within(sending).await {
                Ok(sent) => sent,
                Err(late) => return answer::json(StatusCode::OK, late),
            };
            let failure = match sent {
                Ok(Passed::Success(response)) => {
                    let watch = self.watch(&underway, &call, &response, route.profile.clone());
                    return self.passed(response, underway, headers, &call, watch, deadline).await;
                }
                Ok(Passed::Failure { failure, headers: answered, body }) => {
                    let is_lost = self.forget_if_lost(headers, &failure);
                    return answer::failure(Some(&call), failure, is_lost, &answered, body);
                }
                Err(failure) => failure,
            };
            if matches!(&failure, Failed::Exchange(error) if session_is_lost(error)) {
                return answer::lost(&call);
            }
            let profile =
                failure.login_required().filter(|_| !signed_in && relay.can_sign_in(&call));
            let Some(profile) = profile else {
                return answer::failed(failure, &call);
            };
            if !call.is_stateless() {
                // The client is asked in the middle of the answer, which is ours then.
                return super::own::call(underway, call, messages).await;
            }
            match relay.sign_in(&call, profile, underway.flight.out()).await {
                Next::Again => {
                    signed_in = true;
                    // What a person takes to sign in isn't the call's.
                    deadline = self.deadline(&underway, &call);
                }
                Next::Respond(response) => return answer::json(StatusCode::OK, response),
                Next::Fail(failed) => return answer::failed(failed, &call),
            }
        }
    }

    async fn send(
        &self,
        relay: &Relay,
        underway: &Underway,
        headers: &HeaderMap,
        call: &Request,
        route: &Route,
    ) -> Result<Passed, Failed> {
        let mut headers = headers::upstream(headers, route.cut_argument.as_deref());
        if call.begins_session() {
            // What is negotiated has no version yet, whatever an earlier session had.
            headers.remove(SESSION_ID);
            headers.remove(PROTOCOL_VERSION);
        }
        let out = Outgoing {
            profile: route.profile.clone(),
            method: Method::POST,
            headers,
            body: relay.final_text(call, route)?,
            patient: call.method() == "subscriptions/listen",
            sent: underway.flight.sent.clone(),
            budget: relay.budget().clone(),
        };
        underway.flight.over(relay.default_session());
        let mut attempts = Attempts::new(self.shared.retries, route.repeatable);
        loop {
            match relay.upstream().pass(out.clone()).await {
                Ok(passed) => return Ok(passed),
                Err(error) => attempts.after(error).await?,
            }
        }
    }

    /// What there is to see or to change in the messages of an answer.
    fn watch(
        &self,
        underway: &Underway,
        call: &Request,
        response: &reqwest::Response,
        profile: ProfileName,
    ) -> Option<Watch> {
        let relay = Arc::clone(&underway.client.0.relay);
        if call.begins_session() {
            let id = response.headers().get(SESSION_ID)?.clone();
            let params = call.params()?.to_owned();
            let client = Arc::clone(&underway.client.0);
            let reverse = self.clients.clone();
            let establish = move |message: &str| {
                let result = Envelope::parse(message).ok().and_then(|envelope| envelope.result);
                if let Some(result) = result {
                    relay.established(&params, id.clone(), result);
                    reverse.insert(id.clone(), Arc::clone(&client));
                }
                None
            };
            return Some(Watch { inspect: Box::new(establish), needs_whole: true });
        }
        if call.method() == "tools/list" {
            let rewrite = move |message: &str| relay.rewrite_list(message);
            return Some(Watch { inspect: Box::new(rewrite), needs_whole: true });
        }
        if !call.is_tool_call() {
            return None;
        }
        let learn = move |message: &str| {
            relay.learn_task(&profile, message);
            None
        };
        Some(Watch { inspect: Box::new(learn), needs_whole: false })
    }

    /// A successful answer.
    async fn passed(
        &self,
        mut response: reqwest::Response,
        underway: Underway,
        headers: &HeaderMap,
        call: &Request,
        watch: Option<Watch>,
        mut deadline: Deadline,
    ) -> Response<Body> {
        let upstream = &self.shared.upstream;
        let budget = &underway.client.0.relay.budget().clone();
        let mut rule = Rule::new(call.id().clone(), watch);
        let kind = crate::upstream::media_type(&response);
        match kind.as_deref() {
            // Silence has no limit: the server may keep such a stream alive or not.
            Some("text/event-stream") => {
                let adapt = |passing: Passing| passing.until(deadline).judged(rule);
                answer::stream(response, budget, underway, adapt)
            }
            Some("application/json") => {
                let mut answer = answer::head(&response);
                let read = upstream.read_timeout();
                let begun = body::beginning(&mut response, read);
                let text = match deadline.within(begun).await {
                    Err(late) => return answer::json(StatusCode::OK, late),
                    Ok(Ok((begun, false))) if rule.passes_by(&begun) => {
                        let adapt = |passing: Passing| passing.until(deadline);
                        return answer::stream_after(begun, response, budget, underway, adapt);
                    }
                    Ok(Ok((begun, _))) => {
                        let whole = body::whole(begun, response, budget, &mut rule, read);
                        match deadline.within(whole).await {
                            Err(late) => return answer::json(StatusCode::OK, late),
                            Ok(text) => text,
                        }
                    }
                    Ok(Err(cut)) => Err(cut),
                };
                match text {
                    Ok(None) => answer::failed(Error::ForeignAnswer.into(), call),
                    Ok(Some(text)) => {
                        if std::str::from_utf8(&text).is_ok_and(Relay::says_expired) {
                            self.forget(headers);
                            return answer::lost(call);
                        }
                        *answer.body_mut() = body::full(text);
                        answer
                    }
                    Err(cut) => {
                        let (host, detail) = (upstream.host().to_owned(), cut.to_string());
                        answer::failed(Error::Interrupted { host, detail }.into(), call)
                    }
                }
            }
            _ => answer::stream(response, budget, underway, |passing| passing.until(deadline)),
        }
    }

    /// When a call of a tool has taken too long, and what ends it then.
    fn deadline(&self, underway: &Underway, call: &Request) -> Deadline {
        if !call.is_tool_call() {
            return Deadline::none();
        }
        let limit = self.shared.tool_timeout;
        let [sent, unsent] =
            [true, false].map(|sent| Failed::TimedOut(limit, sent).into_response(call));
        let (client, flight) = (Arc::clone(&underway.client.0), Arc::clone(&underway.flight));
        let id = call.id().clone();
        Deadline::new(limit, async move {
            client.relay.abandon(&id, &flight, "the call took too long");
            if flight.sent.is_set() { sent } else { unsent }
        })
    }

    /// Where the server says that the client's session is lost, those of the other profiles go too.
    pub(super) fn forget_if_lost(&self, headers: &HeaderMap, failure: &Failure) -> bool {
        let is_lost = is_lost(failure, headers.contains_key(SESSION_ID));
        if is_lost {
            self.forget(headers);
        }
        is_lost
    }

    /// The session that a request came with is gone.
    fn forget(&self, headers: &HeaderMap) {
        let client = headers.get(SESSION_ID).and_then(|id| self.clients.remove(id));
        if let Some(client) = client {
            client.relay.forget_default();
            end(client);
        }
    }
}

/// Ends what belongs to a client; nobody waits for it.
pub(super) fn end(client: Arc<Client>) {
    tokio::spawn(async move { client.relay.close(GRACE).await });
}
