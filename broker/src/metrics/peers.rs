//! The connected peers, for operators.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::peer::PeerId;

/// Connections by peer; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Peers {
    family: Family<Label, Gauge>,
    /// Serializes changes: between the last connection of a peer and its next one, the series is
    /// dropped.
    changing: Arc<Mutex<()>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Label {
    peer: String,
}

impl Peers {
    pub(super) fn family(&self) -> &Family<Label, Gauge> {
        &self.family
    }

    /// Adds a connection of the peer.
    pub fn add(&self, peer: &PeerId) {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.family.get_or_create(&Label { peer: peer.to_string() }).inc();
    }

    /// Removes a connection. A peer without connections has no series.
    pub fn remove(&self, peer: &PeerId) {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let label = Label { peer: peer.to_string() };
        // The lock of the series is held until the end of the statement.
        let before = self.family.get_or_create(&label).dec();
        if before <= 1 {
            self.family.remove(&label);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_a_series_while_it_is_connected() {
        let (peers, peer) = (Peers::default(), PeerId::Uid(7));
        let label = Label { peer: "uid:7".to_owned() };
        peers.add(&peer);
        peers.add(&peer);
        peers.remove(&peer);
        assert_eq!(peers.family.get(&label).map(|it| it.get()), Some(1));
        peers.remove(&peer);
        assert!(peers.family.get(&label).is_none());
    }
}
