//! One client for both sides of the proxy and for protocol versions with and without sessions: a test written for it
//! holds for all four combinations.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use serde_json::{Value, json};
use sigward_tests::deadline;
use sigward_tests::processes::{Process, StdioClient, call};
use sigward_tests::upstream::Message;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::http::{self, Answer, Listening, data, lines};
use crate::setup::{World, stateless};

/// How the agent reaches the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Stdio,
    Listening,
}

/// How the answer to a request over HTTP ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The answer is complete.
    Complete,
    /// The answer broke off, which the client can see.
    BrokenOff,
}

/// Both sides.
pub(crate) const SIDES: [Side; 2] = [Side::Stdio, Side::Listening];

/// The version without sessions.
pub(crate) const STATELESS: &str = "2026-07-28";
/// The last version with sessions.
pub(crate) const SESSIONS: &str = "2025-11-25";

/// The client of a proxy.
pub(crate) struct Agent {
    version: &'static str,
    link: Link,
    last_id: u64,
}

enum Link {
    Stdio(StdioClient),
    Http(Http),
}

/// State of an HTTP client: each request has its own connection, and the messages of all connections go into one list.
struct Http {
    listening: Listening,
    session: Vec<(&'static str, String)>,
    came: mpsc::UnboundedReceiver<String>,
    into: mpsc::UnboundedSender<String>,
    unread: Vec<String>,
    requests: HashMap<u64, Task<Ending>>,
    streams: Vec<Task<()>>,
    /// Whether streams that end without their response are resumed, as clients on the official SDKs do.
    resumes: bool,
    statuses: Arc<Mutex<HashMap<u64, u16>>>,
}

impl Agent {
    /// An agent that speaks `version`, after the handshake if the version has one.
    pub(crate) async fn start(
        world: &World,
        side: Side,
        version: &'static str,
        profiles: &[&str],
        arguments: &[&str],
    ) -> Self {
        let mut agent = Self::unready(world, side, version, profiles, arguments).await;
        if version != STATELESS {
            agent.initialize("{}").await;
        }
        agent
    }

    /// An agent that hasn't sent anything yet.
    pub(crate) async fn unready(
        world: &World,
        side: Side,
        version: &'static str,
        profiles: &[&str],
        arguments: &[&str],
    ) -> Self {
        let link = match side {
            Side::Stdio => {
                Link::Stdio(StdioClient::start(world.private_proxy(profiles, arguments)))
            }
            Side::Listening => {
                Link::Http(Http::new(Listening::start(world, profiles, arguments).await))
            }
        };
        Self { version, link, last_id: 0 }
    }

    /// Does the handshake; over HTTP also opens the GET stream.
    pub(crate) async fn initialize(&mut self, capabilities: &str) -> Value {
        let version = self.version;
        let result = match &mut self.link {
            Link::Stdio(client) => client.initialize_as(version, capabilities).await,
            Link::Http(client) => client.initialize(version, capabilities).await,
        };
        assert_eq!(result["protocolVersion"], version);
        result
    }

    /// The proxy.
    pub(crate) fn process(&self) -> &Process {
        match &self.link {
            Link::Stdio(client) => client.process(),
            Link::Http(client) => &client.listening.proxy,
        }
    }

    /// The proxy's HTTP side, and the headers of the session.
    pub(crate) fn http(&self) -> (&Listening, Vec<(&str, &str)>) {
        match &self.link {
            Link::Stdio(_) => panic!("a stdio client"),
            Link::Http(client) => (&client.listening, lines(&client.session)),
        }
    }

    /// Sends a request and returns its id. `params` is the text of an object, without what the protocol version adds.
    pub(crate) async fn start_request(&mut self, method: &str, params: &str) -> Value {
        self.last_id += 1;
        let id = self.last_id;
        let params = match (self.version, params.split_once(r#""_meta":{"#)) {
            (STATELESS, None) => stateless(params),
            (STATELESS, Some((before, meta))) => {
                let added = stateless("{}");
                let added = added.strip_prefix(r#"{"_meta":{"#).expect("metadata");
                let added = added.strip_suffix("}}").expect("its closing braces");
                format!(r#"{before}"_meta":{{{added},{meta}"#)
            }
            _ => params.to_owned(),
        };
        let text =
            format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#);
        self.send(&text).await;
        Value::from(id)
    }

    /// The id that the next request gets.
    pub(crate) fn next_id(&self) -> u64 {
        self.last_id + 1
    }

    /// Sends a batch. Over HTTP, doesn't wait for the answer.
    pub(crate) async fn send_batch(&mut self, batch: &str) {
        match &mut self.link {
            Link::Stdio(client) => client.send(batch).await,
            Link::Http(client) => client.send_text(self.version, batch, None).await,
        }
    }

    /// Makes an HTTP client resume streams that end without their response.
    pub(crate) fn resume_streams(&mut self) {
        let Link::Http(client) = &mut self.link else { panic!("a stdio client") };
        client.resumes = true;
    }

    /// Waits until the answer to a request over HTTP has ended, completely or not.
    pub(crate) async fn ended(&mut self, id: &Value) -> Ending {
        let Link::Http(client) = &mut self.link else { panic!("a stdio client") };
        let request = client.requests.remove(&id.as_u64().unwrap()).expect("a request");
        let ending = deadline::within(request, || format!("the answer to {id} never ends"));
        ending.await.expect("an answer")
    }

    /// Sends a message unchanged.
    pub(crate) async fn send(&mut self, text: &str) {
        match &mut self.link {
            Link::Stdio(client) => client.send(text).await,
            Link::Http(client) => client.send(self.version, text).await,
        }
    }

    /// Sends a request and returns its response.
    pub(crate) async fn request(&mut self, method: &str, params: &str) -> Value {
        let id = self.start_request(method, params).await;
        self.response(&id).await
    }

    /// The response with that id.
    pub(crate) async fn response(&mut self, id: &Value) -> Value {
        let what = format!("the response to {id}");
        self.expect(&what, |message| message.get("method").is_none() && message["id"] == *id).await
    }

    /// Starts a tool call and returns its id.
    pub(crate) async fn start_call(&mut self, tool: &str, arguments: &str) -> Value {
        self.start_request("tools/call", &call(tool, arguments)).await
    }

    /// Calls a tool.
    pub(crate) async fn call(&mut self, tool: &str, arguments: &str) -> Value {
        self.request("tools/call", &call(tool, arguments)).await
    }

    /// Starts a tool call with only a profile as argument, and returns its id.
    pub(crate) async fn call_later(&mut self, tool: &str, profile: &str) -> Value {
        self.start_call(tool, &json!({ "aws_profile": profile }).to_string()).await
    }

    /// Calls a tool with only a profile as argument.
    pub(crate) async fn call_as(&mut self, tool: &str, profile: &str) -> Value {
        self.call(tool, &json!({ "aws_profile": profile }).to_string()).await
    }

    /// Answers a request of the server with `result` (JSON text).
    pub(crate) async fn answer(&mut self, request: &Value, result: &str) {
        let id = &request["id"];
        self.send(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)).await;
    }

    /// Cancels a request, in the way of the protocol version and the side.
    pub(crate) async fn cancel(&mut self, id: &Value) {
        if let (Link::Http(client), STATELESS) = (&mut self.link, self.version) {
            let id = id.as_u64().expect("a number");
            client.requests.remove(&id).expect("a request");
            return;
        }
        self.send(&format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id},"reason":"enough"}}}}"#
        ))
        .await;
    }

    /// Returns the first message that `matches`, received or still to come. Others are kept for later.
    pub(crate) async fn expect(&mut self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        let line = self
            .expect_line(what, |line| {
                serde_json::from_str(line).is_ok_and(|message| matches(&message))
            })
            .await;
        serde_json::from_str(&line).expect("it was parsed before")
    }

    /// Like [`Agent::expect`], for the text of a message.
    pub(crate) async fn expect_line(
        &mut self,
        what: &str,
        matches: impl Fn(&str) -> bool,
    ) -> String {
        match &mut self.link {
            Link::Stdio(client) => client.expect_line(what, matches).await,
            Link::Http(client) => client.expect_line(what, matches).await,
        }
    }

    /// Messages that were received and that no call has returned.
    pub(crate) fn unread(&mut self) -> Vec<String> {
        match &mut self.link {
            Link::Stdio(client) => client.unread().to_vec(),
            Link::Http(client) => client.unread(),
        }
    }

    /// The status of the answer to a request over HTTP, once its head was received.
    pub(crate) fn status(&self, id: &Value) -> Option<u16> {
        match &self.link {
            Link::Stdio(_) => None,
            Link::Http(client) => {
                client.statuses.lock().unwrap().get(&id.as_u64().unwrap()).copied()
            }
        }
    }
}

impl Http {
    fn new(listening: Listening) -> Self {
        let (into, came) = mpsc::unbounded_channel();
        Self {
            listening,
            session: Vec::new(),
            came,
            into,
            unread: Vec::new(),
            requests: HashMap::new(),
            streams: Vec::new(),
            resumes: false,
            statuses: Arc::default(),
        }
    }

    async fn initialize(&mut self, version: &'static str, capabilities: &str) -> Value {
        let initialize = format!(
            r#"{{"jsonrpc":"2.0","id":"hello","method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{capabilities},"clientInfo":{{"name":"sigward-tests","version":"1.0"}}}}}}"#
        );
        let answer = self.listening.post(&[], &initialize).await;
        let id = answer.header("mcp-session-id").expect("a session").to_owned();
        self.session = vec![("mcp-session-id", id), ("mcp-protocol-version", version.to_owned())];
        let result = answer.message().await["result"].take();
        self.send(version, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        let stream = self.listening.get(&lines(&self.session)).await;
        let into = self.into.clone();
        let reading = async move {
            Reading::default().read(stream, &into).await;
        };
        self.streams.push(Task(tokio::spawn(reading)));
        result
    }

    /// Notifications and responses are accepted when this returns; the answer to a request arrives later.
    async fn send(&mut self, version: &'static str, text: &str) {
        let message = Message::parse(text.as_bytes()).expect("a message");
        self.send_text(version, text, Some(message)).await;
    }

    async fn send_text(&mut self, version: &'static str, text: &str, message: Option<Message>) {
        let mut headers = vec![
            ("content-type", "application/json".to_owned()),
            ("accept", "application/json, text/event-stream".to_owned()),
        ];
        headers.extend(self.session.iter().cloned());
        if let (STATELESS, Some(message)) = (version, &message) {
            headers.push(("mcp-protocol-version", STATELESS.to_owned()));
            let text = |pointer: &str| message.param(pointer).as_str().map(str::to_owned);
            headers.extend(message.method.clone().map(|method| ("mcp-method", method)));
            let name = ["/name", "/uri", "/taskId"].into_iter().find_map(text);
            headers.extend(name.map(|name| ("mcp-name", name)));
            let region = text("/arguments/region");
            headers.extend(region.map(|region| ("mcp-param-region", region)));
        }
        let (address, body) = (self.listening.address.clone(), Bytes::from(text.to_owned()));
        let posting = async move {
            let connection = http::connect(&address).await.expect("the proxy takes connections");
            connection.try_send("POST", "/mcp", &lines(&headers), body).await
        };
        let is_request = message.as_ref().is_none_or(Message::is_request);
        if !is_request {
            let answer = posting.await.expect("an answer");
            Reading::default().read(answer, &self.into).await;
            return;
        }
        let id = message.and_then(|message| message.id?.parse().ok()).unwrap_or_default();
        let (into, statuses) = (self.into.clone(), Arc::clone(&self.statuses));
        let session = self.session.clone();
        let address = self.listening.address.clone();
        let resumes = self.resumes && version != STATELESS;
        let task = tokio::spawn(async move {
            let mut reading = Reading { id: Some(id), ..Reading::default() };
            // If the server's answer breaks off at once, the connection closes without an answer.
            let Ok(answer) = posting.await else { return Ending::BrokenOff };
            statuses.lock().unwrap().insert(id, answer.status);
            let mut ending = reading.read(answer, &into).await;
            while resumes && !reading.is_answered {
                let Some(event) = reading.last_id.clone() else { break };
                let mut headers = session.clone();
                headers.push(("last-event-id", event));
                headers.push(("accept", "text/event-stream".to_owned()));
                let connection =
                    http::connect(&address).await.expect("the proxy takes connections");
                let headers = lines(&headers);
                let resumed = connection.try_send("GET", "/mcp", &headers, Bytes::new());
                let Ok(answer) = resumed.await else { return Ending::BrokenOff };
                ending = reading.read(answer, &into).await;
            }
            ending
        });
        self.requests.insert(id, Task(task));
    }

    async fn expect_line(&mut self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        if let Some(found) = self.unread.iter().position(|line| matches(line)) {
            return self.unread.remove(found);
        }
        let unread = &mut self.unread;
        let coming = async {
            loop {
                let line = self.came.recv().await.expect("the sender is in this struct");
                if matches(&line) {
                    return line;
                }
                unread.push(line);
            }
        };
        match tokio::time::timeout(deadline::DEADLINE, coming).await {
            Ok(line) => line,
            Err(_) => panic!(
                "{what} was not received; received:\n{}\n--- standard error:\n{}",
                self.unread.join("\n"),
                self.listening.proxy.errors()
            ),
        }
    }

    fn unread(&mut self) -> Vec<String> {
        while let Ok(line) = self.came.try_recv() {
            self.unread.push(line);
        }
        self.unread.clone()
    }
}

/// A task that is aborted when its handle is dropped.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, tokio::task::JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

/// The state of reading one answer, over all connections that deliver it.
#[derive(Default)]
struct Reading {
    /// The id of the request.
    id: Option<u64>,
    is_answered: bool,
    /// The event to resume after.
    last_id: Option<String>,
}

impl Reading {
    /// Sends the text of every message of an answer to `into`.
    async fn read(&mut self, mut answer: Answer, into: &mpsc::UnboundedSender<String>) -> Ending {
        if !answer.is_stream() {
            let text = answer.text().await;
            self.is_answered = true;
            if !text.is_empty() {
                let _ = into.send(text);
            }
            return Ending::Complete;
        }
        while let Some(event) = answer.event().await {
            let lines: Vec<_> = event.split(['\r', '\n']).collect();
            let ids = lines.iter().filter_map(|line| line.strip_prefix("id:"));
            if let Some(id) = ids.map(str::trim_start).next_back() {
                self.last_id = Some(id.to_owned()).filter(|id| !id.is_empty());
            }
            let data = data(&event);
            if data.is_empty() {
                continue;
            }
            let message: Value = serde_json::from_str(&data).unwrap_or_default();
            self.is_answered |= message.get("method").is_none()
                && self.id.is_some_and(|id| message["id"].as_u64() == Some(id));
            let _ = into.send(data);
        }
        if answer.was_cut { Ending::BrokenOff } else { Ending::Complete }
    }
}
