//! A limit of the bytes that a caller sends before its handshake is complete.
//!
//! The attack: a 64 KiB first TLS message without its last byte, on each of many connections.

use std::io;
use std::task::Context;

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::intake::guarded::{Guard, Guarded};

/// The largest handshake in bytes: a hello, a certificate chain and a signature, of which those
/// with RSA are the longest.
const MAX_HANDSHAKE: usize = 24 << 10;

/// The bytes that may still be read; `None` is no limit.
#[derive(Debug)]
pub(crate) struct Handshake(Option<usize>);

/// The TCP connection, under TLS.
pub(crate) type Limited = Guarded<TcpStream, Handshake>;

/// A connection with an authenticated peer.
pub(crate) type TlsSocket = TlsStream<Limited>;

/// A connection before its handshake.
pub(super) fn limited(stream: TcpStream) -> Limited {
    Guarded::new(stream, Handshake(Some(MAX_HANDSHAKE)))
}

impl Handshake {
    /// Removes the limit after the handshake.
    pub(super) fn remove_limit(&mut self) {
        self.0 = None;
    }
}

impl Guard for Handshake {
    fn check(&mut self, _: &mut Context<'_>) -> io::Result<()> {
        if self.0 == Some(0) {
            return Err(io::Error::other("the handshake is too long"));
        }
        Ok(())
    }

    fn has_read(&mut self, count: usize) {
        if let Some(left) = &mut self.0 {
            *left = left.saturating_sub(count);
        }
    }
}
