//! The life of one request: received, verified, recorded, scripted or answered.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Response};

use super::message::Message;
use super::record::{Received, Record};
use super::reply::{self, Reply, Step};
use super::script::Script;
use super::sessions::{self, Sessions};
use super::stateless;
use super::tools::Tools;
use super::{Answers, Era};
use crate::loopback::{Body, HangUp};
use crate::sigv4::{Refusal, Request, Verified, Verifier};

/// The state that all connections share.
#[derive(Debug)]
pub(super) struct State {
    pub(super) verifier: Verifier,
    pub(super) era: Era,
    pub(super) answers: Answers,
    pub(super) keep: bool,
    pub(super) unsigned: Vec<&'static str>,
    pub(super) tools: Tools,
    pub(super) record: Record,
    pub(super) script: Script,
    pub(super) sessions: Sessions,
}

/// Handles one request, from its receipt to its response.
pub(super) async fn respond(
    state: Arc<State>,
    parts: Parts,
    body: Bytes,
) -> Result<Response<Body>, HangUp> {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let signature = verify(&state.verifier, parts.method.as_str(), &target, &parts.headers, &body);
    let mut received = Received {
        number: 0,
        http_method: parts.method.as_str().to_owned(),
        target,
        headers: parts.headers,
        message: Message::parse(&body),
        body,
        signature,
    };
    if state.keep {
        received = state.record.add(received);
    }
    let unread = state.record.unread(received.number);
    let response = answer(&state, &received).await;
    unread.was_read();
    response
}

/// The signer of a request, or why the signature isn't valid.
pub(crate) fn verify(
    verifier: &Verifier,
    method: &str,
    target: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Verified, Refusal> {
    let headers: Vec<_> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let request = Request { method, target, headers: &headers, body };
    #[allow(clippy::disallowed_methods, reason = "the edge: a server reads the clock")]
    verifier.verify(&request, SystemTime::now())
}

async fn answer(state: &State, request: &Received) -> Result<Response<Body>, HangUp> {
    if let Err(refusal) = &request.signature
        && !state.unsigned.contains(&request.method())
    {
        return Ok(refused(&refusal.to_string()));
    }
    if state.script.take_refusal() {
        return Ok(refused("The security token included in the request is expired"));
    }
    let mut reply = state.script.take(request);
    while let Reply::Held(gate, then) = reply {
        gate.opened().await;
        reply = *then;
    }
    let message = request.message.clone();
    let blank = Message { id: None, method: None, params: None };
    let shown = message.as_ref().unwrap_or(&blank);
    let id = shown.id_text();
    Ok(match reply {
        Reply::Usual | Reply::Held(..) => usual(state, request).await,
        Reply::Result(result) => reply::json(200, shown.result(&result)),
        Reply::Error(code, text) => reply::json(200, shown.error(code, &text, None)),
        Reply::Json(text) => reply::json(200, text.replace(reply::ID, id)),
        Reply::Http(status, mut headers, body) => {
            if !body.is_empty() && !headers.iter().any(|(name, _)| *name == "content-type") {
                headers.push(("content-type", "application/json".to_owned()));
            }
            reply::http(status, &headers, body.replace(reply::ID, id))
        }
        Reply::Stream(ref steps) | Reply::Pieces(ref steps) => {
            let needed = steps.iter().any(|step| matches!(step, Step::UsualResponse));
            let usual = match &message {
                Some(message) if needed => {
                    Some(sessions::answer(&state.tools, request, message).await)
                }
                _ => None,
            };
            let streamed = matches!(reply, Reply::Stream(_));
            let record = state.record.clone();
            let played = reply::played(steps.clone(), message, usual, record, request.number);
            match streamed {
                true => reply::event_stream(played),
                false => reply::pieces(played, "application/json"),
            }
        }
        Reply::HangUp => return Err(HangUp),
    })
}

/// Refuses a signature as AWS does.
fn refused(reason: &str) -> Response<Body> {
    let body = serde_json::json!({ "message": reason }).to_string();
    let kind = ("x-amzn-errortype", "InvalidSignatureException".to_owned());
    reply::http(403, &[("content-type", "application/json".to_owned()), kind], body)
}

async fn usual(state: &State, request: &Received) -> Response<Body> {
    if request.target.split('?').next() != Some("/mcp") {
        return reply::http(404, &[], "");
    }
    let stateless = match state.era {
        Era::Both => stateless::speaks(request),
        Era::Sessions => false,
        Era::Stateless => true,
    };
    match (request.http_method.as_str(), &request.message) {
        ("POST", Some(message)) if stateless => post_stateless(state, request, message).await,
        ("POST", Some(message)) => post_session(state, request, message).await,
        ("POST", None) => {
            let blank = Message { id: None, method: None, params: None };
            reply::json(400, blank.error(-32700, "Parse error", None))
        }
        ("GET", _) if !stateless => {
            let session = state.sessions.check(request);
            session.map_or_else(refusal, |id| state.sessions.open_stream(&id))
        }
        ("DELETE", _) if !stateless => {
            let session = state.sessions.check(request);
            session.map_or_else(refusal, |id| state.sessions.delete(&id))
        }
        _ => reply::http(405, &[("allow", "POST".to_owned())], ""),
    }
}

fn refusal((status, text): (u16, String)) -> Response<Body> {
    reply::json(status, text)
}

async fn post_session(state: &State, request: &Received, message: &Message) -> Response<Body> {
    if message.is_request() && request.method() == "initialize" {
        return state.sessions.initialize(request, message);
    }
    if let Err(refused) = state.sessions.check(request) {
        return refusal(refused);
    }
    if !message.is_request() {
        return reply::http(202, &[], "");
    }
    let text = sessions::answer(&state.tools, request, message).await;
    written(state, 200, text)
}

async fn post_stateless(state: &State, request: &Received, message: &Message) -> Response<Body> {
    if !message.is_request() {
        return reply::http(202, &[], "");
    }
    match stateless::check(&state.tools, request, message) {
        Ok(()) => {
            let (status, text) = stateless::answer(&state.tools, request, message).await;
            written(state, status, text)
        }
        Err(refused) => refusal(refused),
    }
}

/// A response as JSON or as a stream of one event, as configured.
fn written(state: &State, status: u16, text: String) -> Response<Body> {
    if state.answers == Answers::Json || status != 200 {
        return reply::json(status, text);
    }
    let headers = [("content-type", "text/event-stream".to_owned())];
    reply::http(200, &headers, format!(": one event\n\n{}", reply::event(None, &text)))
}
