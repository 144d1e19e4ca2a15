//! Handles POST: one message of a client.
//!
//! A request of the default profile, and any request of 2026-07-28, is forwarded unchanged. A request of another
//! profile uses a session of that profile, see [`super::composed`]. If the client closes its connection before the request
//! was sent, it isn't sent.

use std::pin::pin;
use std::sync::Arc;

use http::header::ACCEPT;
use http::{HeaderMap, Method, Response, StatusCode};
use rmcp::model::ErrorCode;
use sigward_proto::traces::Since;
use tokio::sync::mpsc;
use tracing::Instrument;

use super::answer;
use super::body::{self, Body};
use super::clients::{Busy, Part, Registered};
use super::headers;
use super::hosted;
use super::reverse::{ReverseProxy, session_is_lost};
use super::stream::CallAnswer;
use crate::budget::Message;
use crate::client::{Failed, Forwarding, GRACE, Next};
use crate::error::Error;
use crate::exchange::{Deadline, OnResponse, Patience, RawAnswer, RawBody, TooLate};
use crate::protocol::PROTOCOL_VERSION;
use crate::request::{Incoming, Request};
use crate::route::Route;
use crate::upstream::{SESSION_ID, session_id};
use crate::wire::{self, Envelope, Kind};

/// Handles messages that clients post.
pub(super) struct Posts<'a> {
    pub(super) proxy: &'a ReverseProxy,
    pub(super) part: &'a Part,
    /// When the message began to arrive.
    pub(super) begun: Since,
}

impl Posts<'_> {
    /// Handles a message or a batch.
    pub(super) async fn take(&self, headers: &HeaderMap, message: Message) -> Response<Body> {
        let Some(client) = self.proxy.client(headers) else { return answer::unknown_session() };
        let mcp = Arc::clone(&client.0.mcp);
        let text = &message.text;
        match wire::batch(text) {
            Ok(None) => {}
            Ok(Some(batch)) => return super::composed::batch(client, &batch, &message),
            Err(fault) => return answer::invalid_message(text, &fault),
        }
        let (kind, message) = match Incoming::read(message) {
            Ok(Incoming::Request(call)) if mcp.is_hosted() && !call.begins_session() => {
                return hosted::request(client, headers, call, self.part, self.begun).await;
            }
            Ok(Incoming::Request(call)) => return self.request(client, headers, call).await,
            Ok(Incoming::Other(kind, message)) => (kind, message),
            Err((fault, message)) => return answer::invalid_message(&message.text, &fault),
        };
        if mcp.is_hosted() {
            return hosted::message(&mcp, kind, &message);
        }
        let is_taken = Envelope::parse(&message.text).is_ok_and(|envelope| match kind {
            Kind::Response => mcp.take_response(&envelope, &message),
            Kind::Request | Kind::Notification => mcp.take_notification(&envelope, &message),
        });
        if is_taken {
            return answer::accepted();
        }
        // A notification or a response for the client's own session.
        self.proxy.forward(client, Method::POST, headers, message.into_bytes()).await
    }

    async fn request(&self, client: Busy, headers: &HeaderMap, call: Request) -> Response<Body> {
        let client = if call.begins_session() {
            match self.proxy.clients.begin() {
                Some(client) => client,
                None => {
                    let why = "Too many sessions; end some of them, or try again later.";
                    return answer::refusal(StatusCode::SERVICE_UNAVAILABLE, why);
                }
            }
        } else {
            client
        };
        let (out, messages) = mpsc::channel(super::composed::QUEUE);
        let registered = match Registered::begin(client, &call, out, self.part) {
            Ok(registered) => registered,
            Err(why) => {
                let error = wire::error_response(call.id(), ErrorCode::INVALID_REQUEST, why);
                return answer::json(StatusCode::OK, error);
            }
        };
        let (cancelled, span) = (registered.flight.cancel.clone(), registered.flight.span.clone());
        registered.flight.follow(&call, headers);
        registered.flight.received(self.begun);
        let traced = registered.flight.is_traced().then(|| Arc::clone(&registered.flight));
        // Boxed because it is kilobytes large, and would be copied each time an enclosing future is
        // moved.
        let answer = Box::pin(self.answer(registered, headers, call, messages));
        let answered = cancelled.run_until_cancelled(answer.instrument(span)).await;
        let answer = answered.unwrap_or_else(answer::cancelled);
        // An event stream itself reports when the reply is sent.
        if let Some(flight) = traced.filter(|_| !answer::is_events(&answer)) {
            flight.reply();
        }
        answer
    }

    async fn answer(
        &self,
        registered: Registered,
        headers: &HeaderMap,
        call: Request,
        messages: mpsc::Receiver<Message>,
    ) -> Response<Body> {
        let mcp = Arc::clone(&registered.client.0.mcp);
        let call = match mcp.resumed(&call).await {
            Ok(resumed) => resumed.unwrap_or(call),
            Err(failed) => return answer::failed(failed, &call),
        };
        let mut deadline = mcp.deadline(&call);
        let mut signed_in = false;
        loop {
            let late = || mcp.too_late(&call, &registered.flight);
            let route = match deadline.within(mcp.receive_call(&call)).await {
                Ok(Ok(route)) => route,
                Ok(Err(Failed::Exchange(error))) if session_is_lost(&error) => {
                    self.proxy.forget(headers);
                    return answer::lost(&call);
                }
                Ok(Err(failed)) => return answer::failed(failed, &call),
                Err(TooLate) => return answer::failed(late(), &call),
            };
            let sent = match headers::upstream(headers, route.cut_argument.as_deref()) {
                Ok(sent) => sent,
                Err(why) => {
                    return answer::refused(StatusCode::BAD_REQUEST, &call, &why.to_string());
                }
            };
            let is_default = route.profile == *self.proxy.shared.profiles.default();
            if mcp.has_session() && !call.is_stateless() && !is_default {
                registered.flight.carry(headers::beside_mcp(sent));
                return super::composed::call(registered, call, messages, takes_events(headers))
                    .await;
            }
            // Progress is sent within an answer of the proxy: the server's own answer begins only when it has accepted
            // the call.
            let sends_progress =
                !call.begins_session() && takes_events(headers) && Patience::wants_progress(&call);
            if sends_progress && mcp.is_paced(&route.profile) {
                registered.flight.carry(headers::beside_mcp(sent));
                return super::composed::call(registered, call, messages, true).await;
            }
            let beside = sends_progress.then(|| headers::beside_mcp(sent.clone()));
            let mut patience = mcp.patience(&call, &registered.flight, deadline);
            let sent = {
                let (flight, patience) = (&registered, &mut patience);
                let sending =
                    pin!(self.send_call(flight, sent, &call, &route, patience, sends_progress));
                deadline.within(sending).await
            };
            let failure = match sent {
                Ok(Ok(RawAnswer { body: RawBody::Throttled(held), .. })) => {
                    registered.flight.carry(beside.unwrap_or_default());
                    registered.flight.hold(held);
                    return super::composed::call(registered, call, messages, true).await;
                }
                Ok(Ok(answer)) => {
                    return self.forward_answer(answer, registered, headers, call, deadline).await;
                }
                Ok(Err(failure)) => failure,
                Err(TooLate) => return answer::failed(late(), &call),
            };
            if matches!(&failure, Failed::Exchange(error) if session_is_lost(error)) {
                self.proxy.forget(headers);
                return answer::lost(&call);
            }
            let profile = failure.login_required().filter(|_| !signed_in && mcp.can_sign_in(&call));
            let Some(profile) = profile else {
                return match failure {
                    Failed::Exchange(error) if call.begins_session() && error.cannot_sign() => {
                        Box::pin(hosted::begin(self.proxy, headers, call, self.part)).await
                    }
                    failure if mcp.is_answered_without(&call, &failure) => {
                        super::composed::call(registered, call, messages, takes_events(headers))
                            .await
                    }
                    failure => answer::failed(failure, &call),
                };
            };
            if !call.is_stateless() {
                // The client is asked within the answer, so that the proxy must build it.
                return super::composed::call(registered, call, messages, takes_events(headers))
                    .await;
            }
            match Box::pin(mcp.sign_in(&call, profile, registered.flight.out())).await {
                Next::Again => {
                    signed_in = true;
                    // The time that a person takes to sign in doesn't count for the call.
                    deadline = mcp.deadline(&call);
                }
                Next::Respond(response) => return answer::json(StatusCode::OK, response),
                Next::Fail(failed) => return answer::failed(failed, &call),
            }
        }
    }

    async fn send_call(
        &self,
        registered: &Registered,
        mut headers: HeaderMap,
        call: &Request,
        route: &Route,
        patience: &mut Patience,
        returns_throttled: bool,
    ) -> Result<RawAnswer, Failed> {
        if call.begins_session() {
            // No version is negotiated yet, whatever an earlier session had.
            headers.remove(SESSION_ID);
            headers.remove(PROTOCOL_VERSION);
        }
        let (mcp, flight) = (registered.client(), &registered.flight);
        let on_response = |answered: &HeaderMap| self.establishing(registered, call, answered);
        let forwarding = Forwarding { headers: &headers, returns_throttled };
        mcp.forward(call, flight, route, forwarding, patience, on_response).await
    }

    /// Processes a handshake's response, which opens a session of this client.
    fn establishing(
        &self,
        registered: &Registered,
        call: &Request,
        answered: &HeaderMap,
    ) -> Option<OnResponse> {
        let id = session_id(answered).filter(|_| call.begins_session())?;
        let params = call.params()?.to_owned();
        let (client, clients) = (Arc::clone(&registered.client.0), Arc::clone(&self.proxy.clients));
        let ending = self.proxy.ending.clone();
        let establish = move |message: &str| {
            let result = Envelope::parse(message).ok().and_then(|envelope| envelope.result);
            if let Some(result) = result {
                client.mcp.established(&params, id.clone(), result);
                clients.opened(&client, &params);
                let earlier = clients.insert(id.clone(), Arc::clone(&client));
                // The server gave one id twice: the session belongs to the new client, and only here the other client's
                // sessions of other profiles can be closed.
                if let Some(earlier) = earlier {
                    earlier.mcp.forget_default();
                    ending.spawn(async move { earlier.mcp.close(GRACE).await });
                }
            }
            None
        };
        Some(OnResponse { inspect: Box::new(establish), needs_whole: true })
    }

    /// Forwards an answer of the server.
    async fn forward_answer(
        &self,
        answer: RawAnswer,
        registered: Registered,
        headers: &HeaderMap,
        call: Request,
        deadline: Deadline,
    ) -> Response<Body> {
        let RawAnswer { status, headers: answered, body } = answer;
        let (mut reading, begun) = match body {
            RawBody::Frames(reading, begun) => (*reading, begun),
            RawBody::Failure(failure) => {
                return self.proxy.failed(headers, Some(&call), failure, &answered);
            }
            // A throttled answer is handled by the caller.
            RawBody::Throttled(_) => return answer::failed(Error::NoAnswer.into(), &call),
        };
        if reading.is_events() {
            registered.flight.reply();
            let answer = CallAnswer::new(reading, call, registered, deadline)
                .on_expired(self.proxy.forgetting(headers));
            return answer::of_call(status, &answered, answer.with_first(begun), None);
        }
        // A single message: its content decides the status.
        let first = async {
            match begun {
                Some(begun) => begun,
                None => reading.next().await,
            }
        };
        match deadline.within(first).await {
            Ok(Ok(Some(_))) if reading.is_expired() => {
                self.proxy.forget(headers);
                answer::lost(&call)
            }
            Ok(Ok(Some(whole))) if reading.is_done() => match reading.missing() {
                Some(error) => answer::failed(error.into(), &call),
                None => answer::head(status, &answered, body::full(whole)),
            },
            Ok(Ok(begun)) => {
                let answer = CallAnswer::new(reading, call, registered, deadline);
                answer::of_call(status, &answered, answer, begun)
            }
            Ok(Err(error)) => answer::failed(error.into(), &call),
            Err(TooLate) => {
                let late = registered.client().too_late(&call, &registered.flight);
                answer::failed(late, &call)
            }
        }
    }
}

/// Whether a client accepts an event stream as an answer. An MCP client declares it; any other gets
/// only the response.
pub(super) fn takes_events(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(ACCEPT).iter().peekable();
    let is_silent = accepted.peek().is_none();
    let named = |value: &str| {
        let mut kinds =
            value.split(',').map(|kind| kind.split(';').next().unwrap_or_default().trim());
        kinds.any(|kind| {
            ["text/event-stream", "text/*", "*/*"].iter().any(|it| it.eq_ignore_ascii_case(kind))
        })
    };
    is_silent || accepted.any(|value| value.to_str().is_ok_and(named))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_accepts_only_json_gets_no_events() {
        let takes = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| {
                headers.append(ACCEPT, http::HeaderValue::from_static(value));
            });
            takes_events(&headers)
        };
        assert!(takes(&[]));
        assert!(takes(&["application/json, text/event-stream"]));
        assert!(takes(&["application/json", "Text/Event-Stream;q=0.5"]));
        assert!(takes(&["*/*"]));
        assert!(!takes(&["application/json"]));
        assert!(!takes(&["text/plain, application/json"]));
    }
}
