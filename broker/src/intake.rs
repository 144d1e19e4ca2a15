//! Between the socket and the RPCs: who comes in, and how much of everybody. All limits on callers live
//! here, but for those on the memory of a request for a signature (`service::budget`).
//!
//! Invariant: what a caller can make the broker hold is bounded by a constant, for each user and in all, from
//! the moment when its connection is accepted. A stranger (a peer that no rule is about) gets a moment to be
//! told so, and nothing else.

mod connection;
mod counts;
mod gate;
pub(crate) mod unix;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::mpsc;

pub(crate) use self::connection::Connection;
use self::counts::{Count, Limits};
pub(crate) use self::gate::Gate;
use crate::peer::Peer;
use crate::process;
use crate::service::Current;

/// What one HTTP/2 connection may have in progress; more waits at the caller. More than a client may send before it has
/// read the settings (100 for hyper), since those would be refused; and a profile whose credentials take long to load
/// holds up no other one.
pub(crate) const MAX_STREAMS: u32 = 224;
/// The head of a gRPC request: names, a path and a trace.
pub(crate) const MAX_HEAD: u32 = 2 << 10;
/// The longest frame. A body of a megabyte in frames of the usual 16 KiB costs as much for its frames as for its bytes.
pub(crate) const MAX_FRAME: u32 = 64 << 10;
/// What a connection may send before the broker has read it; of one stream, and of all.
pub(crate) const STREAM_WINDOW: u32 = 256 << 10;
pub(crate) const CONNECTION_WINDOW: u32 = 512 << 10;
/// Malformed requests of one connection; more and it is closed (RUSTSEC-2024-0003).
pub(crate) const MAX_RESETS: usize = 256;
/// After so long without a word, a connection is asked whether anybody is there; and gets so long to answer.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(30);
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Messages of all calls but `Sign`: names.
pub(crate) const MAX_MESSAGE: usize = 8 << 10;

/// Connections of one user, and of all. Where descriptors are scarce, half of them.
const CONNECTIONS: Limits = Limits { each: 48, all: 96 };
/// What all callers together may make the broker hold. The attack: heads on all streams of all connections, which are
/// read before any call is counted, and on each a frame that never ends.
const MOST: usize = 48 << 20;
const _: () = assert!(
    CONNECTIONS.all * (MAX_STREAMS as usize * MAX_HEAD as usize + MAX_FRAME as usize) <= MOST
);
/// Those of strangers, all of which end within a moment.
const STRANGERS: Limits = Limits { each: 4, all: 16 };
/// Calls in progress.
const CALLS: Limits = Limits { each: 512, all: 2048 };

/// What is in progress, by user.
pub(crate) struct Intake {
    current: Arc<Current>,
    connections: Arc<Count>,
    strangers: Arc<Count>,
    calls: Arc<Count>,
}

impl Intake {
    pub(crate) fn new(current: Arc<Current>) -> Arc<Self> {
        let half = usize::try_from(process::descriptors() / 2).unwrap_or(usize::MAX);
        let connections = Limits { all: CONNECTIONS.all.min(half), ..CONNECTIONS };
        Arc::new(Self {
            connections: Count::new(connections, &current.metrics().connections),
            strangers: Count::new(STRANGERS, &current.metrics().strangers),
            calls: Count::new(CALLS, &current.metrics().calls),
            current,
        })
    }

    /// Phases *accept* and *identify*. None: it is closed, for there are too many.
    pub(crate) fn accept(
        &self,
        stream: UnixStream,
        open: Option<mpsc::Sender<()>>,
    ) -> Option<Connection> {
        // SO_PEERCRED may be missing, or name a user that isn't one of ours: then there is no peer.
        let credentials = stream.peer_cred().ok();
        let peer = credentials.and_then(|peer| Peer::new(peer.uid(), peer.gid(), peer.pid()));
        let uid = peer.as_ref().map(|peer| peer.uid);
        let known =
            peer.as_ref().is_some_and(|peer| self.current.state().policy.admit(peer).is_ok());
        let count = if known { &self.connections } else { &self.strangers };
        let Some(place) = count.enter(uid) else {
            self.current.metrics().refused("connection");
            tracing::debug!(?uid, "a connection is closed: there are too many");
            return None;
        };
        Some(Connection::new(stream, peer.map(Arc::new), known, place, open))
    }

    /// Waits until the calls in progress are over. While the broker drains it takes no others, but says of its health.
    pub(crate) async fn idle(&self) {
        self.calls.empty().await;
    }

    pub(crate) fn current(&self) -> &Arc<Current> {
        &self.current
    }
}
