//! Rates: token buckets without a clock (GCRA: a bucket is one number, the time at which it will be
//! full again), one for each rule and peer.
//!
//! Invariant: buckets outlive the rules. A reload doesn't refill them, and the peers of one rule
//! have buckets of their own.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Rate;
use crate::error::{Denial, Reason};
use crate::peer::PeerId;

const SECOND: u64 = 1_000_000_000;

/// The most buckets, more than a broker has peers. Full buckets are dropped first; a new peer
/// beyond the limit waits until one is full.
const MAX_BUCKETS: usize = 4096;

/// All buckets that aren't full.
#[derive(Debug)]
pub struct Rates {
    start: Instant,
    /// The time at which each bucket is full again, in nanoseconds after `start`; by rule and peer.
    full_at: Mutex<HashMap<(String, PeerId), u64>>,
}

impl Rates {
    /// Makes full buckets; `start` must be before all times passed later.
    #[must_use]
    pub fn new(start: Instant) -> Self {
        Self { start, full_at: Mutex::default() }
    }

    /// Takes a token for a call without a rule, from the bucket `name`, which no rule may have.
    ///
    /// # Errors
    /// RATE_LIMITED.
    pub fn take_for(
        &self,
        name: &'static str,
        peer: PeerId,
        rate: Rate,
        now: Instant,
    ) -> Result<(), Denial> {
        self.take(name, peer, rate, now)
            .map_err(|wait| Denial::new(Reason::RateLimited, "too many calls").retry_after(wait))
    }

    /// Takes a token from a peer's bucket, if there is one at `now`.
    ///
    /// # Errors
    /// The time until there is a token.
    pub(super) fn take(
        &self,
        rule: &str,
        peer: PeerId,
        rate: Rate,
        now: Instant,
    ) -> Result<(), Duration> {
        self.at(rule, peer, rate, now, true)
    }

    /// Checks for a token without taking it.
    ///
    /// # Errors
    /// The time until there is a token.
    pub(super) fn look(
        &self,
        rule: &str,
        peer: PeerId,
        rate: Rate,
        now: Instant,
    ) -> Result<(), Duration> {
        self.at(rule, peer, rate, now, false)
    }

    fn at(
        &self,
        rule: &str,
        peer: PeerId,
        rate: Rate,
        now: Instant,
        take: bool,
    ) -> Result<(), Duration> {
        let elapsed = now.saturating_duration_since(self.start).as_nanos();
        let now = u64::try_from(elapsed).unwrap_or(u64::MAX);
        // The time in which a token grows, and the time in which all but one token of an empty
        // bucket grow.
        let interval = SECOND / u64::from(rate.per_second.max(1));
        let tolerance = interval * u64::from(rate.burst.max(1) - 1);
        let mut buckets = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (rule.to_owned(), peer);
        let full_at = buckets.get(&key).copied().unwrap_or_default().max(now);
        let missing = (full_at - now).saturating_sub(tolerance);
        if missing > 0 {
            return Err(Duration::from_nanos(missing));
        }
        if take {
            if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(&key) {
                buckets.retain(|_, full_at| *full_at > now);
                if buckets.len() >= MAX_BUCKETS {
                    return Err(Duration::from_secs(1));
                }
            }
            buckets.insert(key, full_at.saturating_add(interval));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 3 };

    #[test]
    fn a_burst_and_then_the_rate() {
        let start = Instant::now();
        let rates = Rates::new(start);
        let take = |uid, millis| {
            rates.take("r", PeerId::Uid(uid), RATE, start + Duration::from_millis(millis))
        };
        assert_eq!((0..5).filter(|_| take(1, 0).is_ok()).count(), 3);
        assert_eq!(take(1, 60), Err(Duration::from_millis(40)));
        assert_eq!(
            rates.look("r", PeerId::Uid(1), RATE, start + Duration::from_millis(100)),
            Ok(())
        );
        assert_eq!(take(1, 100), Ok(()));
        assert_eq!(take(1, 100), Err(Duration::from_millis(100)));
        assert_eq!((0..5).filter(|_| take(1, 60_000).is_ok()).count(), 3);
        // Another user and another rule have buckets of their own.
        assert_eq!((0..5).filter(|_| take(2, 60_000).is_ok()).count(), 3);
        assert_eq!(
            rates.take("other", PeerId::Uid(1), RATE, start + Duration::from_secs(60)),
            Ok(())
        );
    }

    #[test]
    fn stored_buckets_are_bounded() {
        let start = Instant::now();
        let rates = Rates::new(start);
        for uid in 0..MAX_BUCKETS as u32 {
            rates.take("r", PeerId::Uid(uid), RATE, start).expect("a token");
        }
        assert!(rates.take("r", PeerId::Uid(1_000_000), RATE, start).is_err());
        let later = start + Duration::from_secs(1);
        assert_eq!(rates.take("r", PeerId::Uid(1_000_000), RATE, later), Ok(()));
        assert_eq!(rates.full_at.lock().expect("a lock").len(), 1);
    }
}
