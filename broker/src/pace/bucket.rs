//! A token bucket whose rate may change. Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// The tolerance for rounding errors of sums, in tokens.
const EPSILON: f64 = 1e-6;

/// Tokens that grow with time, up to a capacity.
#[derive(Debug)]
pub(super) struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn with(tokens: f64, now: Instant) -> Self {
        Self { tokens, at: now }
    }

    /// Adds the tokens since the last refill.
    pub(super) fn refill(&mut self, rate: f64, capacity: f64, now: Instant) {
        let grown = now.saturating_duration_since(self.at).as_secs_f64() * rate;
        self.tokens = (self.tokens + grown).min(capacity);
        self.at = self.at.max(now);
    }

    pub(super) fn has_one(&self) -> bool {
        self.tokens >= 1.0 - EPSILON
    }

    pub(super) fn take(&mut self) {
        self.tokens -= 1.0;
    }

    /// Returns an unused token; the next refill cuts any excess.
    pub(super) fn give_back(&mut self) {
        self.tokens += 1.0;
    }

    /// Empties the bucket, because the server's own is empty.
    pub(super) fn drain(&mut self) {
        self.tokens = self.tokens.min(0.0);
    }

    /// The time until there are `count` tokens.
    pub(super) fn until(&self, count: f64, rate: f64) -> Duration {
        let missing = (count - self.tokens).max(0.0) / rate;
        Duration::try_from_secs_f64(missing).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::with(2.0, start);
        for _ in 0..2 {
            assert!(bucket.has_one());
            bucket.take();
        }
        assert!(!bucket.has_one());
        assert_eq!(bucket.until(1.0, 4.0), Duration::from_millis(250));
        bucket.refill(4.0, 2.0, start + Duration::from_millis(250));
        assert!(bucket.has_one(), "rounding loses no token");
        bucket.take();
        bucket.give_back();
        assert!(bucket.has_one());
        bucket.refill(4.0, 2.0, start + Duration::from_secs(100));
        assert_eq!(bucket.until(3.0, 4.0), Duration::from_millis(250), "it holds no more than two");
        bucket.drain();
        assert!(!bucket.has_one());
        // A clock that stands still, or steps back, adds no tokens.
        bucket.refill(4.0, 2.0, start);
        assert!(!bucket.has_one());
    }
}
