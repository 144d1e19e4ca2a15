//! The byte stream between this process and a broker.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, pending};
use sigward_proto::local::Local;
use sigward_proto::remote::Secured;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// A new connection to a broker, on which nothing has been sent yet.
pub(super) struct Connected {
    pub(super) socket: Socket,
    /// The calls that may be sent before the broker has announced its limit.
    pub(super) streams: Option<u32>,
    /// Ends when new calls should use a new connection.
    pub(super) outdated: BoxFuture<'static, ()>,
}

/// A socket of either kind.
pub(super) enum Socket {
    Unix(Local),
    Tls(Box<Secured>),
}

impl Connected {
    /// A connection to a broker on this machine. Must be called in a runtime.
    pub(super) fn local(stream: UnixStream) -> io::Result<Self> {
        let socket = Socket::Unix(Local::new(stream)?);
        Ok(Self { socket, streams: None, outdated: pending().boxed() })
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(secured) => Pin::new(secured).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(secured) => Pin::new(secured).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(secured) => Pin::new(secured).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(secured) => Pin::new(secured).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Self::Tls(secured) => Pin::new(secured).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(secured) => secured.is_write_vectored(),
        }
    }
}
