//! A listening proxy, and a plain HTTP client of it: tests control every header, and see answers as they arrive.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use sigward_tests::deadline;
use sigward_tests::processes::{Process, assert_no_canary};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::AbortHandle;

use crate::setup::World;

/// Header lines of a request.
pub(crate) type Headers<'a> = &'a [(&'a str, &'a str)];

/// A listening proxy.
pub(crate) struct Listening {
    pub(crate) proxy: Process,
    /// `HOST:PORT` or `unix:PATH`.
    pub(crate) address: String,
}

impl Listening {
    /// A proxy with a private broker, on a free port of this machine.
    pub(crate) async fn start(world: &World, profiles: &[&str], arguments: &[&str]) -> Self {
        let arguments = [&["--listen", "127.0.0.1:0"], arguments].concat();
        Self::started(Process::start(world.private_proxy(profiles, &arguments))).await
    }

    /// A listening proxy that was already started.
    pub(crate) async fn started(proxy: Process) -> Self {
        let line = proxy.logged("path=/mcp").await;
        let address = line.split("address=").nth(1).and_then(|rest| rest.split(' ').next());
        Self { address: address.expect("an address").to_owned(), proxy }
    }

    /// Sends one request, on a new connection.
    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: Headers<'_>,
        body: impl Into<Bytes>,
    ) -> Answer {
        request(&self.address, method, path, headers, body.into()).await
    }

    /// Posts a message, with the usual headers of a client, and `more`.
    pub(crate) async fn post(&self, more: Headers<'_>, body: &str) -> Answer {
        let usual: Headers<'_> = &[
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
        ];
        self.request("POST", "/mcp", &[usual, more].concat(), body.to_owned()).await
    }

    /// Opens the GET stream of the server.
    pub(crate) async fn get(&self, more: Headers<'_>) -> Answer {
        let usual: Headers<'_> = &[("accept", "text/event-stream")];
        self.request("GET", "/mcp", &[usual, more].concat(), "").await
    }

    /// Opens a session that is ready for calls; returns its headers.
    pub(crate) async fn session(&self, version: &'static str) -> Vec<(&'static str, String)> {
        self.session_as(version, "{}").await
    }

    /// The same for a client with capabilities (JSON text).
    pub(crate) async fn session_as(
        &self,
        version: &'static str,
        capabilities: &str,
    ) -> Vec<(&'static str, String)> {
        let initialize = format!(
            r#"{{"jsonrpc":"2.0","id":"hello","method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{capabilities},"clientInfo":{{"name":"c","version":"1"}}}}}}"#
        );
        let answer = self.post(&[], &initialize).await;
        let id = answer.header("mcp-session-id").expect("a session").to_owned();
        let session = vec![("mcp-session-id", id), ("mcp-protocol-version", version.to_owned())];
        let ready = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        assert_eq!(self.post(&lines(&session), ready).await.status, 202);
        session
    }
}

/// Owned header lines, for [`Listening::post`] and its like.
pub(crate) fn lines<'a>(owned: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
    owned.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

/// Sends one request to the proxy at `address`, on a new connection.
pub(crate) async fn request(
    address: &str,
    method: &str,
    path: &str,
    headers: Headers<'_>,
    body: Bytes,
) -> Answer {
    let connection = connect(address).await.expect("the proxy accepts connections");
    connection.send(method, path, headers, body).await
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection without any request yet, which is closed on drop.
pub(crate) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    task: Task,
}

/// A task that is aborted when its handle is dropped.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects to `HOST:PORT` or `unix:PATH`.
pub(crate) async fn connect(address: &str) -> std::io::Result<Connection> {
    let stream: Box<dyn Stream> = match address.strip_prefix("unix:") {
        Some(path) => Box::new(UnixStream::connect(path).await?),
        None => Box::new(TcpStream::connect(address).await?),
    };
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    let task = tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(Connection { sender, task: Task(task.abort_handle()) })
}

impl Connection {
    /// Sends a request, and waits for the head of its answer.
    pub(crate) async fn send(
        self,
        method: &str,
        path: &str,
        headers: Headers<'_>,
        body: Bytes,
    ) -> Answer {
        self.try_send(method, path, headers, body).await.expect("an answer")
    }

    /// The same, for a connection that may close before that.
    pub(crate) async fn try_send(
        mut self,
        method: &str,
        path: &str,
        headers: Headers<'_>,
        body: Bytes,
    ) -> hyper::Result<Answer> {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "localhost");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).expect("a request");
        let sending = self.sender.send_request(request);
        let answer = deadline::within(sending, || format!("no answer to {method} {path}")).await;
        let (head, body) = answer?.into_parts();
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            was_cut: false,
            body,
            unread: Vec::new(),
            _open: (self.sender, self.task),
        })
    }
}

/// An answer whose body is still being received. The connection is closed on drop.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// Whether the body was cut.
    pub(crate) was_cut: bool,
    body: Incoming,
    unread: Vec<u8>,
    _open: (http1::SendRequest<Full<Bytes>>, Task),
}

impl Answer {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether this is a stream of events.
    pub(crate) fn is_stream(&self) -> bool {
        self.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"))
    }

    /// The next piece of the body; `None` at its end, an error if it is cut.
    pub(crate) async fn piece(&mut self) -> Option<hyper::Result<Bytes>> {
        let frame = self.body.frame().await?;
        Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
    }

    /// The text of the next event, with its blank line, as soon as it is complete; `None` at the end.
    pub(crate) async fn event(&mut self) -> Option<String> {
        loop {
            if let Some(end) = end_of_event(&self.unread) {
                let event: Vec<u8> = self.unread.drain(..end).collect();
                let event = String::from_utf8(event).expect("UTF-8");
                assert_no_canary("an event", &event);
                return Some(event);
            }
            match self.piece().await {
                Some(Ok(piece)) => self.unread.extend_from_slice(&piece),
                Some(Err(_)) => {
                    self.was_cut = true;
                    return None;
                }
                None => return None,
            }
        }
    }

    /// Like [`Answer::event`], within the deadline; there must be one.
    pub(crate) async fn expect_event(&mut self, what: &str) -> String {
        let event = deadline::within(self.event(), || format!("{what} wasn't received")).await;
        event.unwrap_or_else(|| panic!("the stream ended before {what}"))
    }

    /// The whole body, which must be complete.
    pub(crate) async fn text(mut self) -> String {
        let mut text = std::mem::take(&mut self.unread);
        let reading = async {
            while let Some(piece) = self.piece().await {
                text.extend_from_slice(&piece.expect("the body is complete"));
            }
        };
        deadline::within(reading, || "the body never ends".to_owned()).await;
        let text = String::from_utf8(text).expect("UTF-8");
        assert_no_canary("an answer over HTTP", &text);
        text
    }

    /// The only message of the answer, as JSON or in the last event.
    pub(crate) async fn message(self) -> Value {
        let (streamed, text) = (self.is_stream(), self.text().await);
        let message = match streamed {
            true => data(text.trim_end().rsplit("\n\n").next().unwrap_or_default()),
            false => text,
        };
        serde_json::from_str(&message).unwrap_or_else(|_| panic!("no message: {message}"))
    }
}

/// The end of the first event, including its blank line. Lines end in LF, CR LF or CR.
fn end_of_event(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut blank) = (0, true);
    while at < bytes.len() {
        let width = match (bytes[at], bytes.get(at + 1)) {
            (b'\r', Some(b'\n')) => 2,
            // The other half of a CR LF may still come.
            (b'\r', None) => return None,
            (b'\r' | b'\n', _) => 1,
            _ => {
                (at, blank) = (at + 1, false);
                continue;
            }
        };
        at += width;
        if std::mem::replace(&mut blank, true) {
            return Some(at);
        }
    }
    None
}

/// The data of an event of the usual type.
pub(crate) fn data(event: &str) -> String {
    let lines: Vec<_> = event.split(['\r', '\n']).collect();
    if lines.iter().any(|line| line.starts_with("event:") && *line != "event: message") {
        return String::new();
    }
    let data = lines.iter().filter_map(|line| line.strip_prefix("data:"));
    data.map(str::trim_start).collect::<Vec<_>>().join("\n")
}
