//! Streamable HTTP in front of a server that speaks lines: the suite knows HTTP alone.
//!
//! Each session of the suite is a process of its own. A message goes in as it came, on one line; a line that comes out
//! goes as it is to the response that waits for it, or else to a stream: standard output doesn't say which, so a report
//! of progress goes with its request, and anything else with the newest request, or with the stream of the session
//! (GET). The session ends the process, which must end well.

use std::collections::HashMap;
use std::io;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Response};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use crate::loopback::{Body, Loopback};
use crate::processes::{Process, assert_no_canary};
use crate::upstream::{Message, reply};

type Sender = mpsc::Sender<io::Result<Bytes>>;

/// A running bridge. Dropping it closes its socket and ends its processes.
#[derive(Debug)]
pub struct Bridge(Loopback);

impl Bridge {
    /// Serves on any port; `command` makes the process of a session.
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
struct Sessions(Mutex<HashMap<String, Arc<Session>>>);

#[derive(Debug)]
struct Session {
    /// Closed by the end of the session.
    input: tokio::sync::Mutex<Option<ChildStdin>>,
    process: tokio::sync::Mutex<Process>,
    streams: Arc<Mutex<Streams>>,
}

/// Where lines go.
#[derive(Debug, Default)]
struct Streams {
    /// Requests without a response yet, the oldest first.
    open: Vec<Open>,
    /// The stream of the session itself.
    own: Option<Sender>,
    /// What came while there was none.
    kept: Vec<String>,
}

#[derive(Debug)]
struct Open {
    id: String,
    progress: Value,
    stream: Sender,
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
    let known = header("mcp-session-id").map(|id| (id, lock(&sessions.0).get(id).cloned()));
    match (head.method.as_str(), known) {
        (_, Some((_, None))) => reply::http(404, &[], "no such session"),
        ("POST", None) => match Message::parse(body) {
            Some(message) if message.method.as_deref() == Some("initialize") => {
                let (id, session) = sessions.open(command());
                let mut response = session.post(&message, body).await;
                let id = HeaderValue::try_from(id).expect("a number");
                response.headers_mut().insert("mcp-session-id", id);
                response
            }
            _ => reply::http(400, &[], "no session"),
        },
        ("POST", Some((_, Some(session)))) => match Message::parse(body) {
            Some(message) => session.post(&message, body).await,
            None => reply::http(400, &[], "no message"),
        },
        ("GET", Some((_, Some(session)))) => session.listen(),
        ("DELETE", Some((id, Some(session)))) => {
            lock(&sessions.0).remove(id);
            session.end().await
        }
        _ => reply::http(405, &[], ""),
    }
}

/// Whether a Host or an Origin is this machine.
fn is_local(name: &str) -> bool {
    let host = name.split("://").last().unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    matches!(host, "localhost" | "127.0.0.1")
}

impl Sessions {
    fn open(&self, mut command: Command) -> (String, Arc<Session>) {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(command);
        let id = process.pid().to_string();
        let (input, output) = process.pipes();
        let streams = Arc::new(Mutex::default());
        tokio::spawn(distribute(output, Arc::clone(&streams)));
        let session = Arc::new(Session {
            input: tokio::sync::Mutex::new(Some(input)),
            process: tokio::sync::Mutex::new(process),
            streams,
        });
        lock(&self.0).insert(id.clone(), Arc::clone(&session));
        (id, session)
    }
}

impl Session {
    async fn post(&self, message: &Message, body: &[u8]) -> Response<Body> {
        let mut response = reply::http(202, &[], "");
        if message.is_request() {
            let (stream, events) = mpsc::channel(64);
            let id = message.id_text().to_owned();
            let progress = message.param("/_meta/progressToken");
            lock(&self.streams).open.push(Open { id, progress, stream });
            response = reply::event_stream(events);
        }
        // A line break in JSON is nothing but space.
        let mut line: Vec<_> =
            body.iter().copied().filter(|byte| !b"\r\n".contains(byte)).collect();
        line.push(b'\n');
        let written = async {
            match &mut *self.input.lock().await {
                Some(input) => input.write_all(&line).await,
                None => Err(io::ErrorKind::BrokenPipe.into()),
            }
        };
        match written.await {
            Ok(()) => response,
            Err(error) => reply::http(500, &[], format!("the server doesn't read: {error}")),
        }
    }

    /// The stream of the session itself: what was kept for it, then what comes.
    fn listen(&self) -> Response<Body> {
        let (stream, events) = mpsc::channel(64);
        let mut streams = lock(&self.streams);
        for line in streams.kept.drain(..) {
            // As many as there is room for: the suite's servers announce one thing at a time.
            let _ = stream.try_send(Ok(Bytes::from(reply::event(None, &line))));
        }
        streams.own = Some(stream);
        reply::event_stream(events)
    }

    async fn end(&self) -> Response<Body> {
        self.input.lock().await.take();
        let (status, errors) = self.process.lock().await.ended().await;
        // Streams that are still open end too.
        *lock(&self.streams) = Streams::default();
        if status.success() {
            reply::http(200, &[], "")
        } else {
            reply::http(500, &[], format!("the server ended with {status}: {errors}"))
        }
    }
}

/// Reads the lines of a server and sends each where it belongs, until there are no more.
async fn distribute(output: ChildStdout, streams: Arc<Mutex<Streams>>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        assert_no_canary("a line on standard output", &line);
        let stream = lock(&streams).of(&line);
        if let Some(stream) = stream {
            // A client that left wants nothing more.
            let _ = stream.send(Ok(Bytes::from(reply::event(None, &line)))).await;
        }
    }
    // Whoever waits for a response waits in vain, and shall know it.
    *lock(&streams) = Streams::default();
}

impl Streams {
    /// The stream for a line; a response's is its request's, which ends with it. Where there is none, the line is kept.
    fn of(&mut self, line: &str) -> Option<Sender> {
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
