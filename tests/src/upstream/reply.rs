//! Scripted replies of the server, and how they become HTTP responses.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio::sync::{mpsc, watch};

use super::message::Message;
use super::record::Record;
use crate::loopback::Body;

/// A placeholder in every text of a [`Reply`], for the id of the request as JSON text.
pub const ID: &str = "$ID";

/// An answer to one request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// The response without a script.
    Usual,
    /// A response with this result (JSON text), status 200.
    Result(String),
    /// A JSON-RPC error, status 200.
    Error(i64, String),
    /// This text as the whole body, `application/json`, status 200.
    Json(String),
    /// This status, these headers, this body (`application/json` unless a header says otherwise).
    Http(u16, Vec<(&'static str, String)>, String),
    /// An event stream, which ends regularly after the last step.
    Stream(Vec<Step>),
    /// A JSON body in pieces, of unknown length. Steps that write events don't fit here.
    Pieces(Vec<Step>),
    /// The other reply, once the gate is open.
    Held(Gate, Box<Reply>),
    /// Closes the connection without a response.
    HangUp,
}

impl Reply {
    /// This reply, once `gate` is open.
    #[must_use]
    pub fn held(self, gate: &Gate) -> Self {
        Self::Held(gate.clone(), Box::new(self))
    }
}

/// One step of an event stream.
#[derive(Clone, Debug)]
pub enum Step {
    /// `data:` with this text; one line of data per line of text.
    Data(String),
    /// The same with an event id.
    Event(String, String),
    /// Bytes as they are: comments, unknown fields, half an event.
    Raw(String),
    /// This number of letters `x`, in pieces.
    Filler(usize),
    /// The response without a script.
    UsualResponse,
    /// A pause, as of a slow server.
    Pause(Duration),
    /// Waits until the gate is open.
    Wait(Gate),
    /// Opens the gate, once everything before this step was sent.
    Open(Gate),
    /// Waits until the client's response with this id (JSON text) has arrived.
    AwaitResponse(String),
    /// Closes the connection in the middle of the stream.
    Cut,
}

/// A gate that a test opens once, for all who wait for it.
#[derive(Clone, Debug)]
pub struct Gate(watch::Sender<bool>);

impl Default for Gate {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Gate {
    /// Opens the gate for everyone, now and later.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until the gate is open.
    pub async fn opened(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// A response with a whole JSON body.
pub(crate) fn json(status: u16, body: impl Into<Bytes>) -> Response<Body> {
    http(status, &[("content-type", "application/json".to_owned())], body)
}

/// A response of any kind with a whole body.
pub(crate) fn http(
    status: u16,
    headers: &[(&'static str, String)],
    body: impl Into<Bytes>,
) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|never: Infallible| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).expect("a status code");
    for (name, value) in headers {
        response.headers_mut().append(*name, value.parse().expect("a header value"));
    }
    response
}

type Pieces = mpsc::Sender<io::Result<Bytes>>;

/// Sends the pieces of [`Step::Filler`]; an error means that the client has left.
async fn fill(
    events: &Pieces,
    length: usize,
) -> Result<(), mpsc::error::SendError<io::Result<Bytes>>> {
    const PIECE: &[u8] = &[b'x'; 64 << 10];
    let mut left = length;
    while left > 0 {
        let piece = &PIECE[..left.min(PIECE.len())];
        events.send(Ok(Bytes::from_static(piece))).await?;
        left -= piece.len();
    }
    Ok(())
}

/// Runs `steps`, and returns the receiver of their output; `usual` is the server's own response.
pub(super) fn played(
    steps: Vec<Step>,
    message: Option<Message>,
    usual: Option<String>,
    record: Record,
    number: usize,
) -> mpsc::Receiver<io::Result<Bytes>> {
    let (events, received) = mpsc::channel(16);
    tokio::spawn(async move {
        let unread = record.unread(number);
        let id = message.as_ref().map_or("null", Message::id_text);
        for step in steps {
            let text = match step {
                Step::Data(text) => Ok(event(None, &text.replace(ID, id))),
                Step::Event(name, text) => Ok(event(Some(&name), &text.replace(ID, id))),
                Step::Raw(text) => Ok(text.replace(ID, id)),
                Step::Filler(length) => {
                    if fill(&events, length).await.is_err() {
                        return;
                    }
                    continue;
                }
                Step::UsualResponse => Ok(event(None, usual.as_deref().unwrap_or("null"))),
                Step::Pause(length) => {
                    tokio::time::sleep(length).await;
                    continue;
                }
                Step::Wait(gate) => {
                    tokio::select! {
                        () = gate.opened() => continue,
                        () = events.closed() => return,
                    }
                }
                Step::Open(gate) => {
                    gate.open();
                    continue;
                }
                Step::AwaitResponse(id) => {
                    let came = record.wait(|request| request.is_response_to(&id));
                    tokio::select! {
                        _ = came => continue,
                        () = events.closed() => return,
                    }
                }
                Step::Cut => Err(io::Error::other("cut by the test")),
            };
            if events.send(text.map(Bytes::from)).await.is_err() {
                return;
            }
        }
        unread.was_read();
    });
    received
}

/// A response with an event stream from the channel.
pub(super) fn event_stream(received: mpsc::Receiver<io::Result<Bytes>>) -> Response<Body> {
    let mut response = pieces(received, "text/event-stream");
    let kept = http::HeaderValue::from_static("no-cache");
    response.headers_mut().insert("cache-control", kept);
    response
}

/// A response with a body from the channel.
pub(crate) fn pieces(
    received: mpsc::Receiver<io::Result<Bytes>>,
    kind: &'static str,
) -> Response<Body> {
    let chunks = stream::unfold(received, async |mut received| {
        let chunk = received.recv().await?;
        // After an error hyper drops the connection; it writes earlier pieces while a body isn't ready.
        if chunk.is_err() {
            tokio::task::yield_now().await;
        }
        Some((chunk.map(Frame::data), received))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(chunks)));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static(kind));
    response
}

/// The text of one server-sent event.
#[must_use]
pub fn event(id: Option<&str>, data: &str) -> String {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    let data: String = data.split('\n').map(|line| format!("data: {line}\n")).collect();
    format!("{id}{data}\n")
}
