//! Closes connections of clients that read too slowly.
//!
//! Data that waits for a client uses memory that others may need. A client that reads less than [`LEAST_RATE`] while
//! data waits for it is disconnected, so that one that reads a byte now and then can't hold memory for hours.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// The rate at which a client must read while data waits for it, in bytes a second.
const LEAST_RATE: u64 = 128 << 10;

/// A stream whose writes fail if the client reads too slowly for too long.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    limit: Duration,
    /// When the pending write began to wait.
    waiting: Option<Instant>,
    /// How long writes have waited since the client last kept up.
    waited: Duration,
    /// The bytes that the client has read in that time.
    taken: u64,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// `limit` is the longest time in which the client may read too slowly.
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        let (waiting, waited, taken, timer) = (None, Duration::ZERO, 0, None);
        Self { stream, limit, waiting, waited, taken, timer }
    }

    /// Records that a write accepted so many bytes.
    fn progress(&mut self, bytes: usize) {
        let Some(since) = self.waiting.take() else {
            if !self.waited.is_zero() {
                self.taken += bytes as u64;
                self.reset_if_kept_up();
            }
            return;
        };
        self.timer = None;
        self.waited += since.elapsed();
        self.taken += bytes as u64;
        self.reset_if_kept_up();
    }

    /// Resets the record of a client that has kept up.
    fn reset_if_kept_up(&mut self) {
        let owed = self.waited.as_millis().saturating_mul(u128::from(LEAST_RATE)) / 1000;
        if u128::from(self.taken) >= owed {
            (self.waited, self.taken) = (Duration::ZERO, 0);
        }
    }

    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(result) = written {
            self.progress(result.as_ref().map_or(0, bytes));
            return Poll::Ready(result);
        }
        let since = *self.waiting.get_or_insert_with(Instant::now);
        let left = self.limit.saturating_sub(self.waited);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(since + left)));
        ready!(timer.as_mut().poll(context));
        let why = "the client reads too slowly";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, buffer);
        self.judge(context, written, |bytes| *bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.judge(context, written, |bytes| *bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, flushed, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.judge(context, shut, |()| 0)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_disconnected() {
        let (_client, server) = duplex(4);
        let started = Instant::now();
        let mut server = Patient::new(server, LIMIT);
        let error = server.write_all(&[b'x'; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= LIMIT);
    }

    /// Measures a client that reads `piece` bytes each second of a body that takes minutes.
    async fn reads(piece: usize) -> io::Result<()> {
        let (mut client, server) = duplex(1024);
        let mut server = Patient::new(server, LIMIT);
        let reading = tokio::spawn(async move {
            let mut buffer = vec![0; piece];
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                client.read_exact(&mut buffer).await?;
            }
            #[allow(unreachable_code, reason = "the type of the block")]
            io::Result::Ok(())
        });
        // Data for minutes, and more than the connection itself buffers.
        let body = vec![b'x'; (300 * piece).max(64 << 10)];
        let mut written = Ok(());
        // Written in parts, each with a flush, as an HTTP server does.
        for piece in body.chunks(64 << 10) {
            written = server.write_all(piece).await;
            if written.is_err() {
                break;
            }
            server.flush().await?;
        }
        reading.abort();
        written
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_too_slowly_is_disconnected() {
        for piece in [1, 25 << 10, 100 << 10] {
            let error = reads(piece).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{piece} bytes a second");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_keeps_up_is_served() {
        reads(200 << 10).await.unwrap();
    }
}
