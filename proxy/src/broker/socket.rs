//! The bytes between this process and a broker.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, pending};
use sigward_proto::local::Local;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls;

/// A connection to a broker that nothing has been sent on yet.
pub(super) struct Connected {
    pub(super) socket: Socket,
    /// Calls that may be begun before the broker has said how many it takes.
    pub(super) streams: Option<u32>,
    /// Ends when new calls should have another connection.
    pub(super) outdated: BoxFuture<'static, ()>,
}

/// Both kinds of them.
pub(super) enum Socket {
    Unix(Local),
    Tls(Box<Secured>),
}

/// A connection over TLS.
pub(super) struct Secured {
    stream: TlsStream<TcpStream>,
    /// What we showed to the broker, for errors.
    cert: PathBuf,
}

impl Secured {
    pub(super) fn new(stream: TlsStream<TcpStream>, cert: &Path) -> Self {
        Self { stream, cert: cert.to_owned() }
    }

    /// The broker looks at our certificate when we think that the handshake is done (RFC 8446, 4.4): what it says of it
    /// comes with the first answer.
    fn explain(&self, error: io::Error) -> io::Error {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let Some(rustls::Error::AlertReceived(alert)) = inner else { return error };
        let cert = self.cert.display();
        io::Error::other(format!(
            "it refuses --broker-cert {cert} ({alert:?}): has it expired, has it one SPIFFE id or a DNS name, and \
             does an authority of the broker's [listen] client_ca vouch for it?"
        ))
    }
}

impl Connected {
    /// To a broker on this machine. In a runtime.
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
            Self::Tls(secured) => {
                let read = ready!(Pin::new(&mut secured.stream).poll_read(context, buffer));
                Poll::Ready(read.map_err(|error| secured.explain(error)))
            }
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
            Self::Tls(secured) => Pin::new(&mut secured.stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(secured) => Pin::new(&mut secured.stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(secured) => Pin::new(&mut secured.stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Self::Tls(secured) => Pin::new(&mut secured.stream).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(secured) => secured.stream.is_write_vectored(),
        }
    }
}
