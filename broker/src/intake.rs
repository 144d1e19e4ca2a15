//! Admission of connections and calls, and the limits of each caller. All limits on callers are in
//! this module, except the memory of a request for a signature (`service::budget`).
//!
//! Invariant: what a caller can make the broker hold is bounded by a constant, for each peer and in
//! total, from the moment when its connection is accepted. A stranger (a peer that no rule matches)
//! has a moment to receive the refusal, and nothing else.

pub(crate) mod accept;
mod calls;
mod connection;
mod counts;
mod gate;
mod guarded;
mod timely;
pub(crate) mod tls;
pub(crate) mod unix;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::future::BoxFuture;
use sigward_proto::local::Local;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use self::calls::Calls;
use self::connection::Admitted;
pub(crate) use self::connection::Connection;
use self::counts::{Count, Limits, Place};
pub(crate) use self::gate::Gate;
use self::tls::{Admission, TlsSocket};
use crate::metrics::Metrics;
use crate::peer::{Peer, UnixPeer};
use crate::process;
use crate::service::Current;

/// The most streams of one HTTP/2 connection; further requests wait at the client. It is larger
/// than the number of requests that a client may send before it has read the settings (100 for
/// hyper), because those would be refused, and large enough that calls of a profile whose
/// credentials load slowly don't block other profiles.
pub(crate) const MAX_STREAMS: u32 = 224;
/// The same over TLS, where more connections are allowed: the proxy sends no more before it has
/// read the settings.
pub(crate) const MAX_STREAMS_OVER_TLS: u32 = sigward_proto::STREAMS_OVER_TLS;
/// The largest header block of a gRPC request in bytes: names, a path and a trace.
pub(crate) const MAX_HEAD: u32 = 2 << 10;
/// The largest frame in bytes. A body of 1 MB in frames of the usual 16 KiB costs as much for its
/// frames as for its bytes.
pub(crate) const MAX_FRAME: u32 = 64 << 10;
/// The same over TLS, whose records aren't longer.
pub(crate) const MAX_FRAME_OVER_TLS: u32 = 16 << 10;
/// The flow control windows in bytes: what a stream, and a connection, may send before the broker
/// has read it.
pub(crate) const STREAM_WINDOW: u32 = 256 << 10;
pub(crate) const CONNECTION_WINDOW: u32 = 512 << 10;
/// The most malformed requests of one connection; then it is closed (RUSTSEC-2024-0003).
pub(crate) const MAX_RESETS: usize = 256;
/// A silent connection gets a ping after `KEEPALIVE`, and is closed without an answer after
/// `KEEPALIVE_TIMEOUT`.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(30);
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// The largest message in bytes, of all calls but `Sign`: they contain names.
pub(crate) const MAX_MESSAGE: usize = 8 << 10;

/// Connections of one user, and of all. At most a quarter of the file descriptors.
const CONNECTIONS: Limits = Limits { each: 48, all: 96 };
/// The same over TLS, for the proxies of a node and more. At most a quarter of the file descriptors.
const CONNECTIONS_OVER_TLS: Limits = Limits { each: 48, all: 1536 };
/// TLS handshakes in progress, of all callers. At most a quarter of the file descriptors.
const HANDSHAKES: usize = 1024;
/// The most bytes that all callers together may make the broker hold. The attack: header blocks on
/// all streams of all connections, which are read before any call is counted, and on each
/// connection a frame that never ends.
const MOST: usize = 48 << 20;
const _: () = assert!(
    CONNECTIONS.all * (MAX_STREAMS as usize * MAX_HEAD as usize + MAX_FRAME as usize) <= MOST
);
/// The same for callers over TLS, which are authenticated and many.
const MOST_OVER_TLS: usize = 120 << 20;
const _: () = assert!(
    CONNECTIONS_OVER_TLS.all
        * (MAX_STREAMS_OVER_TLS as usize * MAX_HEAD as usize + MAX_FRAME_OVER_TLS as usize)
        <= MOST_OVER_TLS
);
/// Connections of strangers, all of which are closed after a moment.
const STRANGERS: Limits = Limits { each: 4, all: 16 };
/// Calls in progress.
const CALLS: Limits = Limits { each: 512, all: 2048 };

/// Counts connections and calls in progress, by peer.
pub(crate) struct Intake {
    current: Arc<Current>,
    connections: Arc<Count>,
    connections_over_tls: Arc<Count>,
    strangers: Arc<Count>,
    /// A count of their own: strangers on one socket must not lock out those on the other.
    strangers_over_tls: Arc<Count>,
    calls: Arc<Calls>,
}

impl Intake {
    pub(crate) fn new(current: Arc<Current>) -> Arc<Self> {
        let metrics = current.metrics();
        let within = |limits: Limits| Limits { all: limits.all.min(quarter()), ..limits };
        let peers = &metrics.peers;
        let connections = |limits| Count::of_peers(within(limits), &metrics.connections, peers);
        let strangers = || Count::new(STRANGERS, &metrics.strangers);
        let (over_unix, over_tls) = (connections(CONNECTIONS), connections(CONNECTIONS_OVER_TLS));
        let calls = Count::new(CALLS, &metrics.calls);
        let of_both = [Arc::clone(&over_unix), Arc::clone(&over_tls)];
        Arc::new(Self {
            connections: over_unix,
            connections_over_tls: over_tls,
            strangers: strangers(),
            strangers_over_tls: strangers(),
            calls: Calls::new(Arc::clone(&current), calls, of_both),
            current,
        })
    }

    /// The phases *accept* and *identify*. Returns `None` if there are too many connections; the
    /// connection is then closed.
    pub(crate) fn accept(
        &self,
        stream: UnixStream,
        open: Option<mpsc::Sender<()>>,
    ) -> Option<Connection<Local>> {
        // SO_PEERCRED may be missing, or have a user outside the user namespace: then there is no peer.
        let credentials = stream.peer_cred().ok();
        let peer = credentials.and_then(|it| UnixPeer::new(it.uid(), it.gid(), it.pid()));
        let peer = peer.map(|peer| Arc::new(Peer::Unix(peer)));
        let (known, place) = self.place(peer.as_deref(), &self.connections, &self.strangers)?;
        // This fails if the kernel has no resources for it, which counts as too many connections.
        let stream = Local::new(stream).ok()?;
        Some(Connection::new(stream, Admitted::new(peer, known, place, self.current.paces(), open)))
    }

    /// The admitted connections over TLS.
    pub(crate) fn over_tls(
        self: &Arc<Self>,
        listener: tls::Listener,
    ) -> impl Stream<Item = io::Result<Connection<TlsSocket>>> + use<> {
        listener.incoming(Arc::clone(self), HANDSHAKES.min(quarter()))
    }

    /// Whether a rule matches the peer, and its place; `None` if there are too many connections.
    fn place(
        &self,
        peer: Option<&Peer>,
        connections: &Arc<Count>,
        strangers: &Arc<Count>,
    ) -> Option<(bool, Place)> {
        let known = peer.is_some_and(|peer| self.current.state().policy.admit(peer).is_ok());
        let count = if known { connections } else { strangers };
        let id = peer.map(Peer::id);
        let place = count.enter(id.clone());
        if place.is_none() {
            self.current.metrics().refused("connection");
            tracing::debug!(?id, "too many connections: one is closed");
        }
        Some((known, place?))
    }

    /// Waits until the calls in progress have ended. While the broker drains, it accepts only
    /// health checks.
    pub(crate) async fn idle(&self) {
        self.calls.idle().await;
    }

    /// The layer that all calls pass through.
    pub(crate) fn gate(&self) -> Gate {
        Gate::new(&self.calls)
    }

    pub(crate) fn current(&self) -> &Arc<Current> {
        &self.current
    }
}

impl Admission for Intake {
    fn admit(
        &self,
        socket: TlsSocket,
        peer: Peer,
        ended: BoxFuture<'static, ()>,
    ) -> Option<Connection<TlsSocket>> {
        let (connections, strangers) = (&self.connections_over_tls, &self.strangers_over_tls);
        let (known, place) = self.place(Some(&peer), connections, strangers)?;
        let paces = self.current.paces();
        let admitted = Admitted::new(Some(Arc::new(peer)), known, place, paces, None).until(ended);
        Some(Connection::new(socket, admitted))
    }

    fn metrics(&self) -> &Metrics {
        self.current.metrics()
    }
}

/// A quarter of the file descriptors that this process may open.
fn quarter() -> usize {
    usize::try_from(process::descriptors() / 4).unwrap_or(usize::MAX)
}
