//! TLS for callers with certificates: the address, the handshakes, and who came in.
//!
//! Invariant: no connection comes out of here whose other end isn't named by a certificate that an authority of the
//! configuration vouches for ([`verifier`]), over TLS 1.3, in a handshake of its own: there are no tickets and no cached
//! sessions, so an identity is never older than its connection. It is looked at again with each call ([`standing`]).
//!
//! The number of handshakes is bounded. The attack: hundreds of connections that send nothing, or a byte now and then.
//! Each has a few seconds and a few kilobytes; beyond the bound, the oldest of the address that has the most is closed,
//! so that a caller that completes its handshake at once gets in.

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
use crate::error::{Error, in_words};
use crate::metrics::{Handshake, Metrics};
use crate::peer::{Peer, TlsPeer};
use crate::profile::Mark;

/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a caller has to hear why not.
const FAREWELL: Duration = Duration::from_millis(500);
/// Between two looks at the files. They are read once they have stood still for one.
const LOOK: Duration = Duration::from_millis(300);
/// So many looks after which files with errors are read again, though they look the same: the reason may be elsewhere.
const RETRY: u32 = 10;

/// Who lets peers in, once they are known.
pub(super) trait Door: Send + Sync + 'static {
    /// A connection of the peer, until `ended`; none, where there are too many.
    fn admit(
        &self,
        socket: TlsSocket,
        peer: Peer,
        ended: BoxFuture<'static, ()>,
    ) -> Option<Connection<TlsSocket>>;

    /// What counts the handshakes.
    fn metrics(&self) -> &Metrics;
}

/// What TLS goes by now, and where that was read.
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

/// Whether the files can be used.
///
/// # Errors
/// What is wrong with which.
pub(crate) fn check(listen: &Listen) -> Result<(), Error> {
    let Some(tcp) = &listen.tcp else { return Ok(()) };
    load(&tcp.tls, 0).map(drop).map_err(|error| error.of(tcp))
}

impl Listener {
    /// Reads the files and binds the address, if the configuration has one.
    ///
    /// # Errors
    /// It can't; which file or what address, and why.
    pub(crate) async fn open(listen: &Listen) -> Result<Option<Self>, Error> {
        let Some(Tcp { address, tls: files }) = &listen.tcp else { return Ok(None) };
        let of_load = files.clone();
        let loaded = tokio::task::spawn_blocking(move || load(&of_load, 0)).await;
        let material = loaded.unwrap_or_else(|_| Err(Unusable::gone()));
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

    /// Where it listens.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// What it goes by.
    pub(crate) fn tls(&self) -> &Arc<Tls> {
        &self.tls
    }

    /// The connections of those who may come in. To drop it is to end all handshakes.
    pub(super) fn incoming(
        self,
        door: Arc<impl Door>,
        pending: usize,
    ) -> impl Stream<Item = io::Result<Connection<TlsSocket>>> {
        let handshakes = Handshakes::new(pending);
        stream::unfold((self, door, handshakes), async |(listener, door, mut handshakes)| {
            let connection = listener.next(&door, &mut handshakes).await;
            Some((Ok(connection), (listener, door, handshakes)))
        })
    }

    async fn next(
        &self,
        door: &Arc<impl Door>,
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
                    let (tls, of_task) = (Arc::clone(&self.tls), Arc::clone(door));
                    let handshake = async move { tls.shake_hands(stream, &*of_task).await };
                    if handshakes.begin(origin.ip(), handshake) {
                        door.metrics().shook_hands(Handshake::MadeRoom);
                    }
                }
                Err(error) => pause(&error, &mut failing).await,
            }
        }
    }
}

impl Tls {
    /// A handshake, from the first byte to the connection of a known peer.
    async fn shake_hands(&self, stream: TcpStream, door: &impl Door) -> Done {
        // Answers are small, and each is a piece of its own. It fails where the connection is gone already.
        stream.set_nodelay(true).ok();
        let material = Arc::clone(&self.material.borrow());
        let acceptor = TlsAcceptor::from(Arc::clone(&material.config));
        let shaking = acceptor.accept(limited(stream)).into_fallible();
        let outcome = match tokio::time::timeout(PATIENCE, shaking).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err((error, stream))) => {
                say_goodbye(stream).await;
                Err((Handshake::Refused, in_words(&error)))
            }
            Err(_) => Err((Handshake::Late, "it took too long".to_owned())),
        };
        let outcome = outcome.and_then(|stream| {
            let certificate = Certificate::of(stream.get_ref().1, self.material.subscribe());
            let certificate = certificate.map_err(|why| (Handshake::Refused, why))?;
            Ok((stream, certificate))
        });
        match outcome {
            Ok((mut stream, certificate)) => {
                stream.get_mut().0.guard.lift();
                door.metrics().shook_hands(Handshake::Done);
                let standing = Arc::new(certificate);
                let peer = TlsPeer { name: standing.name().clone(), standing: standing.clone() };
                door.admit(stream, Peer::Tls(peer), Box::pin(standing.ended()))
            }
            Err((outcome, why)) => {
                door.metrics().shook_hands(outcome);
                tracing::debug!(why, "a TLS handshake failed");
                None
            }
        }
    }

    /// Follows the files, for ever: what changes is put in place as a whole, or not at all. Connections stay; those whose
    /// certificate nobody vouches for any more are refused by their [`standing`].
    pub(crate) async fn follow(&self, metrics: &Metrics) {
        metrics.tls_files(Some(self.material.borrow().expiry));
        let mut last = None;
        // They may have changed since they were read.
        let (mut moved, mut looks) = (true, 0);
        let mut error = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let files = self.files.clone();
            let marked = tokio::task::spawn_blocking(move || files.paths().map(Mark::of)).await;
            // It fails only at the end of the runtime.
            let Ok(now) = marked else { return };
            let still = last.as_ref() == Some(&now);
            last = Some(now);
            looks = if error.is_some() { looks + 1 } else { 0 };
            if !(still && (moved || looks >= RETRY)) {
                moved |= !still;
                continue;
            }
            (moved, looks) = (false, 0);
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
                    // The log says what is so already: who reads it may ask for the metrics at once.
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

/// Reads a little of what comes after an alert: to close at once would reset the connection, and the caller might never
/// learn what is wrong.
async fn say_goodbye(mut stream: Limited) {
    let last = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    drop(tokio::time::timeout(FAREWELL, last).await);
}

fn load(files: &TlsFiles, generation: u64) -> Result<Material, Unusable> {
    Material::new(Contents::read(files)?, files, generation)
}

#[cfg(test)]
mod tests;
