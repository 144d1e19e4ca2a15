//! MCP over Streamable HTTP, for clients that can't start a process, such as those in another
//! container.
//!
//! Every request is checked by the [`Guard`] first. Connections, headers, bodies and idle times have limits. A request
//! that exceeds one is refused; other requests aren't affected.

mod guard;
mod handler;
mod patience;
mod socket;
mod strangers;

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::{
    ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sigward_proto::headers::MAX_HEADERS as MAX_SIGNED_HEADERS;
use sigward_proto::traces::Since;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::guard::Guard;
pub use self::handler::Handler;
use self::handler::{Body, Part, full, refusal, unknown_session, until};
use self::patience::Patient;
use self::socket::Connection;
pub use self::socket::Socket;
use self::strangers::{Place, Strangers};
use crate::budget::{Message, Share};
use crate::config::{MAX_ADDED_HEADERS, MAX_CLIENT_MESSAGE};

/// The most connections of authorized clients. More than the most sessions, since each session may
/// have a stream.
const MAX_CONNECTIONS: usize = 8192;
/// The most connections without an authorized request so far.
const MAX_STRANGERS: usize = 512;
/// File descriptors reserved for everything except connections: files, the broker, the socket
/// itself.
const SPARE: usize = 64;
/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// The most headers of a request. Together with those of `--header`, the broker accepts as many.
const MAX_HEADERS: usize = MAX_SIGNED_HEADERS - MAX_ADDED_HEADERS;
/// Time limits for HTTP clients.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The longest time until a client has sent an authorized request.
    pub first: Duration,
    /// The longest wait for a request head, and therefore the longest idle time of a connection.
    pub head: Duration,
    /// The longest wait for the next part of a body.
    pub body: Duration,
    /// The longest time in which a client may read none of its answer.
    pub write: Duration,
    /// The longest time for the rest of a refused body.
    pub discard: Duration,
}

impl Limits {
    /// The limits of every proxy.
    pub const USUAL: Self = Self {
        first: Duration::from_secs(10),
        head: Duration::from_secs(60),
        body: Duration::from_secs(30),
        write: Duration::from_secs(60),
        discard: Duration::from_secs(5),
    };
}

/// State that all connections share.
#[derive(Debug)]
pub struct Service {
    /// Decides which requests are authorized.
    pub guard: Guard,
    /// Answers authorized requests.
    pub handler: Arc<Handler>,
    /// Time limits for clients.
    pub limits: Limits,
    /// Cancelled when no further request may begin.
    pub draining: CancellationToken,
}

/// The number of connections that are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Connections of authorized clients.
    clients: usize,
    /// Connections without an authorized request so far.
    strangers: usize,
}

impl Room {
    /// The connections for which the process has file descriptors. Each client may need a connection to the server as
    /// well, and a process without free descriptors can serve no client.
    #[must_use]
    pub fn within(descriptors: u64) -> Self {
        let half = usize::try_from(descriptors).unwrap_or(usize::MAX).saturating_sub(SPARE) / 2;
        let strangers = MAX_STRANGERS.min(half / 4).max(1);
        Self { clients: MAX_CONNECTIONS.min(half.saturating_sub(strangers)).max(1), strangers }
    }
}

/// Serves the connections of `socket` until the service is draining. Returns the connections that
/// are still open; each closes after its current answer.
pub async fn serve(socket: &Socket, service: &Arc<Service>, room: Room) -> TaskTracker {
    let connections = TaskTracker::new();
    let strangers = Strangers::new(room.strangers);
    let room = Arc::new(Semaphore::new(room.clients));
    let draining = service.draining.clone();
    let accepting = async {
        loop {
            match socket.accept().await {
                Ok(stream) => {
                    let (place, part) = (strangers.admit(), service.handler.part());
                    let entry = Entry { place, room: Arc::clone(&room), part };
                    connections.spawn(connection(stream, Arc::clone(service), entry));
                }
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection");
                    // If the process is out of descriptors, some must be closed first.
                    strangers.evict_oldest();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    draining.run_until_cancelled(accepting).await;
    connections.close();
    connections
}

/// What admits a connection.
#[derive(Debug)]
struct Entry {
    place: Place,
    /// Permits for connections of authorized clients.
    room: Arc<Semaphore>,
    /// The connection's share of the memory.
    part: Part,
}

impl Entry {
    /// Called when the client has sent an authorized request. Returns its permit; `None` if all are
    /// in use.
    fn admit(&self) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.room).try_acquire_owned().ok()?;
        self.place.authorize().then_some(permit)
    }
}

async fn connection(stream: impl Connection, service: Arc<Service>, entry: Entry) {
    let limits = service.limits;
    let stream = TokioIo::new(Patient::new(stream, limits.write));
    let draining = service.draining.clone();
    let place = entry.place.clone();
    // Empty until the client has sent an authorized request.
    let admitted: Arc<OnceLock<OwnedSemaphorePermit>> = Arc::default();
    let (entry, permit_slot) = (Arc::new(entry), Arc::clone(&admitted));
    let answer = service_fn(move |request| {
        let (service, entry, permit_slot) =
            (Arc::clone(&service), Arc::clone(&entry), Arc::clone(&permit_slot));
        // Boxed so that an idle connection holds a pointer instead of kilobytes.
        Box::pin(
            async move { Ok::<_, Infallible>(service.answer(request, &entry, &permit_slot).await) },
        )
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(stream, answer);
    let mut connection = std::pin::pin!(connection);
    let stranger = async {
        tokio::select! {
            () = place.evicted() => {}
            () = tokio::time::sleep(limits.first) => {}
        }
        // An authorized connection is only limited by the timer for request heads.
        if admitted.get().is_some() {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stranger => {
            tracing::debug!("closed a connection that sent no authorized request");
            return;
        }
        () = draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

impl Service {
    /// Answers a request. If it is refused, the rest of its body is read: a client that is still sending would see a
    /// broken connection instead of the answer.
    async fn answer(
        &self,
        request: Request<Incoming>,
        entry: &Entry,
        admitted: &OnceLock<OwnedSemaphorePermit>,
    ) -> Response<Body> {
        let (head, mut body) = request.into_parts();
        // A client that sent `Expect` sends no body once it is refused.
        let asks_first = head.headers.contains_key(EXPECT);
        let answer = self.answered(&head, &mut body, entry, admitted).await;
        let is_refused = answer.status().is_client_error() || answer.status().is_server_error();
        if is_refused && !asks_first && !body.is_end_stream() {
            let _ = tokio::time::timeout(self.limits.discard, discard(body)).await;
        }
        answer
    }

    async fn answered(
        &self,
        head: &Parts,
        body: &mut Incoming,
        entry: &Entry,
        admitted: &OnceLock<OwnedSemaphorePermit>,
    ) -> Response<Body> {
        match (head.uri.path(), &head.method) {
            ("/healthz", &Method::GET | &Method::HEAD) => return self.health(),
            ("/healthz", _) => return not_allowed("GET, HEAD"),
            ("/mcp", _) => {}
            _ => {
                return refusal(
                    StatusCode::NOT_FOUND,
                    "Unknown path: there are only /mcp and /healthz.",
                );
            }
        }
        if let Err(refused) = self.guard.check(&head.headers) {
            tracing::warn!(?refused, "refused a request");
            let (status, why) = refused.answer();
            let mut answer = refusal(status, why);
            if status == StatusCode::UNAUTHORIZED {
                answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            return answer;
        }
        if admitted.get().is_none() {
            match entry.admit() {
                Some(permit) => drop(admitted.set(permit)),
                None => return busy("Too many clients are connected; try again soon."),
            }
        }
        match head.method {
            Method::POST => {
                let begun = Since::now();
                match self.message(&head.headers, body, &entry.part).await {
                    Ok(message) => {
                        self.handler.post(&head.headers, message, &entry.part, begun).await
                    }
                    Err(refused) => refused,
                }
            }
            Method::GET => {
                let answer = Box::pin(self.handler.get(&head.headers)).await;
                if answer.headers().get(CONTENT_TYPE).is_none_or(|kind| !is_events(kind)) {
                    return answer;
                }
                // Such a stream may never end by itself.
                let draining = self.draining.clone().cancelled_owned();
                answer.map(|body| until(body, draining))
            }
            Method::DELETE => Box::pin(self.handler.delete(&head.headers)).await,
            _ => not_allowed("GET, POST, DELETE"),
        }
    }

    /// Reports to a monitor whether the process accepts requests, and nothing else.
    fn health(&self) -> Response<Body> {
        let draining = self.draining.is_cancelled();
        let (status, text) = match draining {
            true => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            false => (StatusCode::OK, "ok\n"),
        };
        let mut answer = Response::new(full(text));
        *answer.status_mut() = status;
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        answer.headers_mut().insert(CONTENT_TYPE, kind);
        answer
    }

    /// Reads the message in a body, and acquires memory for it as it arrives.
    async fn message(
        &self,
        headers: &HeaderMap,
        body: &mut Incoming,
        part: &Part,
    ) -> Result<Message, Response<Body>> {
        if !is_json(headers) {
            // The attack: a page of another site can send a form without a preflight, but not this
            // content type.
            let why = "The content type of a message must be application/json.";
            return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
        }
        if headers.contains_key(CONTENT_ENCODING) {
            // The proxy must check the same text that the server reads.
            let why = "A message must not have a content encoding.";
            return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
        }
        let too_large = || {
            let why = format!("A message may have at most {} MiB.", MAX_CLIENT_MESSAGE >> 20);
            refusal(StatusCode::PAYLOAD_TOO_LARGE, &why)
        };
        if declared(headers).is_some_and(|length| length > MAX_CLIENT_MESSAGE) {
            return Err(too_large());
        }
        let Some(requests) = self.handler.requests(headers, part) else {
            return Err(unknown_session());
        };
        let mut share = Share::default();
        let mut text = Vec::new();
        loop {
            let Ok(frame) = tokio::time::timeout(self.limits.body, body.frame()).await else {
                let why = format!(
                    "No data of the message arrived for {} s.",
                    self.limits.body.as_secs_f64()
                );
                return Err(refusal(StatusCode::REQUEST_TIMEOUT, &why));
            };
            let piece = match frame {
                None => break,
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(_)) => {
                    return Err(refusal(StatusCode::BAD_REQUEST, "The message was cut."));
                }
            };
            let length = text.len() + piece.len();
            if length > MAX_CLIENT_MESSAGE {
                return Err(too_large());
            }
            if !share.try_cover(&requests, length) {
                return Err(busy("Too many large requests at the same time; try again soon."));
            }
            text.extend_from_slice(&piece);
        }
        let text = String::from_utf8(text)
            .map_err(|_| refusal(StatusCode::BAD_REQUEST, "The message isn't UTF-8."))?;
        Ok(Message::new(text, share))
    }
}

/// A refusal that is temporary.
fn busy(why: &str) -> Response<Body> {
    let mut busy = refusal(StatusCode::SERVICE_UNAVAILABLE, why);
    busy.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    busy
}

/// Reads the rest of a refused body.
async fn discard(mut body: Incoming) {
    let mut left = MAX_CLIENT_MESSAGE;
    while let Some(Ok(frame)) = body.frame().await {
        left = left.saturating_sub(frame.data_ref().map_or(0, bytes::Bytes::len));
        if left == 0 {
            return;
        }
    }
}

fn not_allowed(methods: &'static str) -> Response<Body> {
    let mut answer =
        refusal(StatusCode::METHOD_NOT_ALLOWED, "This path doesn't allow this method.");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    answer
}

/// Whether a body is JSON in UTF-8. A server that honours another charset would read a different
/// text.
fn is_json(headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(CONTENT_TYPE).iter();
    let kind = kinds.next().and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let mut parts = kind.split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    let is_utf8 = parts.all(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = value.trim_matches('"');
        !name.trim().eq_ignore_ascii_case("charset") || value.eq_ignore_ascii_case("utf-8")
    });
    is_json && is_utf8 && kinds.next().is_none()
}

fn is_events(kind: &HeaderValue) -> bool {
    kind.as_bytes().starts_with(b"text/event-stream")
}

fn declared(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
