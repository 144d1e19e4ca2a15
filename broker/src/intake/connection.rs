//! One caller's connection: it carries the peer that was named when it was accepted, or none.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use super::counts::Place;
use crate::peer::{Caller, Peer};

/// How long a connection may stay silent at first: HTTP/2 begins with 24 bytes of its client.
const OPENING: Duration = Duration::from_secs(10);
const PREFACE: usize = 24;
/// A stranger's connection lives so long, and is read so far: one call of any size can be refused.
const STRANGER_LIFE: Duration = Duration::from_secs(2);
const STRANGER_BYTES: usize = 384 << 10;

/// One caller's connection.
pub(crate) struct Connection<S> {
    stream: S,
    caller: Caller,
    /// When it ends, unless it has said enough by then.
    deadline: Option<Pin<Box<Sleep>>>,
    stranger: bool,
    read: usize,
    /// When it ends whatever it says: its peer isn't known any more.
    ended: Option<BoxFuture<'static, ()>>,
    _place: Place,
    /// Dropped with the connection: how the private broker learns that its proxy is gone.
    _open: Option<mpsc::Sender<()>>,
}

impl<S> Connection<S> {
    pub(super) fn new(
        stream: S,
        peer: Option<Arc<Peer>>,
        known: bool,
        place: Place,
        open: Option<mpsc::Sender<()>>,
    ) -> Self {
        let life = if known { OPENING } else { STRANGER_LIFE };
        Self {
            stream,
            caller: Caller { peer },
            deadline: Some(Box::pin(tokio::time::sleep(life))),
            stranger: !known,
            read: 0,
            ended: None,
            _place: place,
            _open: open,
        }
    }

    /// The same, until `ended`.
    pub(super) fn until(self, ended: BoxFuture<'static, ()>) -> Self {
        Self { ended: Some(ended), ..self }
    }

    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let late = self.deadline.as_mut().is_some_and(|it| it.as_mut().poll(context).is_ready());
        late || (self.stranger && self.read > STRANGER_BYTES)
    }
}

impl<S> std::fmt::Debug for Connection<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("caller", &self.caller).finish_non_exhaustive()
    }
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.deadline.is_some() && self.is_over(context) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if self.ended.as_mut().is_some_and(|ended| ended.as_mut().poll(context).is_ready()) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if self.deadline.is_some() {
            self.read += buffer.filled().len() - before;
            if self.read >= PREFACE && !self.stranger {
                self.deadline = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
