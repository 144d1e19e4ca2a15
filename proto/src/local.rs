//! I/O on a Unix socket between a proxy and a broker.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use crate::room::{self, Room};

/// A socket whose task is woken when there is data to read, and for writing only after the buffer
/// was full.
#[derive(Debug)]
pub struct Local {
    inner: AsyncFd<UnixStream>,
    room: Room,
}

impl Local {
    /// Must be called in a runtime.
    ///
    /// # Errors
    /// It can't be registered with the runtime.
    pub fn new(stream: tokio::net::UnixStream) -> io::Result<Self> {
        // It stays non-blocking.
        let inner = room::registered(stream.into_std()?, Interest::READABLE)?;
        Ok(Self { inner, room: Room::default() })
    }

    fn write_with(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&UnixStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let stream = self.inner.get_ref();
        self.room.poll_write(cx, stream.as_fd(), || write(stream))
    }
}

impl AsyncRead for Local {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.inner.poll_read_ready(cx))?;
            let room = buffer.initialize_unfilled();
            let length = room.len();
            match ready.try_io(|inner| inner.get_ref().read(room)) {
                Ok(Ok(read)) => {
                    // A stream that returned less than the buffer's size is empty: epoll(7).
                    if (1..length).contains(&read) {
                        ready.clear_ready();
                    }
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Local {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write_with(cx, |mut stream| stream.write(from))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write_with(cx, |mut stream| stream.write_vectored(from))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().room.all_written();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.inner.get_ref().shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn data_larger_than_the_buffer_arrives_in_both_directions() {
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        let (mut read, mut write) = tokio::io::split(Local::new(ours).unwrap());
        let (mut its_read, mut its_write) = theirs.into_split();
        let large: Vec<u8> = (0..4 << 20).map(|at| (at % 251) as u8).collect();
        let echo = async {
            tokio::io::copy(&mut its_read, &mut its_write).await.unwrap();
            its_write.shutdown().await.unwrap();
        };
        let send = async {
            for piece in large.chunks(100_000) {
                write.write_all(piece).await.unwrap();
                write.flush().await.unwrap();
            }
            write.shutdown().await.unwrap();
        };
        let mut back = Vec::new();
        let receive = read.read_to_end(&mut back);
        let ((), (), received) = tokio::join!(echo, send, receive);
        assert_eq!(received.unwrap(), large.len());
        assert!(back == large);
    }
}
