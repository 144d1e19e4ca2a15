//! Counters of connections and calls, by peer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;

use crate::metrics::Peers;
use crate::peer::PeerId;

/// The limits of each peer, and of all together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) each: usize,
    pub(super) all: usize,
}

#[derive(Debug)]
pub(super) struct Count {
    limits: Limits,
    /// The total, as a metric for operators.
    gauge: Gauge,
    /// Notified when the count reaches zero.
    empty: Notify,
    /// The counts by peer, as metrics.
    peers: Option<Peers>,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    all: usize,
    each: HashMap<Option<PeerId>, usize>,
}

/// A counted connection or call, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    count: Arc<Count>,
    peer: Option<PeerId>,
}

impl Count {
    pub(super) fn new(limits: Limits, gauge: &Gauge) -> Arc<Self> {
        Self::with(limits, gauge, None)
    }

    /// A count with metrics by peer: only for peers that a rule matches.
    pub(super) fn of_peers(limits: Limits, gauge: &Gauge, peers: &Peers) -> Arc<Self> {
        Self::with(limits, gauge, Some(peers.clone()))
    }

    fn with(limits: Limits, gauge: &Gauge, peers: Option<Peers>) -> Arc<Self> {
        let (gauge, empty, now) = (gauge.clone(), Notify::new(), Mutex::default());
        Arc::new(Self { limits, gauge, empty, peers, now })
    }

    /// Waits until the count is zero.
    pub(super) async fn empty(&self) {
        loop {
            let gone = self.empty.notified();
            tokio::pin!(gone);
            // From here on no notification is missed.
            gone.as_mut().enable();
            if self.now.lock().unwrap_or_else(PoisonError::into_inner).all == 0 {
                return;
            }
            gone.await;
        }
    }

    /// The count of each peer, without unidentified ones.
    pub(super) fn each(&self) -> Vec<(PeerId, usize)> {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.each.iter().filter_map(|(peer, count)| Some((peer.clone()?, *count))).collect()
    }

    /// A place for one more of a peer, if there is one. Unidentified peers share their limit.
    pub(super) fn enter(self: &Arc<Self>, peer: Option<PeerId>) -> Option<Place> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = now.each.get(&peer).copied().unwrap_or_default();
        if now.all >= self.limits.all || of_peer >= self.limits.each {
            return None;
        }
        now.all += 1;
        now.each.insert(peer.clone(), of_peer + 1);
        self.gauge.inc();
        if let (Some(peers), Some(peer)) = (&self.peers, &peer) {
            peers.add(peer);
        }
        Some(Place { count: Arc::clone(self), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut now = self.count.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.all -= 1;
        self.count.gauge.dec();
        if now.all == 0 {
            self.count.empty.notify_waiters();
        }
        if let (Some(peers), Some(peer)) = (&self.count.peers, &self.peer) {
            peers.remove(peer);
        }
        if let Some(of_peer) = now.each.get_mut(&self.peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                now.each.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_a_share_and_not_more() {
        let user = |uid| Some(PeerId::Uid(uid));
        let gauge = Gauge::default();
        let count = Count::new(Limits { each: 2, all: 3 }, &gauge);
        let first = count.enter(user(1)).expect("room");
        let second = count.enter(user(1)).expect("room");
        assert!(count.enter(user(1)).is_none(), "the peer's share is used up");
        let third = count.enter(user(2)).expect("room");
        assert!(count.enter(None).is_none(), "all places are taken");
        assert_eq!(gauge.get(), 3);
        let mut each = count.each();
        each.sort();
        assert_eq!(each, [(PeerId::Uid(1), 2), (PeerId::Uid(2), 1)]);
        drop((first, third));
        assert!(count.enter(user(1)).is_some());
        drop(second);
        assert_eq!(gauge.get(), 0);
        assert!(count.now.lock().expect("a lock").each.is_empty());
    }
}
