//! Rates: token buckets without a clock (GCRA: a bucket is one number, the time at which it will be full
//! again), one for each rule and peer.
//!
//! Invariant: they outlive the rules. A reload refills nobody's bucket, and the peers of one rule don't
//! take each other's tokens.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Rate;
use crate::error::{Denial, Reason};
use crate::peer::PeerId;

const SECOND: u64 = 1_000_000_000;

/// More peers of rules with rates than a broker has. Full buckets are forgotten before there are more; a
/// peer beyond that waits until one is.
const MAX_BUCKETS: usize = 4096;

/// Every bucket that isn't full.
#[derive(Debug)]
pub struct Rates {
    start: Instant,
    /// When each is full again, in nanoseconds after `start`; by rule and peer.
    full_at: Mutex<HashMap<(String, PeerId), u64>>,
}

impl Rates {
    /// All buckets are full; `start` is before every time that is asked for.
    #[must_use]
    pub fn new(start: Instant) -> Self {
        Self { start, full_at: Mutex::default() }
    }

    /// Takes a token for a call that no rule matches, of the bucket `name`: one that no rule has.
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

    /// Takes a token of a peer's bucket, if there is one at `now`.
    ///
    /// # Errors
    /// How long until there is.
    pub(super) fn take(
        &self,
        rule: &str,
        peer: PeerId,
        rate: Rate,
        now: Instant,
    ) -> Result<(), Duration> {
        self.at(rule, peer, rate, now, true)
    }

    /// The same without taking it.
    ///
    /// # Errors
    /// How long until there is one.
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
        // How long a token takes to grow, and an empty bucket less one token.
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
        // Another user, another rule: buckets of their own.
        assert_eq!((0..5).filter(|_| take(2, 60_000).is_ok()).count(), 3);
        assert_eq!(
            rates.take("other", PeerId::Uid(1), RATE, start + Duration::from_secs(60)),
            Ok(())
        );
    }

    #[test]
    fn what_is_kept_is_bounded() {
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
