//! An MCP server defined by a list of rules: the servers of `tests/cases/mcp`, whose README explains each entry.
//!
//! It verifies every signature, and records every request.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use crate::deadline;
use crate::keys::KeyTable;
use crate::loopback::{Body, Loopback};
use crate::sigv4::Verifier;
use crate::upstream::{REGION, SERVICE, reply, serve};

/// A rule.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    when: When,
    #[serde(default = "success")]
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<Value>,
    text: Option<String>,
    events: Option<Vec<Event>>,
    #[serde(default)]
    gzip: bool,
    #[serde(default)]
    after_calls: usize,
    #[serde(default)]
    then_forget_its_session: bool,
    #[serde(default)]
    usual: bool,
}

fn success() -> u16 {
    200
}

/// The conditions of a rule for a request.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct When {
    http: Option<String>,
    method: Option<String>,
    text: Option<String>,
    session: Option<SessionIs>,
    initialized: Option<bool>,
    request: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SessionIs {
    None,
    Forgotten,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Event {
    Data { data: Value },
    Pause { pause_ms: u64 },
}

/// A received request.
#[derive(Clone, Debug)]
pub struct Came {
    /// Every header line.
    pub headers: HeaderMap,
    /// The error of its signature, if it has one.
    pub unsigned: Option<String>,
}

/// The running server.
#[derive(Debug)]
pub struct RuledServer {
    server: Loopback,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    verifier: Verifier,
    rules: Vec<Rule>,
    state: Mutex<State>,
    calls: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    came: Vec<Came>,
    /// The ids of calls (JSON), by the argument `text`.
    ids: BTreeMap<String, Value>,
    opened: usize,
    initialized: BTreeSet<String>,
    forgotten: BTreeSet<String>,
}

/// A message, with the parts that rules check.
struct Request {
    http_method: String,
    session: Option<String>,
    message: Value,
}

impl Request {
    fn method(&self) -> &str {
        self.message["method"].as_str().unwrap_or_default()
    }

    fn text(&self) -> Option<&str> {
        self.message["params"]["arguments"]["text"].as_str()
    }

    fn is_request(&self) -> bool {
        self.http_method == "POST" && self.message.get("id").is_some() && !self.method().is_empty()
    }
}

impl RuledServer {
    /// Starts a server with these rules, which knows `keys`.
    pub async fn start(keys: KeyTable, rules: Vec<Rule>) -> Self {
        let shared = Arc::new(Shared {
            verifier: Verifier::new(keys, SERVICE, REGION),
            rules,
            state: Mutex::default(),
            calls: watch::Sender::new(0),
        });
        let answering = Arc::clone(&shared);
        let handler = move |parts, body| {
            let shared = Arc::clone(&answering);
            async move { Ok(shared.respond(parts, body).await) }
        };
        Self { server: Loopback::start(0, handler).await, shared }
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.server.address.to_string()
    }

    /// Every request so far.
    #[must_use]
    pub fn came(&self) -> Vec<Came> {
        self.shared.state().came.clone()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn respond(&self, parts: Parts, body: Bytes) -> Response<Body> {
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let verified =
            serve::verify(&self.verifier, parts.method.as_str(), target, &parts.headers, &body);
        let unsigned = verified.err().map(|refusal| refusal.to_string());
        let header = |name: &str| {
            let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
            value.map(str::to_owned)
        };
        let request = Request {
            http_method: parts.method.as_str().to_owned(),
            session: header("mcp-session-id"),
            message: serde_json::from_slice(&body).unwrap_or_default(),
        };
        self.state().came.push(Came { headers: parts.headers, unsigned: unsigned.clone() });
        if let Some(why) = unsigned {
            return reply::json(403, json!({"message": why}).to_string());
        }
        let rule = self.arrived(&request);
        let Some(rule) = rule else { return self.usual(&request) };
        let mut calls = self.calls.subscribe();
        let all = calls.wait_for(|calls| *calls >= rule.after_calls);
        let come = deadline::within(all, || "the other calls never came".to_owned()).await;
        drop(come);
        let response = if rule.usual { self.usual(&request) } else { self.ruled(&rule, &request) };
        if let Some(session) = request.session.filter(|_| rule.then_forget_its_session) {
            self.state().forgotten.insert(session);
        }
        response
    }

    /// Records a request, and finds its rule.
    fn arrived(&self, request: &Request) -> Option<Rule> {
        let mut state = self.state();
        if request.method() == "tools/call" {
            if let Some(text) = request.text() {
                state.ids.insert(text.to_owned(), request.message["id"].clone());
            }
            self.calls.send_modify(|calls| *calls += 1);
        }
        let rule = self.rules.iter().find(|rule| state.holds(&rule.when, request)).cloned();
        if let Some(session) = &request.session
            && request.method() == "notifications/initialized"
        {
            state.initialized.insert(session.clone());
        }
        rule
    }

    fn ruled(&self, rule: &Rule, request: &Request) -> Response<Body> {
        let mut headers = rule.headers.clone();
        let mut add = |kind: &str| {
            headers.entry("content-type".to_owned()).or_insert_with(|| kind.to_owned());
        };
        let response = if let Some(events) = &rule.events {
            let ids = self.state().ids.clone();
            let events = events.iter().cloned().map(|event| match event {
                Event::Data { data } => Ok(reply::event(None, &filled(&data, request, &ids))),
                Event::Pause { pause_ms } => Err(Duration::from_millis(pause_ms)),
            });
            add("text/event-stream");
            played(events.collect())
        } else if let Some(body) = &rule.body {
            add("application/json");
            let text = filled(body, request, &self.state().ids);
            let bytes = if rule.gzip { gzip(text.as_bytes()) } else { text.into_bytes() };
            reply::http(rule.status, &[], bytes)
        } else {
            add("text/plain");
            reply::http(rule.status, &[], rule.text.clone().unwrap_or_default())
        };
        let (mut parts, body) = response.into_parts();
        parts.status = http::StatusCode::from_u16(rule.status).expect("a status code");
        for (name, value) in &headers {
            let name = http::HeaderName::try_from(name.as_str()).expect("a header's name");
            parts.headers.insert(name, value.parse().expect("a header's value"));
        }
        Response::from_parts(parts, body)
    }

    /// The response without a rule.
    fn usual(&self, request: &Request) -> Response<Body> {
        let mut state = self.state();
        match request.http_method.as_str() {
            "GET" => return reply::http(405, &[], ""),
            "DELETE" => return reply::http(200, &[], ""),
            _ if !request.is_request() => return reply::http(202, &[], ""),
            _ => {}
        }
        let mut headers = vec![("content-type", "application/json".to_owned())];
        let params = &request.message["params"];
        let result = match request.method() {
            "initialize" => {
                state.opened += 1;
                headers.push(("mcp-session-id", format!("session-{}", state.opened)));
                json!({
                    "protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}},
                    "serverInfo": {"name": "ruled", "version": "1"},
                })
            }
            "tools/list" => json!({"tools": [{
                "name": "echo",
                "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}},
            }]}),
            "tools/call" => {
                json!({"content": [{"type": "text", "text": params["arguments"]["text"]}]})
            }
            _ => json!({}),
        };
        let answer = json!({"jsonrpc": "2.0", "id": request.message["id"], "result": result});
        reply::http(200, &headers, answer.to_string())
    }
}

impl State {
    fn holds(&self, when: &When, request: &Request) -> bool {
        let session = request.session.as_ref();
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == found)
        };
        let session_is = |wanted| match wanted {
            SessionIs::None => session.is_none(),
            SessionIs::Forgotten => session.is_some_and(|id| self.forgotten.contains(id)),
        };
        let initialized = session.is_some_and(|id| self.initialized.contains(id));
        is(&when.http, &request.http_method)
            && is(&when.method, request.method())
            && (when.text.is_none() || when.text.as_deref() == request.text())
            && when.session.is_none_or(session_is)
            && when.initialized.is_none_or(|wanted| wanted == initialized)
            && when.request.is_none_or(|wanted| wanted == request.is_request())
    }
}

/// The text of a body, with placeholders replaced by ids.
fn filled(body: &Value, request: &Request, ids: &BTreeMap<String, Value>) -> String {
    let mut text = body.to_string().replace("\"{id}\"", &request.message["id"].to_string());
    for (name, id) in ids {
        text = text.replace(&format!("\"{{id of {name}}}\""), &id.to_string());
    }
    text
}

/// A stream of events with pauses between them.
fn played(steps: Vec<Result<String, Duration>>) -> Response<Body> {
    let (pieces, received) = mpsc::channel::<io::Result<Bytes>>(16);
    tokio::spawn(async move {
        for step in steps {
            match step {
                Ok(event) => {
                    if pieces.send(Ok(event.into())).await.is_err() {
                        return;
                    }
                }
                // Simulates a slow server.
                Err(pause) => tokio::time::sleep(pause).await,
            }
        }
    });
    reply::pieces(received, "text/event-stream")
}

/// RFC 1952 with stored blocks (RFC 1951): gzip without compression.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let length = u16::try_from(bytes.len()).expect("a short body");
    packed.push(1);
    packed.extend(length.to_le_bytes());
    packed.extend((!length).to_le_bytes());
    packed.extend(bytes);
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
        })
    });
    packed.extend((!crc).to_le_bytes());
    packed.extend(u32::from(length).to_le_bytes());
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_bytes_are_gzip() {
        // As `gzip -0` writes it, except for time and system.
        let packed = gzip(b"123456789");
        assert_eq!(packed[10..15], [1, 9, 0, 0xf6, 0xff]);
        // The check value of CRC-32.
        assert_eq!(packed[24..], [0x26, 0x39, 0xf4, 0xcb, 9, 0, 0, 0]);
    }
}
