//! A stream whose reads are observed: before each read, and how many bytes it returned. Writes pass through.
//!
//! Vectored writes aren't offered, so that h2 collects the headers, the message and the trailers of
//! a response in one write, for which the caller wakes once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Decides whether a stream is read further.
pub(crate) trait Guard: Unpin {
    /// Checks before a read; it is polled like one.
    ///
    /// # Errors
    /// After an error, nothing more is read.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()>;

    /// Records that a read has returned `count` bytes.
    fn has_read(&mut self, count: usize);
}

/// A stream and its guard.
#[derive(Debug)]
pub(crate) struct Guarded<S, G> {
    stream: S,
    pub(super) guard: G,
}

impl<S, G> Guarded<S, G> {
    pub(super) fn new(stream: S, guard: G) -> Self {
        Self { stream, guard }
    }
}

impl<S: AsyncRead + Unpin, G: Guard> AsyncRead for Guarded<S, G> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.guard.check(context)?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.guard.has_read(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin, G: Unpin> AsyncWrite for Guarded<S, G> {
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
}
