//! The order of turns: round robin over the peers, and over the connections of each peer.
//!
//! The attack: a caller asks for a thousand signatures at once, and everyone behind it waits for
//! all of them. With turns, a caller with one request waits for one turn of each other caller,
//! however many they ask for. Turns by connection alone aren't sufficient: a peer may open many.

use std::collections::VecDeque;

use crate::peer::{ConnectionId, PeerId};

/// The peer and connection of a waiting request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Requester {
    /// The peer, which the turns are counted for.
    pub(crate) peer: PeerId,
    /// The connection of the request.
    pub(crate) connection: ConnectionId,
}

/// The waiting requests, in turns.
#[derive(Debug)]
pub(super) struct Queue<T> {
    peers: VecDeque<OfPeer<T>>,
    length: usize,
}

#[derive(Debug)]
struct OfPeer<T> {
    peer: PeerId,
    connections: VecDeque<OfConnection<T>>,
}

#[derive(Debug)]
struct OfConnection<T> {
    connection: ConnectionId,
    waiting: VecDeque<(u64, T)>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { peers: VecDeque::new(), length: 0 }
    }
}

impl<T> Queue<T> {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends a waiter to those of its connection.
    pub(super) fn push(&mut self, requester: &Requester, ticket: u64, waiter: T) {
        self.length += 1;
        let at = match self.peers.iter().position(|it| it.peer == requester.peer) {
            Some(at) => at,
            None => {
                self.peers.push_back(OfPeer {
                    peer: requester.peer.clone(),
                    connections: VecDeque::new(),
                });
                self.peers.len() - 1
            }
        };
        let Some(of_peer) = self.peers.get_mut(at) else { return };
        let of_connection =
            of_peer.connections.iter_mut().find(|it| it.connection == requester.connection);
        match of_connection {
            Some(of_connection) => of_connection.waiting.push_back((ticket, waiter)),
            None => of_peer.connections.push_back(OfConnection {
                connection: requester.connection,
                waiting: VecDeque::from([(ticket, waiter)]),
            }),
        }
    }

    /// The next waiter.
    pub(super) fn front(&self) -> Option<&T> {
        let waiting = &self.peers.front()?.connections.front()?.waiting;
        waiting.front().map(|(_, waiter)| waiter)
    }

    /// Takes the next waiter; then it is the turn of another peer, and of another connection of
    /// this peer.
    pub(super) fn pop(&mut self) -> Option<(u64, Requester, T)> {
        let mut of_peer = self.peers.pop_front()?;
        let mut of_connection = of_peer.connections.pop_front()?;
        let (ticket, waiter) = of_connection.waiting.pop_front()?;
        self.length -= 1;
        let requester =
            Requester { peer: of_peer.peer.clone(), connection: of_connection.connection };
        if !of_connection.waiting.is_empty() {
            of_peer.connections.push_back(of_connection);
        }
        if !of_peer.connections.is_empty() {
            self.peers.push_back(of_peer);
        }
        Some((ticket, requester, waiter))
    }

    /// Removes a waiter that no longer waits; returns false if it isn't in the queue.
    pub(super) fn remove(&mut self, requester: &Requester, ticket: u64) -> bool {
        let Some(peer) = self.peers.iter().position(|it| it.peer == requester.peer) else {
            return false;
        };
        let Some(of_peer) = self.peers.get_mut(peer) else { return false };
        let at = of_peer.connections.iter().position(|it| it.connection == requester.connection);
        let Some((at, of_connection)) =
            at.and_then(|at| Some((at, of_peer.connections.get_mut(at)?)))
        else {
            return false;
        };
        let before = of_connection.waiting.len();
        of_connection.waiting.retain(|(it, _)| *it != ticket);
        let removed = of_connection.waiting.len() < before;
        if of_connection.waiting.is_empty() {
            of_peer.connections.remove(at);
        }
        if of_peer.connections.is_empty() {
            self.peers.remove(peer);
        }
        self.length -= usize::from(removed);
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requester(uid: u32, connection: u64) -> Requester {
        Requester { peer: PeerId::Uid(uid), connection: ConnectionId(connection) }
    }

    #[test]
    fn a_greedy_caller_waits_behind_all_with_less() {
        let mut queue = Queue::default();
        for ticket in 0..100 {
            queue.push(&requester(1, 1), ticket, ());
        }
        queue.push(&requester(2, 2), 100, ());
        queue.push(&requester(3, 3), 101, ());
        queue.push(&requester(3, 3), 102, ());
        let order: Vec<u64> = std::iter::from_fn(|| queue.pop()).map(|next| next.0).collect();
        assert_eq!(order[..6], [0, 100, 101, 1, 102, 2]);
        assert_eq!(order.len(), 103);
        assert!(queue.is_empty() && queue.peers.is_empty());
    }

    /// The attack: a peer opens many connections to get many turns.
    #[test]
    fn connections_are_turns_within_their_peer() {
        let mut queue = Queue::default();
        for connection in 0..10 {
            queue.push(&requester(1, connection), connection, ());
            queue.push(&requester(1, connection), 10 + connection, ());
        }
        for ticket in 100..103 {
            queue.push(&requester(2, 100), ticket, ());
        }
        let order: Vec<u64> = std::iter::from_fn(|| queue.pop()).map(|next| next.0).collect();
        assert_eq!(order[..7], [0, 100, 1, 101, 2, 102, 3]);
        assert_eq!(order[13..], [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
    }

    #[test]
    fn a_caller_that_leaves_loses_its_turn() {
        let mut queue = Queue::default();
        queue.push(&requester(1, 1), 1, ());
        queue.push(&requester(1, 1), 2, ());
        queue.push(&requester(2, 2), 3, ());
        assert!(queue.remove(&requester(1, 1), 1));
        assert!(!queue.remove(&requester(1, 1), 1) && !queue.remove(&requester(2, 1), 2));
        assert!(!queue.remove(&requester(9, 9), 9));
        assert_eq!(queue.len(), 2);
        assert!(queue.remove(&requester(1, 1), 2) && queue.remove(&requester(2, 2), 3));
        assert!(queue.is_empty() && queue.peers.is_empty());
        assert!(queue.front().is_none() && queue.pop().is_none());
    }
}
