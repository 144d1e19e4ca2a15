//! Streamable HTTP in front of a stdio server, since the suite supports only HTTP.
//!
//! Each session of the suite is a process of its own, and so is each request without a session. A message is written
//! unchanged, on one line. A response line is sent unchanged as the response to its request. Standard output doesn't
//! tell which stream another line belongs to: a progress notification is sent with its request, and anything else with
//! the newest request, or in the session's stream (GET). The end of the session ends the process, which must exit with
//! success.
//!
//! The bridge itself does what is specific to HTTP: access, checking headers against the message, statuses.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{io, mem};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http::request::Parts;
use http::{HeaderValue, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use crate::loopback::{Body, Loopback};
use crate::processes::{Process, assert_no_canary};
use crate::upstream::{Message, reply};

/// A running bridge. Dropping it closes its socket and ends its processes.
#[derive(Debug)]
pub struct Bridge(Loopback);

impl Bridge {
    /// Serves on any port; `command` creates the command of a process.
    pub async fn start(command: impl Fn() -> Command + Send + Sync + 'static) -> Self {
        let sessions = Arc::new(Sessions::default());
        let command = Arc::new(command);
        let respond = move |head: Parts, body: Bytes| {
            let (sessions, command) = (Arc::clone(&sessions), Arc::clone(&command));
            async move { Ok(respond(&sessions, &*command, &head, &body).await) }
        };
        Self(Loopback::start(0, respond).await)
    }

    /// `http://127.0.0.1:PORT/mcp`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.0.address)
    }
}

#[derive(Debug, Default)]
struct Sessions {
    open: Mutex<HashMap<String, Arc<Session>>>,
    minted: AtomicU64,
}

/// A process, and the streams for its lines.
#[derive(Debug)]
struct Session {
    /// Closed by the end of the session.
    input: tokio::sync::Mutex<Option<ChildStdin>>,
    process: tokio::sync::Mutex<Process>,
    streams: Arc<Mutex<Streams>>,
}

/// The streams for lines.
#[derive(Debug, Default)]
struct Streams {
    /// Requests without a response yet, the oldest first.
    open: Vec<Open>,
    /// The stream of the session itself.
    own: Option<mpsc::Sender<String>>,
    /// Lines that came while there was no stream.
    kept: Vec<String>,
}

#[derive(Debug)]
struct Open {
    id: String,
    progress: Value,
    stream: mpsc::Sender<String>,
}

async fn respond(
    sessions: &Sessions,
    command: &(impl Fn() -> Command + Sync),
    head: &Parts,
    body: &[u8],
) -> Response<Body> {
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    if !["host", "origin"].iter().all(|name| header(name).is_none_or(is_local)) {
        return reply::http(403, &[], "a page of somebody else's");
    }
    let known = header("mcp-session-id").map(|id| (id, lock(&sessions.open).get(id).cloned()));
    let message = Message::parse(body);
    match (head.method.as_str(), known, message) {
        (_, Some((_, None)), _) => reply::http(404, &[], "no such session"),
        ("POST", None, Some(message)) if header("mcp-protocol-version") >= Some("2026-07-28") => {
            match mismatch(&message, header) {
                Some(text) => reply::json(400, message.error(-32020, text, None)),
                None => Session::of(command()).post_alone(&message, body).await,
            }
        }
        ("POST", None, Some(message)) if message.method.as_deref() == Some("initialize") => {
            let (id, session) = sessions.open(command());
            let mut response = session.post(&message, body).await;
            let id = HeaderValue::try_from(id).expect("a number");
            response.headers_mut().insert("mcp-session-id", id);
            response
        }
        ("POST", Some((_, Some(session))), Some(message)) => session.post(&message, body).await,
        ("POST", ..) => reply::http(400, &[], "no message, or no session"),
        ("GET", Some((_, Some(session))), _) => session.listen(),
        ("DELETE", Some((id, Some(session))), _) => {
            lock(&sessions.open).remove(id);
            session.end().await.map_or_else(failed, |()| reply::http(200, &[], ""))
        }
        _ => reply::http(405, &[], ""),
    }
}

/// Whether a Host or an Origin names this machine.
fn is_local(name: &str) -> bool {
    let host = name.split("://").last().unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    matches!(host, "localhost" | "127.0.0.1")
}

/// The header that contradicts the message, as an error text.
fn mismatch<'a>(
    message: &Message,
    header: impl Fn(&str) -> Option<&'a str>,
) -> Option<&'static str> {
    let version = message.param("/_meta/io.modelcontextprotocol~1protocolVersion");
    if version.as_str().is_some_and(|version| header("mcp-protocol-version") != Some(version)) {
        return Some("Header mismatch: MCP-Protocol-Version");
    }
    let method = message.method.as_deref();
    (header("mcp-method") != method).then_some("Header mismatch: Mcp-Method")
}

/// The status of a response that begins with `line`: as the specification requires for its error.
fn status(line: &str) -> u16 {
    let response: Value = serde_json::from_str(line).unwrap_or_default();
    match response["error"]["code"].as_i64() {
        Some(-32601) => 404,
        Some(-32602 | -32022 | -32021 | -32020) => 400,
        _ => 200,
    }
}

impl Sessions {
    fn open(&self, command: Command) -> (String, Arc<Session>) {
        let id = self.minted.fetch_add(1, Ordering::Relaxed).to_string();
        let session = Arc::new(Session::of(command));
        lock(&self.open).insert(id.clone(), Arc::clone(&session));
        (id, session)
    }
}

impl Session {
    fn of(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(command);
        let (input, output) = process.pipes();
        let streams = Arc::new(Mutex::default());
        tokio::spawn(distribute(output, Arc::clone(&streams)));
        Self {
            input: tokio::sync::Mutex::new(Some(input)),
            process: tokio::sync::Mutex::new(process),
            streams,
        }
    }

    async fn post(&self, message: &Message, body: &[u8]) -> Response<Body> {
        match self.write(message, body).await {
            Ok(Some(lines)) => event_stream(unfolded(lines)),
            Ok(None) => reply::http(202, &[], ""),
            Err(error) => failed(error.to_string()),
        }
    }

    /// Sends a message without a session: the process ends with its response, or when the client leaves.
    async fn post_alone(self, message: &Message, body: &[u8]) -> Response<Body> {
        let mut lines = match self.write(message, body).await {
            Ok(Some(lines)) => lines,
            Ok(None) => {
                return self.end().await.map_or_else(failed, |()| reply::http(202, &[], ""));
            }
            Err(error) => return failed(error.to_string()),
        };
        let Some(first) = lines.recv().await else { return failed("no response".to_owned()) };
        let status = status(&first);
        if status != 200 {
            return self.end().await.map_or_else(failed, |()| reply::json(status, first));
        }
        // The process must have ended before the client sees the end of the response.
        let ending = stream::once(async move { self.end().await.err() });
        let lines = stream::once(async { first }).chain(unfolded(lines));
        event_stream(lines.chain(ending.filter_map(async |why| why)))
    }

    /// Sends a message; returns the lines up to its response, if it is a request.
    async fn write(
        &self,
        message: &Message,
        body: &[u8],
    ) -> io::Result<Option<mpsc::Receiver<String>>> {
        let lines = message.is_request().then(|| {
            let (stream, lines) = mpsc::channel(64);
            let id = message.id_text().to_owned();
            let progress = message.param("/_meta/progressToken");
            lock(&self.streams).open.push(Open { id, progress, stream });
            lines
        });
        // Line breaks in JSON are only white space.
        let mut line: Vec<_> =
            body.iter().copied().filter(|byte| !b"\r\n".contains(byte)).collect();
        line.push(b'\n');
        match &mut *self.input.lock().await {
            Some(input) => input.write_all(&line).await?,
            None => return Err(io::ErrorKind::BrokenPipe.into()),
        }
        Ok(lines)
    }

    /// The session's own stream: first the kept lines, then new ones.
    fn listen(&self) -> Response<Body> {
        let (stream, lines) = mpsc::channel(64);
        let mut streams = lock(&self.streams);
        streams.own = Some(stream);
        event_stream(stream::iter(mem::take(&mut streams.kept)).chain(unfolded(lines)))
    }

    /// Closes the input. An error describes how the process failed at its end.
    async fn end(&self) -> Result<(), String> {
        self.input.lock().await.take();
        let (status, errors) = self.process.lock().await.ended().await;
        // Ends the streams that are still open.
        *lock(&self.streams) = Streams::default();
        if status.success() { Ok(()) } else { Err(format!("it ended with {status}: {errors}")) }
    }
}

fn failed(why: String) -> Response<Body> {
    reply::http(500, &[], why)
}

/// Sends each line of a server to its stream, until there are no more.
async fn distribute(output: ChildStdout, streams: Arc<Mutex<Streams>>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        assert_no_canary("a line on standard output", &line);
        let stream = lock(&streams).of(&line);
        if let Some(stream) = stream {
            // The client may have left.
            let _ = stream.send(line).await;
        }
    }
    // Ends the streams of requests that will get no response.
    *lock(&streams) = Streams::default();
}

impl Streams {
    /// The stream for a line; a response ends its request's stream. If there is no stream, the line is kept.
    fn of(&mut self, line: &str) -> Option<mpsc::Sender<String>> {
        let message =
            Message::parse(line.as_bytes()).unwrap_or_else(|| panic!("no message: {line}"));
        if message.method.is_none() {
            let asked = self.open.iter().position(|open| open.id == message.id_text());
            let asked = asked.unwrap_or_else(|| panic!("nobody asked for {line}"));
            return Some(self.open.remove(asked).stream);
        }
        let token = message.param("/progressToken");
        let reported = self.open.iter().find(|open| !token.is_null() && open.progress == token);
        let stream = reported.or(self.open.last()).map(|open| &open.stream);
        let stream = stream.or(self.own.as_ref()).cloned();
        if stream.is_none() {
            self.kept.push(line.to_owned());
        }
        stream
    }
}

fn unfolded(lines: mpsc::Receiver<String>) -> impl Stream<Item = String> + Send + Sync {
    stream::unfold(lines, async |mut lines| Some((lines.recv().await?, lines)))
}

fn event_stream(lines: impl Stream<Item = String> + Send + Sync + 'static) -> Response<Body> {
    let events = lines.map(|line| Ok(Frame::data(Bytes::from(reply::event(None, &line)))));
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(events)));
    let kind = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert("content-type", kind);
    response
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
