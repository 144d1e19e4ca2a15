//! Connections without an authorized request so far.
//!
//! They have a bounded number of places of their own, and the one that has waited longest makes room
//! for a new one: however many silent connections somebody opens (Slowloris), a request that may be
//! answered still gets in, and so does whoever watches `/healthz`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// All of them.
#[derive(Debug)]
pub(super) struct Strangers {
    limit: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    came: u64,
    evictions: BTreeMap<u64, CancellationToken>,
}

/// The place of one connection, until this is dropped or the client is known.
#[derive(Debug, Clone)]
pub(super) struct Place(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    strangers: Arc<Strangers>,
    number: u64,
    evicted: CancellationToken,
}

impl Strangers {
    /// So many places.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, waiting: Mutex::default() })
    }

    /// A place for a new connection.
    pub(super) fn admit(self: &Arc<Self>) -> Place {
        let evicted = CancellationToken::new();
        let mut waiting = self.lock();
        waiting.came += 1;
        let number = waiting.came;
        if waiting.evictions.len() >= self.limit
            && let Some((_, oldest)) = waiting.evictions.pop_first()
        {
            oldest.cancel();
        }
        waiting.evictions.insert(number, evicted.clone());
        drop(waiting);
        Place(Arc::new(Inner { strangers: Arc::clone(self), number, evicted }))
    }

    /// Makes room for others: nothing more can be opened.
    pub(super) fn evict_oldest(&self) {
        if let Some((_, oldest)) = self.lock().evictions.pop_first() {
            oldest.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Waits until the place is another's.
    pub(super) async fn evicted(&self) {
        self.0.evicted.cancelled().await;
    }

    /// The client has shown that it may speak: from here on its connection is no stranger's. False if
    /// it was one before.
    pub(super) fn is_known(&self) -> bool {
        self.0.strangers.lock().evictions.remove(&self.0.number);
        !self.0.evicted.is_cancelled()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.strangers.lock().evictions.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_oldest_makes_room_and_those_who_are_known_do_not() {
        let strangers = Strangers::new(2);
        let [first, second] = [strangers.admit(), strangers.admit()];
        assert!(first.is_known());
        let third = strangers.admit();
        assert!(second.evicted().now_or_never().is_none(), "there was room");
        let fourth = strangers.admit();
        assert!(second.evicted().now_or_never().is_some(), "it has waited longest");
        assert!(first.evicted().now_or_never().is_none(), "it is known");
        drop(third);
        let _fifth = strangers.admit();
        assert!(fourth.evicted().now_or_never().is_none(), "one had left");
    }
}
