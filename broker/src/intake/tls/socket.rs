//! The bytes of a caller before its handshake is done: few of them.
//!
//! The attack: a first message of TLS of 64 KiB, of which the last byte never comes, on each of many connections.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// A hello, a chain of certificates and a signature; those of RSA are the longest.
const MAX_HANDSHAKE: usize = 24 << 10;

/// The TCP connection, under TLS.
#[derive(Debug)]
pub(crate) struct Limited {
    stream: TcpStream,
    /// What may still be read; all, if nothing is said.
    left: Option<usize>,
}

/// A connection whose peer is known.
pub(crate) type TlsSocket = TlsStream<Limited>;

impl Limited {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, left: Some(MAX_HANDSHAKE) }
    }

    /// The handshake is done.
    pub(super) fn lift(&mut self) {
        self.left = None;
    }
}

impl AsyncRead for Limited {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == Some(0) {
            return Poll::Ready(Err(io::Error::other("the handshake is too long")));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(buffer.filled().len() - before);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Limited {
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
