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
use super::clients::{Busy, Client, Registered};
use super::stream::CallAnswer;
use super::{Reverse, headers, session_is_lost};
use crate::budget::Message;
use crate::client::{Failed, GRACE, Next, Route};
use crate::exchange::{Deadline, OnResponse, RawAnswer, RawBody, TooLate};
use crate::protocol::PROTOCOL_VERSION;
use crate::request::{Incoming, Request};
use crate::upstream::SESSION_ID;
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
            Ok(Incoming::Request(call)) => return self.request(client, headers, call).await,
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
        // A notification or a response, for the client's own session.
        self.pass(client, Method::POST, headers, message.into_bytes()).await
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
        let registered = match Registered::begin(client, &call, out) {
            Ok(registered) => registered,
            Err(why) => {
                let error = wire::error_response(call.id(), ErrorCode::INVALID_REQUEST, why);
                return answer::json(StatusCode::OK, error);
            }
        };
        let cancelled = registered.flight.cancel.clone();
        let answered =
            cancelled.run_until_cancelled(self.answer(registered, headers, call, messages)).await;
        answered.unwrap_or_else(answer::nothing)
    }

    async fn answer(
        &self,
        registered: Registered,
        headers: &HeaderMap,
        call: Request,
        messages: mpsc::Receiver<Message>,
    ) -> Response<Body> {
        let relay = Arc::clone(&registered.client.0.relay);
        let call = match relay.resumed(&call).await {
            Ok(resumed) => resumed.unwrap_or(call),
            Err(failed) => return answer::failed(failed, &call),
        };
        let mut deadline = relay.deadline(&call);
        let mut signed_in = false;
        loop {
            let late = || relay.too_late(&call, &registered.flight);
            let route = match deadline.within(relay.receive_call(&call)).await {
                Ok(Ok(route)) => route,
                Ok(Err(Failed::Exchange(error))) if session_is_lost(&error) => {
                    return answer::lost(&call);
                }
                Ok(Err(failed)) => return answer::failed(failed, &call),
                Err(TooLate) => return answer::failed(late(), &call),
            };
            let is_default = route.profile == *self.shared.profiles.default();
            if relay.has_session() && !call.is_stateless() && !is_default {
                return super::own::call(registered, call, messages).await;
            }
            let sending = self.send_call(&registered, headers, &call, &route);
            let failure = match deadline.within(sending).await {
                Ok(Ok(answer)) => {
                    return self.passed(answer, registered, headers, call, deadline).await;
                }
                Ok(Err(failure)) => failure,
                Err(TooLate) => return answer::failed(late(), &call),
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
                return super::own::call(registered, call, messages).await;
            }
            match relay.sign_in(&call, profile, registered.flight.out()).await {
                Next::Again => {
                    signed_in = true;
                    // What a person takes to sign in isn't the call's.
                    deadline = relay.deadline(&call);
                }
                Next::Respond(response) => return answer::json(StatusCode::OK, response),
                Next::Fail(failed) => return answer::failed(failed, &call),
            }
        }
    }

    async fn send_call(
        &self,
        registered: &Registered,
        headers: &HeaderMap,
        call: &Request,
        route: &Route,
    ) -> Result<RawAnswer, Failed> {
        let mut headers = headers::upstream(headers, route.cut_argument.as_deref());
        if call.begins_session() {
            // What is negotiated has no version yet, whatever an earlier session had.
            headers.remove(SESSION_ID);
            headers.remove(PROTOCOL_VERSION);
        }
        let (relay, flight) = (registered.client(), &registered.flight);
        let on_response = |answered: &HeaderMap| self.establishing(registered, call, answered);
        relay.pass(call, flight, route, &headers, on_response).await
    }

    /// What a handshake's response means: a session of this client.
    fn establishing(
        &self,
        registered: &Registered,
        call: &Request,
        answered: &HeaderMap,
    ) -> Option<OnResponse> {
        let id = answered.get(SESSION_ID).filter(|_| call.begins_session())?.clone();
        let params = call.params()?.to_owned();
        let (client, clients) = (Arc::clone(&registered.client.0), Arc::clone(&self.clients));
        let establish = move |message: &str| {
            let result = Envelope::parse(message).ok().and_then(|envelope| envelope.result);
            if let Some(result) = result {
                client.relay.established(&params, id.clone(), result);
                let earlier = clients.insert(id.clone(), Arc::clone(&client));
                // A server that gives one id twice: the session is the new client's, and nobody else would
                // end what the other one has of other profiles.
                if let Some(earlier) = earlier {
                    earlier.relay.forget_default();
                    end(earlier);
                }
            }
            None
        };
        Some(OnResponse { inspect: Box::new(establish), needs_whole: true })
    }

    /// An answer of the server.
    async fn passed(
        &self,
        answer: RawAnswer,
        registered: Registered,
        headers: &HeaderMap,
        call: Request,
        deadline: Deadline,
    ) -> Response<Body> {
        let RawAnswer { status, headers: answered, body } = answer;
        let mut reading = match body {
            RawBody::Frames(reading) => reading,
            RawBody::Failure(failure) => {
                return self.failed(headers, Some(&call), failure, &answered);
            }
        };
        if reading.is_events() {
            let answer = CallAnswer::new(reading, call, registered, deadline);
            return answer::of_call(status, &answered, answer, None);
        }
        // One message: what becomes of it decides the status.
        match deadline.within(reading.next()).await {
            Ok(Ok(Some(_))) if reading.says_expired() => {
                self.forget(headers);
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

    /// The session that a request came with is gone, and with it those of the other profiles.
    pub(super) fn forget(&self, headers: &HeaderMap) {
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
