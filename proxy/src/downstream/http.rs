//! MCP over Streamable HTTP, for clients that can't start a process: those in another container.
//!
//! Every request passes the [`Guard`] first. Connections, headers, bodies and silences have limits; a
//! request beyond one of them is refused, and the others go on.

mod guard;
mod patience;
mod socket;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sigward_proto::headers::MAX_HEADERS as MAX_SIGNED_HEADERS;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::guard::Guard;
use self::patience::Patient;
use self::socket::Connection;
pub use self::socket::Socket;
use crate::budget::{Budget, Message, Share};
use crate::config::{MAX_ADDED_HEADERS, MAX_CLIENT_MESSAGE};
use crate::reverse::{Body, Reverse, full, refusal, until};

/// Connections at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// The most headers of one: with those of `--header`, what the broker takes.
const MAX_HEADERS: usize = MAX_SIGNED_HEADERS - MAX_ADDED_HEADERS;
/// How long a client may take, and take nothing.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The longest wait for a head, and so the longest idle time of a connection.
    pub head: Duration,
    /// The longest wait for the next piece of a body.
    pub body: Duration,
    /// The longest time in which a client may take nothing of its answer.
    pub write: Duration,
    /// The longest time for the rest of a body that is refused.
    pub discard: Duration,
}

impl Limits {
    /// Those of every proxy.
    pub const USUAL: Self = Self {
        head: Duration::from_secs(60),
        body: Duration::from_secs(30),
        write: Duration::from_secs(60),
        discard: Duration::from_secs(5),
    };
}

/// What all connections share.
#[derive(Debug)]
pub struct Service {
    /// Who may speak.
    pub guard: Guard,
    /// What answers.
    pub reverse: Arc<Reverse>,
    /// The memory of requests.
    pub requests: Budget,
    /// The patience with clients.
    pub limits: Limits,
    /// Cancelled when no request may begin any more.
    pub draining: CancellationToken,
}

/// Serves the connections of `socket` until the service is draining; returns the connections that
/// are still open, each ending with the answer at work.
pub async fn serve(socket: &Socket, service: &Arc<Service>) -> TaskTracker {
    let connections = TaskTracker::new();
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let draining = service.draining.clone();
    let accepting = async {
        loop {
            // Never closed.
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            match socket.accept().await {
                Ok(stream) => {
                    let service = Arc::clone(service);
                    connections.spawn(async move {
                        connection(stream, service).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection");
                    // Out of descriptors: some must be closed first.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    draining.run_until_cancelled(accepting).await;
    connections.close();
    connections
}

async fn connection(stream: impl Connection, service: Arc<Service>) {
    let limits = service.limits;
    let stream = TokioIo::new(Patient::new(stream, limits.write));
    let draining = service.draining.clone();
    let answer = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(service.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(stream, answer);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
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
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        match (head.uri.path(), &head.method) {
            ("/healthz", &Method::GET | &Method::HEAD) => return self.health(),
            ("/healthz", _) => return not_allowed("GET, HEAD"),
            ("/mcp", _) => {}
            _ => return refusal(StatusCode::NOT_FOUND, "There is only /mcp here, and /healthz."),
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
        match head.method {
            Method::POST => {
                let mut body = body;
                match self.message(&head.headers, &mut body).await {
                    Ok(message) => self.reverse.post(&head.headers, message).await,
                    Err(refused) => {
                        let rest = discard(body);
                        let _ = tokio::time::timeout(self.limits.discard, rest).await;
                        refused
                    }
                }
            }
            Method::GET => {
                let answer = self.reverse.get(&head.headers).await;
                if answer.headers().get(CONTENT_TYPE).is_none_or(|kind| !is_events(kind)) {
                    return answer;
                }
                // Such a stream may have no end of its own.
                let draining = self.draining.clone().cancelled_owned();
                answer.map(|body| until(body, draining))
            }
            Method::DELETE => self.reverse.delete(&head.headers).await,
            _ => not_allowed("GET, POST, DELETE"),
        }
    }

    /// For whoever watches the process: whether it takes requests. Says nothing else, to anybody.
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

    /// The message in a body. What it takes of the memory is taken as it comes.
    async fn message(
        &self,
        headers: &HeaderMap,
        body: &mut Incoming,
    ) -> Result<Message, Response<Body>> {
        if !is_json(headers) {
            // A page of another site can send a form, but not this without asking first.
            let why = "The content type of a message is application/json.";
            return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
        }
        if headers.contains_key(CONTENT_ENCODING) {
            // What is judged here must be what the server reads.
            let why = "The body of a message is sent without a content encoding.";
            return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
        }
        let too_large = || {
            let why = format!("A message has up to {} MiB.", MAX_CLIENT_MESSAGE >> 20);
            refusal(StatusCode::PAYLOAD_TOO_LARGE, &why)
        };
        if declared(headers).is_some_and(|length| length > MAX_CLIENT_MESSAGE) {
            return Err(too_large());
        }
        let mut share = Share::default();
        let mut text = Vec::new();
        loop {
            let Ok(frame) = tokio::time::timeout(self.limits.body, body.frame()).await else {
                let why = format!(
                    "Nothing came of the message for {} s.",
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
            if !share.try_cover(&self.requests, length) {
                let why = "Too many large requests at the same time; try again soon.";
                let mut busy = refusal(StatusCode::SERVICE_UNAVAILABLE, why);
                busy.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                return Err(busy);
            }
            text.extend_from_slice(&piece);
        }
        let text = String::from_utf8(text)
            .map_err(|_| refusal(StatusCode::BAD_REQUEST, "The message isn't UTF-8."))?;
        Ok(Message::new(text, share))
    }
}

/// Reads the rest of a body that is refused: a client that still sends would find its connection
/// broken, and not the answer.
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
    let mut answer = refusal(StatusCode::METHOD_NOT_ALLOWED, "This method isn't for this path.");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    answer
}

/// Whether a body is JSON in UTF-8: in another charset it would say something else to a server that
/// heeds that.
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
