//! POST: one message of a client.
//!
//! A request of the default profile, and any of 2026-07-28, goes on as it is; one of another profile
//! goes over a session of that profile, see [`super::own`]. Where the client closes its connection
//! before anything was sent, nothing is.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Method, Response, StatusCode};
use rmcp::model::ErrorCode;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::answer::{self, Deadline};
use super::body::{self, Body, Inspect, Passing};
use super::clients::{Busy, Client, Underway};
use super::{Reverse, headers, session_is_lost};
use crate::budget::Message;
use crate::error::Error;
use crate::protocol::PROTOCOL_VERSION;
use crate::relay::{Call, Failed, GRACE, Head, Next, Relay, Route, of_client, repaired};
use crate::upstream::{Outgoing, Passed, SESSION_ID};
use crate::wire::{self, Envelope, Id, Kind};

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
        let envelope = match of_client(text) {
            Ok(envelope) => envelope,
            Err(fault) => return answer::malformed(text, &fault),
        };
        match envelope.kind {
            Kind::Request => {
                relay.heed(&envelope);
                let call = Head::read(&envelope).with(message);
                self.request(client, headers, call).await
            }
            Kind::Notification if relay.noted(&envelope, text) => answer::accepted(),
            Kind::Response if relay.took_answer(&envelope, text) => answer::accepted(),
            Kind::Notification | Kind::Response => {
                self.unanswered(client, headers, message.text).await
            }
        }
    }

    /// A notification or a response, for the client's own session.
    async fn unanswered(&self, client: Busy, headers: &HeaderMap, text: String) -> Response<Body> {
        let out = self.outgoing(Method::POST, headers, text.into());
        match self.shared.upstream.pass(out, &std::sync::atomic::AtomicBool::new(false)).await {
            Ok(Passed::Success(response)) => answer::stream(response, client, |passing| passing),
            Ok(Passed::Failure { failure, headers: answered, body }) => {
                self.forget_if_lost(headers, &failure);
                answer::failure(None, failure, &answered, body)
            }
            Err(error) => answer::unreachable(&error),
        }
    }

    async fn request(&self, client: Busy, headers: &HeaderMap, call: Call) -> Response<Body> {
        let client = if begins_session(&call) {
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
        let underway = match Underway::begin(client, &call.head, out) {
            Ok(underway) => underway,
            Err(why) => {
                let error = wire::error_response(&call.head.id, ErrorCode::INVALID_REQUEST, why);
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
        call: Call,
        messages: mpsc::Receiver<Message>,
    ) -> Response<Body> {
        let relay = Arc::clone(&underway.client.0.relay);
        let call = match relay.resumed(&call).await {
            Ok(resumed) => resumed.unwrap_or(call),
            Err(failed) => return answer::failed(failed, &call),
        };
        let mut deadline = call.is_tool_call().then(|| self.deadline(&underway, &call));
        let mut signed_in = false;
        loop {
            let route = match relay.receive_call(&call).await {
                Ok(route) => route,
                Err(Failed::Exchange(error)) if session_is_lost(&error) => {
                    return answer::lost(&call);
                }
                Err(failed) => return answer::failed(failed, &call),
            };
            let is_default = route.profile == *self.shared.profiles.default();
            if relay.has_session() && !call.head.generation.is_stateless() && !is_default {
                return super::own::call(underway, call, messages).await;
            }
            let sending = self.send(&relay, &underway, headers, &call, &route);
            let sent = match in_time(&mut deadline, sending).await {
                Ok(sent) => sent,
                Err(late) => return answer::json(StatusCode::OK, late),
            };
            let error = match sent {
                Ok(Passed::Success(response)) => {
                    let profile = (!is_default).then_some(route.profile.clone());
                    let inspect = self.inspection(&underway, &call, &response, profile);
                    return self
                        .passed(response, underway, headers, &call, inspect, deadline)
                        .await;
                }
                Ok(Passed::Failure { failure, headers: answered, body }) => {
                    self.forget_if_lost(headers, &failure);
                    return answer::failure(Some(&call), failure, &answered, body);
                }
                Err(error) => error,
            };
            if session_is_lost(&error) {
                return answer::lost(&call);
            }
            let profile = error.login_required().filter(|_| !signed_in && relay.can_sign_in(&call));
            let Some(profile) = profile else {
                return answer::failed(error.into(), &call);
            };
            if !call.head.generation.is_stateless() {
                // The client is asked in the middle of the answer, which is ours then.
                return super::own::call(underway, call, messages).await;
            }
            match relay.sign_in(&call, profile, underway.flight.out()).await {
                Next::Again => signed_in = true,
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
        call: &Call,
        route: &Route<'_>,
    ) -> Result<Passed, Error> {
        let mut headers = headers::upstream(headers, route.cut.as_deref());
        if begins_session(call) {
            // What is negotiated has no version yet, whatever an earlier session had.
            headers.remove(SESSION_ID);
            headers.remove(PROTOCOL_VERSION);
        }
        let out = Outgoing {
            profile: route.profile.clone(),
            method: Method::POST,
            headers,
            body: Bytes::from(relay.final_text(route)),
            patient: call.head.method == "subscriptions/listen",
        };
        underway.flight.over(relay.default_session());
        let sent = &underway.flight.sent;
        let upstream = &self.shared.upstream;
        relay
            .attempts(self.shared.retries, route.repeatable, || upstream.pass(out.clone(), sent))
            .await
    }

    /// What there is to see or to change in the messages of an answer.
    fn inspection(
        &self,
        underway: &Underway,
        call: &Call,
        response: &reqwest::Response,
        profile: Option<crate::config::ProfileName>,
    ) -> Option<Inspect> {
        let relay = Arc::clone(&underway.client.0.relay);
        if begins_session(call) {
            let id = response.headers().get(SESSION_ID)?.clone();
            let params = Envelope::parse(call.text()).ok()?.params?.to_owned();
            let client = Arc::clone(&underway.client.0);
            let reverse = self.clients.clone();
            return Some(Box::new(move |message| {
                let result = Envelope::parse(message).ok().and_then(|envelope| envelope.result);
                if let Some(result) = result {
                    relay.established(&params, id.clone(), result);
                    reverse.insert(id.clone(), Arc::clone(&client));
                }
                None
            }));
        }
        if call.head.method == "tools/list" {
            return Some(Box::new(move |message| relay.rewrite_list(message)));
        }
        let profile = profile.filter(|_| call.is_tool_call())?;
        Some(Box::new(move |message| {
            relay.learn_task(&profile, message);
            None
        }))
    }

    /// A successful answer.
    async fn passed(
        &self,
        mut response: reqwest::Response,
        underway: Underway,
        headers: &HeaderMap,
        call: &Call,
        inspect: Option<Inspect>,
        mut deadline: Option<Deadline>,
    ) -> Response<Body> {
        let upstream = &self.shared.upstream;
        let kind = crate::upstream::media_type(&response);
        match (kind.as_deref(), inspect) {
            (Some("text/event-stream"), Some(inspect)) => {
                let mut answer = answer::head(&response);
                let budget = upstream.budget().clone();
                let inspect = repairing(call.head.id.clone(), is_bent, Some(inspect));
                // As in `answer::stream`, silence has no limit: the server may keep it alive or not.
                let events = body::inspected(response, budget, inspect, None, underway);
                *answer.body_mut() = body::flowing(body::ending_at(events, deadline));
                answer
            }
            (Some("text/event-stream"), None) => {
                let inspect = repairing(call.head.id.clone(), is_bent, None);
                let adapt = |passing: Passing| passing.until(deadline).inspected(inspect);
                answer::stream(response, underway, adapt)
            }
            (Some("application/json"), inspect) => {
                let is_large =
                    response.content_length().is_some_and(|length| length > body::SMALL as u64);
                if is_large && inspect.is_none() {
                    return answer::stream(response, underway, |passing| passing.until(deadline));
                }
                let mut answer = answer::head(&response);
                let read = Some(upstream.read_timeout());
                let begun = body::beginning(&mut response, read);
                let text = match in_time(&mut deadline, begun).await {
                    Err(late) => return answer::json(StatusCode::OK, late),
                    Ok(Ok((begun, false))) if inspect.is_none() => {
                        let adapt = |passing: Passing| passing.until(deadline);
                        return answer::stream_after(begun, response, underway, adapt);
                    }
                    Ok(Ok((begun, _))) => {
                        let mut repair = repairing(call.head.id.clone(), |_| true, inspect);
                        let budget = upstream.budget();
                        let whole = body::whole(begun, response, budget, &mut repair, read);
                        match in_time(&mut deadline, whole).await {
                            Err(late) => return answer::json(StatusCode::OK, late),
                            Ok(text) => text,
                        }
                    }
                    Ok(Err(cut)) => Err(cut),
                };
                match text {
                    Ok(text) => {
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
            _ => answer::stream(response, underway, |passing| passing.until(deadline)),
        }
    }

    /// When a call of a tool has taken too long, and what ends it then.
    fn deadline(&self, underway: &Underway, call: &Call) -> Deadline {
        let limit = self.shared.tool_timeout;
        let response = Failed::TimedOut(limit).into_response(call);
        let (client, flight) = (Arc::clone(&underway.client.0), Arc::clone(&underway.flight));
        let id = call.head.id.clone();
        let late = async move {
            client.relay.abandon(&id, &flight, "the call took too long");
            response
        };
        (Instant::now() + limit, late.boxed())
    }

    /// Where the server says that the client's session is gone, those of the other profiles go too.
    pub(super) fn forget_if_lost(&self, headers: &HeaderMap, failure: &crate::upstream::Failure) {
        if super::is_expired(failure) {
            self.forget(headers);
        }
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

/// What comes of `work`, or what the client gets where that takes too long.
async fn in_time<T>(
    deadline: &mut Option<Deadline>,
    work: impl Future<Output = T>,
) -> Result<T, String> {
    let Some((at, late)) = deadline else { return Ok(work.await) };
    match tokio::time::timeout_at(*at, work).await {
        Ok(done) => Ok(done),
        Err(_) => Err(late.await),
    }
}

/// Repairs those messages, responses to the request `id`, that `are_meant`. Then has each inspected.
fn repairing(
    id: Id,
    are_meant: fn(&Envelope<'_>) -> bool,
    mut inspect: Option<Inspect>,
) -> Inspect {
    Box::new(move |message| {
        let meant = Envelope::parse(message).ok().filter(are_meant);
        let repaired = meant.and_then(|envelope| repaired(message, &envelope, &id));
        let seen = repaired.as_deref().unwrap_or(message);
        let changed = inspect.as_mut().and_then(|inspect| inspect(seen));
        changed.or(repaired)
    })
}

/// Whether a message in the stream of a request is an error that its client couldn't tell to be the
/// response: one beside a result, or under no id. The others stay as they are.
fn is_bent(envelope: &Envelope<'_>) -> bool {
    let has_id = envelope.id.is_some_and(|id| id != "null" && id != "\"\"");
    let is_error = envelope.kind == Kind::Response && envelope.error.is_some();
    is_error && (envelope.result.is_some() || !has_id)
}

/// Ends what belongs to a client; nobody waits for it.
pub(super) fn end(client: Arc<Client>) {
    tokio::spawn(async move { client.relay.close(GRACE).await });
}

fn begins_session(call: &Call) -> bool {
    call.head.method == "initialize" && !call.head.generation.is_stateless()
}
