//! One caller's connection: it carries the peer that the kernel named when it was accepted, or none.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
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
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    caller: Caller,
    /// When it ends, unless it has said enough by then.
    deadline: Option<Pin<Box<Sleep>>>,
    stranger: bool,
    read: usize,
    _place: Place,
    /// Dropped with the connection: how the private broker learns that its proxy is gone.
    _open: Option<mpsc::Sender<()>>,
}

impl Connection {
    pub(super) fn new(
        stream: UnixStream,
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
            _place: place,
            _open: open,
        }
    }

    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let late = self.deadline.as_mut().is_some_and(|it| it.as_mut().poll(context).is_ready());
        late || (self.stranger && self.read > STRANGER_BYTES)
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.deadline.is_some() && self.is_over(context) {
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

impl AsyncWrite for Connection {
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
