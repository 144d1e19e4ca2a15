//! TLS for callers with certificates: the address, the handshakes, and the callers' identities.
//!
//! Invariant: the other end of each connection is named by a certificate that a configured
//! authority has signed ([`verifier`]), over TLS 1.3 and in a full handshake: there are no tickets
//! and no cached sessions, so an identity is never older than its connection. It is checked again
//! with each call ([`standing`]).
//! The number of handshakes is bounded. The attack: hundreds of connections that send nothing, or a byte now and then.
//! Each has a few seconds and a few kilobytes; beyond the bound, the oldest handshake of the network with the most is
//! closed, so that a caller that completes its handshake at once gets in.

mod files;
mod handshakes;
mod socket;
mod standing;
mod verifier;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::future::BoxFuture;
use futures_util::stream;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use self::files::{Contents, Material, Unusable};
use self::handshakes::{Done, Handshakes};
pub(crate) use self::socket::TlsSocket;
use self::socket::{Limited, limited};
use self::standing::Certificate;
use super::accept::pause;
use super::connection::Connection;
use crate::config::{Listen, Tcp, TlsFiles};
use crate::error::{Error, with_causes};
use crate::metrics::{Handshake, Metrics};
use crate::peer::{Peer, TlsPeer};
use crate::profile::Mark;

/// The timeout of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection stays open after an alert, so that the caller can read it.
const LINGER: Duration = Duration::from_millis(500);
/// The interval of checking the files. They are read when they haven't changed for one interval.
const INTERVAL: Duration = Duration::from_millis(300);
/// The number of intervals after which files with errors are read again though they look unchanged:
/// the cause may be elsewhere.
const RETRY: u32 = 10;

/// Admits peers whose handshake is complete.
pub(super) trait Admission: Send + Sync + 'static {
    /// The connection of a peer, until `ended`; `None` if there are too many.
    fn admit(
        &self,
        socket: TlsSocket,
        peer: Peer,
        ended: BoxFuture<'static, ()>,
    ) -> Option<Connection<TlsSocket>>;

    /// The metrics that count handshakes.
    fn metrics(&self) -> &Metrics;
}

/// The TLS material in use, and the files that it was read from.
#[derive(Debug)]
pub(crate) struct Tls {
    files: TlsFiles,
    material: watch::Sender<Arc<Material>>,
}

/// The listening address.
#[derive(Debug)]
pub(crate) struct Listener {
    tcp: TcpListener,
    tls: Arc<Tls>,
}

/// Checks whether the files can be used.
///
/// # Errors
/// The file that can't be used, and why.
pub(crate) fn check(listen: &Listen) -> Result<(), Error> {
    let Some(tcp) = &listen.tcp else { return Ok(()) };
    load(&tcp.tls, 0).map(drop).map_err(|error| error.of(tcp))
}

impl Listener {
    /// Reads the files and binds the address, if one is configured.
    ///
    /// # Errors
    /// The file that can't be used or the address that can't be bound, and why.
    pub(crate) async fn open(listen: &Listen) -> Result<Option<Self>, Error> {
        let Some(Tcp { address, tls: files }) = &listen.tcp else { return Ok(None) };
        let of_load = files.clone();
        let loaded = tokio::task::spawn_blocking(move || load(&of_load, 0)).await;
        let material = loaded.unwrap_or_else(|_| Err(Unusable::shutting_down()));
        let tcp = Tcp { address: *address, tls: files.clone() };
        let material = material.map_err(|error| error.of(&tcp))?;
        let unbound = |source| Error::Listen {
            socket: address.to_string(),
            why: "the address can't be bound".to_owned(),
            source: Some(source),
        };
        let tcp = TcpListener::bind(address).await.map_err(unbound)?;
        let tls = Tls { files: files.clone(), material: watch::Sender::new(Arc::new(material)) };
        Ok(Some(Self { tcp, tls: Arc::new(tls) }))
    }

    /// The bound address.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The TLS material in use.
    pub(crate) fn tls(&self) -> &Arc<Tls> {
        &self.tls
    }

    /// The admitted connections. Dropping the stream ends all handshakes.
    pub(super) fn incoming(
        self,
        admission: Arc<impl Admission>,
        pending: usize,
    ) -> impl Stream<Item = io::Result<Connection<TlsSocket>>> {
        let handshakes = Handshakes::new(pending);
        stream::unfold(
            (self, admission, handshakes),
            async |(listener, admission, mut handshakes)| {
                let connection = listener.next(&admission, &mut handshakes).await;
                Some((Ok(connection), (listener, admission, handshakes)))
            },
        )
    }

    async fn next(
        &self,
        admission: &Arc<impl Admission>,
        handshakes: &mut Handshakes,
    ) -> Connection<TlsSocket> {
        let mut failing = false;
        loop {
            let accepted = tokio::select! {
                done = handshakes.next() => match done {
                    Some(connection) => return connection,
                    None => continue,
                },
                accepted = self.tcp.accept() => accepted,
            };
            match accepted {
                Ok((stream, origin)) => {
                    let (tls, of_task) = (Arc::clone(&self.tls), Arc::clone(admission));
                    let handshake = async move { tls.handshake_of(stream, &*of_task).await };
                    if handshakes.begin(origin.ip(), handshake) {
                        admission.metrics().handshake_ended(Handshake::MadeRoom);
                    }
                }
                Err(error) => pause(&error, &mut failing).await,
            }
        }
    }
}

impl Tls {
    /// Performs a handshake, from the first byte to the connection of an authenticated peer.
    async fn handshake_of(&self, stream: TcpStream, admission: &impl Admission) -> Done {
        // Responses are small, and each is a packet of its own. This fails if the connection is
        // already closed.
        stream.set_nodelay(true).ok();
        let material = Arc::clone(&self.material.borrow());
        let acceptor = TlsAcceptor::from(Arc::clone(&material.config));
        let shaking = acceptor.accept(limited(stream)).into_fallible();
        let outcome = match tokio::time::timeout(HANDSHAKE_TIMEOUT, shaking).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err((error, stream))) => {
                linger(stream).await;
                Err((Handshake::Refused, with_causes(&error)))
            }
            Err(_) => Err((Handshake::Late, "timeout".to_owned())),
        };
        let outcome = outcome.and_then(|stream| {
            let certificate = Certificate::of(stream.get_ref().1, self.material.subscribe());
            let certificate = certificate.map_err(|why| (Handshake::Refused, why))?;
            Ok((stream, certificate))
        });
        match outcome {
            Ok((mut stream, certificate)) => {
                stream.get_mut().0.guard.remove_limit();
                admission.metrics().handshake_ended(Handshake::Done);
                let standing = Arc::new(certificate);
                let peer = TlsPeer { name: standing.name().clone(), standing: standing.clone() };
                admission.admit(stream, Peer::Tls(peer), Box::pin(standing.ended()))
            }
            Err((outcome, why)) => {
                admission.metrics().handshake_ended(outcome);
                tracing::debug!(why, "a TLS handshake failed");
                None
            }
        }
    }

    /// Watches the files, for ever: changes take effect as a whole or not at all. Connections stay
    /// open; those whose certificate no authority has signed any more are refused by their
    /// [`standing`].
    pub(crate) async fn follow(&self, metrics: &Metrics) {
        metrics.tls_files(Some(self.material.borrow().expiry));
        let mut last = None;
        // The files may have changed since they were read.
        let (mut moved, mut checks) = (true, 0);
        let mut error = None;
        loop {
            tokio::time::sleep(INTERVAL).await;
            let files = self.files.clone();
            let marked = tokio::task::spawn_blocking(move || files.paths().map(Mark::of)).await;
            // This fails only when the runtime shuts down.
            let Ok(now) = marked else { return };
            let still = last.as_ref() == Some(&now);
            last = Some(now);
            checks = if error.is_some() { checks + 1 } else { 0 };
            if !(still && (moved || checks >= RETRY)) {
                moved |= !still;
                continue;
            }
            (moved, checks) = (false, 0);
            let held = Arc::clone(&self.material.borrow());
            let files = self.files.clone();
            let load = move || {
                let contents = Contents::read(&files)?;
                if contents == held.contents {
                    Ok(None)
                } else {
                    Material::new(contents, &files, held.generation + 1).map(Some)
                }
            };
            let Ok(loaded) = tokio::task::spawn_blocking(load).await else { return };
            match loaded {
                Ok(Some(material)) => {
                    let generation = material.generation;
                    metrics.tls_files(Some(material.expiry));
                    self.material.send_replace(Arc::new(material));
                    // The state is updated before the log line: a reader of the log may query the
                    // metrics at once.
                    tracing::info!(generation, "the TLS files were reloaded");
                    error = None;
                }
                Ok(None) => {
                    if error.take().is_some() {
                        metrics.tls_files(Some(self.material.borrow().expiry));
                        tracing::info!("the TLS files are unchanged");
                    }
                }
                Err(unusable) => {
                    let why = unusable.to_string();
                    metrics.tls_files(None);
                    if error.as_ref() != Some(&why) {
                        tracing::error!(
                            "the new TLS files are rejected, the previous ones stay in effect: {why}"
                        );
                    }
                    error = Some(why);
                }
            }
        }
    }
}

/// Reads a little after an alert was sent: closing at once would reset the connection, and the
/// caller might not receive the alert.
async fn linger(mut stream: Limited) {
    let last = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    drop(tokio::time::timeout(LINGER, last).await);
}

fn load(files: &TlsFiles, generation: u64) -> Result<Material, Unusable> {
    Material::new(Contents::read(files)?, files, generation)
}

#[cfg(test)]
mod tests;
