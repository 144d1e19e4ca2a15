//! A token bucket without a lock and without a clock (GCRA: the bucket is one number, the time at
//! which it will be full again).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::config::Rate;

const SECOND: u64 = 1_000_000_000;

/// One rule's rate.
#[derive(Debug)]
pub(super) struct Bucket {
    start: Instant,
    /// Nanoseconds that one token takes to grow.
    interval: u64,
    /// Nanoseconds of an empty bucket, less one token.
    tolerance: u64,
    /// When the bucket is full again, in nanoseconds after `start`.
    full_at: AtomicU64,
}

impl Bucket {
    pub(super) fn new(rate: Rate, start: Instant) -> Self {
        let interval = SECOND / u64::from(rate.per_second.max(1));
        let tolerance = interval * u64::from(rate.burst.max(1) - 1);
        Self { start, interval, tolerance, full_at: AtomicU64::new(0) }
    }

    /// Takes a token, if there is one at `now`.
    pub(super) fn take(&self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.start).as_nanos();
        let now = u64::try_from(elapsed).unwrap_or(u64::MAX);
        let next = |full_at: u64| {
            (full_at.saturating_sub(now) <= self.tolerance)
                .then(|| full_at.max(now).saturating_add(self.interval))
        };
        self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let start = Instant::now();
        let bucket = Bucket::new(Rate { per_second: 10, burst: 3 }, start);
        let taken = (0..5).filter(|_| bucket.take(start)).count();
        assert_eq!(taken, 3);
        assert!(!bucket.take(start + Duration::from_millis(99)));
        assert!(bucket.take(start + Duration::from_millis(100)));
        assert!(!bucket.take(start + Duration::from_millis(100)));
        let later = start + Duration::from_secs(60);
        assert_eq!((0..5).filter(|_| bucket.take(later)).count(), 3);
    }
}
