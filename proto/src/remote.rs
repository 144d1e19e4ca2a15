//! The TLS connection to a broker, for all its clients: both sides authenticate with certificates.
//!
//! Invariant: only TLS 1.3, no session resumption, and no call before the broker's certificate has the expected name.
//! The files are read for each connection.

mod files;
mod named;
mod verifier;

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, rustls};

use self::files::Files;
pub use self::files::Marks;
pub use self::named::{Address, BrokerName, Given, TlsBroker};

/// A connection to the expected broker.
#[derive(Debug)]
pub struct Secured {
    stream: TlsStream<TcpStream>,
    /// The certificate file of this side, for errors.
    cert: PathBuf,
    marks: Marks,
}

impl TlsBroker {
    /// Connects to the broker. `prepare` gets the socket before anything is sent.
    ///
    /// # Errors
    /// Describes the failure, and names the wrong option if it is known.
    pub async fn connect(&self, prepare: impl FnOnce(&TcpStream)) -> io::Result<Secured> {
        let of_read = self.clone();
        let read = tokio::task::spawn_blocking(move || Files::read(&of_read)).await;
        let files = read.map_err(io::Error::other)?.map_err(io::Error::other)?;
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        // Otherwise the second part of a request would wait for the acknowledgement of the first (Nagle). Calls work
        // without it, too.
        stream.set_nodelay(true).ok();
        prepare(&stream);
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        let connecting = TlsConnector::from(files.config).connect(name, stream);
        let stream = connecting.await.map_err(|error| self.explain(&error))?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::other("it is no broker: it doesn't speak h2 (ALPN)"));
        }
        Ok(Secured { stream, cert: self.cert.clone(), marks: files.marks })
    }

    /// Whether the files have changed since `marks`. Returns their current marks, and whether they can be used. This
    /// blocks.
    #[must_use]
    pub fn changed_since(&self, marks: &Marks) -> Option<(Marks, io::Result<()>)> {
        let now = Marks::of(self);
        (now != *marks).then(|| (now, Files::read(self).map(drop).map_err(io::Error::other)))
    }

    /// Names the option that is probably wrong.
    fn explain(&self, error: &io::Error) -> io::Error {
        let Self { ca, name, .. } = self;
        io::Error::other(format!(
            "TLS with it failed: {error}; it must show a certificate for {name} (--broker-name) from an authority in \
             --broker-ca {}",
            ca.display()
        ))
    }
}

impl Secured {
    /// The marks of the files with which the connection was made.
    #[must_use]
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The broker checks the client's certificate after the client has finished the handshake (RFC 8446, 4.4), so that
    /// a refusal arrives with the first answer.
    fn explain(error: io::Error, cert: &Path) -> io::Error {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let Some(rustls::Error::AlertReceived(alert)) = inner else { return error };
        let cert = cert.display();
        io::Error::other(format!(
            "it refuses --broker-cert {cert} ({alert:?}): has it expired, has it one SPIFFE id or a DNS name, and \
             does an authority of the broker's [listen] client_ca vouch for it?"
        ))
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, cert, .. } = self.get_mut();
        let read = ready!(Pin::new(stream).poll_read(context, buffer));
        Poll::Ready(read.map_err(|error| Self::explain(error, cert)))
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
