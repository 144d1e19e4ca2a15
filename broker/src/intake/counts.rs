//! How many of something there are, by user.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;

/// How many there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) each: usize,
    pub(super) all: usize,
}

#[derive(Debug)]
pub(super) struct Count {
    limits: Limits,
    /// What an operator sees of it.
    gauge: Gauge,
    /// Told when the last one goes.
    empty: Notify,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    all: usize,
    each: HashMap<Option<u32>, usize>,
}

/// One of them, as long as it lives.
#[derive(Debug)]
pub(super) struct Place {
    count: Arc<Count>,
    uid: Option<u32>,
}

impl Count {
    pub(super) fn new(limits: Limits, gauge: &Gauge) -> Arc<Self> {
        Arc::new(Self { limits, gauge: gauge.clone(), empty: Notify::new(), now: Mutex::default() })
    }

    /// Waits until there is none.
    pub(super) async fn empty(&self) {
        loop {
            let gone = self.empty.notified();
            tokio::pin!(gone);
            // From here on it is told.
            gone.as_mut().enable();
            if self.now.lock().unwrap_or_else(PoisonError::into_inner).all == 0 {
                return;
            }
            gone.await;
        }
    }

    /// A place for one more of a user, if there is one. Those without a uid share theirs.
    pub(super) fn enter(self: &Arc<Self>, uid: Option<u32>) -> Option<Place> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let of_user = now.each.get(&uid).copied().unwrap_or_default();
        if now.all >= self.limits.all || of_user >= self.limits.each {
            return None;
        }
        now.all += 1;
        now.each.insert(uid, of_user + 1);
        self.gauge.inc();
        Some(Place { count: Arc::clone(self), uid })
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
        if let Some(of_user) = now.each.get_mut(&self.uid) {
            *of_user -= 1;
            if *of_user == 0 {
                now.each.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_share_and_not_more() {
        let gauge = Gauge::default();
        let count = Count::new(Limits { each: 2, all: 3 }, &gauge);
        let first = count.enter(Some(1)).expect("room");
        let second = count.enter(Some(1)).expect("room");
        assert!(count.enter(Some(1)).is_none(), "the user's share is used up");
        let third = count.enter(Some(2)).expect("room");
        assert!(count.enter(None).is_none(), "all places are taken");
        assert_eq!(gauge.get(), 3);
        drop((first, third));
        assert!(count.enter(Some(1)).is_some());
        drop(second);
        assert_eq!(gauge.get(), 0);
        assert!(count.now.lock().expect("a lock").each.is_empty());
    }
}
