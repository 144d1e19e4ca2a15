//! Connections without an authorized request so far.
//!
//! They have a bounded number of places, and the oldest one is evicted for a new one. So however many silent
//! connections an attacker opens (Slowloris), an authorized request can still be served, and `/healthz` stays
//! available.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The connections without an authorized request.
#[derive(Debug)]
pub(super) struct Strangers {
    limit: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    admitted: u64,
    evictions: BTreeMap<u64, CancellationToken>,
}

/// The place of one connection, until it is dropped or authorized.
#[derive(Debug, Clone)]
pub(super) struct Place(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    strangers: Arc<Strangers>,
    number: u64,
    evicted: CancellationToken,
}

impl Strangers {
    /// Makes `limit` places.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, waiting: Mutex::default() })
    }

    /// A place for a new connection.
    pub(super) fn admit(self: &Arc<Self>) -> Place {
        let evicted = CancellationToken::new();
        let mut waiting = self.lock();
        waiting.admitted += 1;
        let number = waiting.admitted;
        if waiting.evictions.len() >= self.limit
            && let Some((_, oldest)) = waiting.evictions.pop_first()
        {
            oldest.cancel();
        }
        waiting.evictions.insert(number, evicted.clone());
        drop(waiting);
        Place(Arc::new(Inner { strangers: Arc::clone(self), number, evicted }))
    }

    /// Evicts the oldest connection because the process can't open another descriptor.
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
    /// Waits until the place is evicted.
    pub(super) async fn evicted(&self) {
        self.0.evicted.cancelled().await;
    }

    /// Frees the place because the client has sent an authorized request. Returns false if it was evicted before.
    pub(super) fn authorize(&self) -> bool {
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
    fn the_oldest_place_is_evicted_unless_authorized() {
        let strangers = Strangers::new(2);
        let [first, second] = [strangers.admit(), strangers.admit()];
        assert!(first.authorize());
        let third = strangers.admit();
        assert!(second.evicted().now_or_never().is_none(), "there was room");
        let fourth = strangers.admit();
        assert!(second.evicted().now_or_never().is_some(), "it is the oldest");
        assert!(first.evicted().now_or_never().is_none(), "it is known");
        drop(third);
        let _fifth = strangers.admit();
        assert!(fourth.evicted().now_or_never().is_none(), "one had left");
    }
}
