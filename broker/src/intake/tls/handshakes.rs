//! The handshakes in progress, and which one is closed if there are too many.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use tokio::task::{AbortHandle, JoinSet};

use super::socket::TlsSocket;
use crate::intake::connection::Connection;

/// The result of a handshake: `None` if it failed or there is no place for its peer.
pub(super) type Done = Option<Connection<TlsSocket>>;

/// The handshakes in progress, oldest first.
#[derive(Debug)]
pub(super) struct Handshakes<T = Connection<TlsSocket>> {
    most: usize,
    tasks: JoinSet<Option<T>>,
    pending: VecDeque<Pending>,
}

#[derive(Debug)]
struct Pending {
    origin: IpAddr,
    task: AbortHandle,
}

impl<T: Send + 'static> Handshakes<T> {
    /// At most `most` at a time.
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.max(1), tasks: JoinSet::new(), pending: VecDeque::new() }
    }

    /// Starts a handshake. Returns whether another one was ended to make room.
    pub(super) fn begin(
        &mut self,
        origin: IpAddr,
        handshake: impl Future<Output = Option<T>> + Send + 'static,
    ) -> bool {
        let is_full = self.pending.len() >= self.most;
        if is_full {
            self.make_room();
        }
        let task = self.tasks.spawn(handshake);
        self.pending.push_back(Pending { origin: network(origin), task });
        is_full
    }

    /// Waits for the next result; without handshakes, for ever.
    pub(super) async fn next(&mut self) -> Option<T> {
        let Some(joined) = self.tasks.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let (id, connection) = match joined {
            Ok((id, connection)) => (id, connection),
            // It was ended to make room.
            Err(error) => (error.id(), None),
        };
        if let Some(at) = self.pending.iter().position(|pending| pending.task.id() == id) {
            self.pending.remove(at);
        }
        connection
    }

    /// Ends the oldest handshake of the network that has the most.
    fn make_room(&mut self) {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for pending in &self.pending {
            *counts.entry(pending.origin).or_default() += 1;
        }
        let most = counts.values().copied().max().unwrap_or_default();
        let oldest = self.pending.iter().position(|it| counts.get(&it.origin) == Some(&most));
        if let Some(pending) = oldest.and_then(|at| self.pending.remove(at)) {
            pending.task.abort();
        }
    }
}

/// The network that an address counts for: for IPv6, the /64 prefix, which one host usually has as
/// a whole.
fn network(origin: IpAddr) -> IpAddr {
    match origin.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & (u128::MAX << 64)).into()),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[tokio::test]
    async fn the_oldest_handshake_of_the_busiest_network_is_ended() {
        let mut handshakes = Handshakes::<&str>::new(4);
        let ended = |name: &'static str| async move { Some(name) };
        let endless = || std::future::pending::<Option<&str>>();
        assert!(!handshakes.begin(address("192.0.2.1"), endless()));
        for _ in 0..3 {
            assert!(!handshakes.begin(address("192.0.2.9"), endless()));
        }
        // One of the three ends; the other network's only one stays.
        assert!(handshakes.begin(address("192.0.2.2"), ended("polite")));
        let first = handshakes.pending.front().expect("a handshake").origin;
        assert_eq!(first, address("192.0.2.1"));
        assert_eq!(handshakes.pending.len(), 4);
        let mut came = None;
        while came.is_none() {
            came = handshakes.next().await;
        }
        assert_eq!((came, handshakes.pending.len()), (Some("polite"), 3));
        // A fast handshake succeeds from the crowded address too.
        assert!(!handshakes.begin(address("192.0.2.9"), endless()));
        assert!(handshakes.begin(address("192.0.2.9"), ended("quick")));
        let mut came = None;
        while came.is_none() {
            came = handshakes.next().await;
        }
        assert_eq!((came, handshakes.pending.len()), (Some("quick"), 3));
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_together() {
        assert_eq!(network(address("2001:db8::1")), network(address("2001:db8::ffff:2")));
        assert_ne!(network(address("2001:db8::1")), network(address("2001:db8:0:1::1")));
        assert_eq!(network(address("::ffff:192.0.2.1")), address("192.0.2.1"));
    }
}
