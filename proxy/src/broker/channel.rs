//! The HTTP/2 connection to the broker. There is one, opened on demand and reopened when it breaks.
//!
//! Each call is one stream: it wakes the connection's task, and the answer wakes the caller's task. (`tonic`'s channel
//! adds a queue with a task, a task for each answer, and three writes for each request; that took more time than all
//! other steps to a signature.)

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use h2::RecvStream;
use h2::client::{self, SendRequest};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;

use super::socket::Connected;

/// The time limit of connecting.
const CONNECT: Duration = Duration::from_secs(10);
/// The most unread bytes of one answer, and of all answers together.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// The longest head of an answer.
const MAX_HEAD: u32 = 16 << 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Connect = Box<dyn Fn() -> BoxFuture<'static, io::Result<Connected>> + Send + Sync>;
type Opening = Shared<BoxFuture<'static, Result<Open, Arc<BoxError>>>>;

/// A connection that is opened on demand. Cheap to clone.
#[derive(Clone)]
pub(super) struct Channel(Arc<Inner>);

struct Inner {
    connect: Connect,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Counts the connections.
    epoch: u64,
    phase: Phase,
}

#[derive(Default)]
enum Phase {
    #[default]
    Closed,
    Opening(Opening),
    Open(Open),
}

#[derive(Clone)]
struct Open {
    epoch: u64,
    sender: SendRequest<Bytes>,
}

/// Why there is no connection, shared by all callers that waited for it.
#[derive(Debug, thiserror::Error)]
#[error("can't connect")]
struct NotConnected(#[source] Arc<BoxError>);

impl Channel {
    /// Makes a channel that isn't connected yet.
    pub(super) fn new(
        connect: impl Fn() -> BoxFuture<'static, io::Result<Connected>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner { connect: Box::new(connect), state: Mutex::default() }))
    }

    async fn ask(self, request: Request<tonic::body::Body>) -> Result<Response<Answer>, BoxError> {
        let (head, body) = request.into_parts();
        let message = whole(body).await?;
        let open = match self.open().await?.ready().await {
            Ok(open) => open,
            // The broker has sent GOAWAY on this connection, or it broke. The request wasn't sent.
            Err(epoch) => {
                self.lost(epoch);
                self.open().await?.ready().await.map_err(|_| broken())?
            }
        };
        let Open { mut sender, .. } = open;
        let (answer, mut stream) = sender.send_request(Request::from_parts(head, ()), false)?;
        // If it is larger than the windows, the connection queues it without copying the bytes.
        stream.send_data(message, true)?;
        Ok(answer.await?.map(|stream| Answer { stream, has_trailers: false }))
    }

    /// The open connection; opens it if necessary. Concurrent callers share one attempt.
    async fn open(&self) -> Result<Open, NotConnected> {
        let (epoch, opening) = {
            let mut state = self.state();
            match &state.phase {
                Phase::Open(open) => return Ok(open.clone()),
                Phase::Opening(opening) => (state.epoch, opening.clone()),
                Phase::Closed => {
                    state.epoch += 1;
                    let (channel, epoch) = (self.clone(), state.epoch);
                    // A task, because the caller that started it may be cancelled while others
                    // wait.
                    let task = tokio::spawn(async move { channel.connect(epoch).await });
                    let opening = task
                        .map(|done| done.unwrap_or_else(|error| Err(Arc::new(error.into()))))
                        .boxed()
                        .shared();
                    state.phase = Phase::Opening(opening.clone());
                    (epoch, opening)
                }
            }
        };
        opening.await.map_err(|error| {
            self.lost(epoch);
            NotConnected(error)
        })
    }

    async fn connect(&self, epoch: u64) -> Result<Open, Arc<BoxError>> {
        let opened = match tokio::time::timeout(CONNECT, self.handshake(epoch)).await {
            Ok(opened) => opened.map_err(Arc::new),
            Err(late) => Err(Arc::new(late.into())),
        };
        let mut state = self.state();
        if state.epoch == epoch {
            state.phase = opened.as_ref().map_or(Phase::Closed, |open| Phase::Open(open.clone()));
        }
        opened
    }

    async fn handshake(&self, epoch: u64) -> Result<Open, BoxError> {
        let Connected { socket, streams, outdated } = (self.0.connect)().await?;
        let mut builder = client::Builder::new();
        if let Some(streams) = streams {
            builder.initial_max_send_streams(usize::try_from(streams).unwrap_or(usize::MAX));
        }
        let (sender, connection) = builder
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEAD)
            .handshake(socket)
            .await?;
        let channel = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                () = outdated => {
                    if let Some(inner) = channel.upgrade() {
                        Self(inner).lost(epoch);
                    }
                    connection.await
                }
            };
            tracing::debug!(?ended, "the connection to the broker ended");
            if let Some(inner) = channel.upgrade() {
                Self(inner).lost(epoch);
            }
        });
        Ok(Open { epoch, sender })
    }

    /// Makes later calls use a new connection.
    pub(super) fn replace(&self) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Open(_)) {
            state.phase = Phase::Closed;
        }
    }

    /// Marks the connection as unusable, unless another one has replaced it.
    fn lost(&self, epoch: u64) {
        let mut state = self.state();
        if state.epoch == epoch {
            state.phase = Phase::Closed;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Waits until a request can be sent. The error is the epoch of a connection that is no longer
    /// usable.
    async fn ready(self) -> Result<Self, u64> {
        let Self { epoch, sender } = self;
        sender.ready().await.map(|sender| Self { epoch, sender }).map_err(|_| epoch)
    }
}

fn broken() -> BoxError {
    io::Error::from(io::ErrorKind::ConnectionReset).into()
}

/// The body of a request in one part: it contains one complete message.
async fn whole(mut body: tonic::body::Body) -> Result<Bytes, BoxError> {
    let mut whole = Bytes::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame?.into_data() else { continue };
        whole = match whole.is_empty() {
            true => piece,
            false => {
                let mut longer = BytesMut::from(whole);
                longer.extend_from_slice(&piece);
                longer.freeze()
            }
        };
    }
    Ok(whole)
}

impl tower::Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Answer>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.clone().ask(request))
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Channel")
    }
}

/// The body of an answer. Dropping it cancels the call.
#[derive(Debug)]
pub(super) struct Answer {
    stream: RecvStream,
    /// Whether all messages are read, and trailers follow.
    has_trailers: bool,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.has_trailers {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(piece)) => {
                    // It fails only if the stream is gone, which the next poll reports.
                    let _ = self.stream.flow_control().release_capacity(piece.len());
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.has_trailers = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use http::StatusCode;
    use tokio::net::UnixStream;

    use super::*;

    fn question() -> Request<tonic::body::Body> {
        Request::post("http://broker/question").body(tonic::body::Body::empty()).unwrap()
    }

    async fn status(channel: &Channel) -> Result<StatusCode, BoxError> {
        channel.clone().ask(question()).await.map(|answer| answer.status())
    }

    /// A broker that answers this many calls on each connection, and then sends GOAWAY.
    fn broker(questions: usize, connections: &Arc<AtomicUsize>) -> Channel {
        let connections = Arc::clone(connections);
        Channel::new(move || {
            connections.fetch_add(1, Ordering::Relaxed);
            let (ours, theirs) = UnixStream::pair().unwrap();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(theirs).await.unwrap();
                for number in 1.. {
                    let Some(Ok((_, mut answer))) = connection.accept().await else { return };
                    if number == questions {
                        connection.graceful_shutdown();
                    }
                    answer.send_response(Response::new(()), true).unwrap();
                }
            });
            async { Connected::local(ours) }.boxed()
        })
    }

    #[tokio::test]
    async fn concurrent_callers_share_one_connection() {
        let connections = Arc::default();
        let channel = broker(usize::MAX, &connections);
        let all = join_all((0..20).map(|_| status(&channel))).await;
        assert!(all.into_iter().all(|status| status.unwrap() == StatusCode::OK));
        assert_eq!(connections.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_connection_is_replaced_after_goaway() {
        let connections: Arc<AtomicUsize> = Arc::default();
        let channel = broker(1, &connections);
        // A call during the GOAWAY may be answered, or fail.
        let asking = async {
            while connections.load(Ordering::Relaxed) < 5 {
                let _ = status(&channel).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), asking).await.unwrap();
    }

    #[tokio::test]
    async fn a_failure_is_shared_and_a_later_call_reconnects() {
        let tries = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&tries);
        let channel = Channel::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            async { Err(io::Error::other("no broker here")) }.boxed()
        });
        let all = join_all((0..20).map(|_| status(&channel))).await;
        for failed in all {
            let text = crate::error::innermost(&*failed.unwrap_err());
            assert_eq!(text, "no broker here");
        }
        assert_eq!(tries.load(Ordering::Relaxed), 1);
        status(&channel).await.unwrap_err();
        assert_eq!(tries.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_cancelled_call_keeps_the_connection_for_others() {
        let connections = Arc::default();
        let channel = broker(usize::MAX, &connections);
        assert!(status(&channel).now_or_never().is_none());
        assert_eq!(status(&channel).await.unwrap(), StatusCode::OK);
        assert_eq!(connections.load(Ordering::Relaxed), 1);
    }
}
