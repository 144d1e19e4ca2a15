//! The times of reloading: at half of the lifetime, and after failures.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::secret::Credentials;

/// The time after which credentials without an expiry may be reloaded.
const UNEXPIRING: Duration = Duration::from_secs(60);
/// The random part of the lifetime by which refreshes are started earlier, at most.
const JITTER: f64 = 0.05;

/// The time at which credentials are to be reloaded, while they are still valid.
#[derive(Debug, Clone)]
pub(super) struct Due {
    loaded: SystemTime,
    /// The same time by the monotonic clock.
    at: Instant,
    /// `None` if they don't expire.
    after: Option<Duration>,
}

impl Due {
    pub(super) fn of(credentials: &Credentials, at: Instant, chance: f64) -> Self {
        let after = credentials.life().map(|life| life.mul_f64(0.5 - JITTER * chance));
        Self { loaded: credentials.loaded(), at, after }
    }

    /// The time until the next background load.
    pub(super) fn left(&self, now: SystemTime, steady: Instant) -> Duration {
        match self.after {
            None => Duration::MAX,
            Some(after) => after.saturating_sub(self.age(now, steady)),
        }
    }

    /// Whether a background load is due. Credentials without an expiry aren't reloaded in the
    /// background, because that may run a program that prompts a person.
    pub(super) fn over(&self, now: SystemTime, steady: Instant) -> bool {
        self.after.is_some_and(|after| after <= self.age(now, steady))
    }

    /// Whether a request is a reason to reload.
    pub(super) fn asked(&self, now: SystemTime, steady: Instant) -> bool {
        self.after.unwrap_or(UNEXPIRING) <= self.age(now, steady)
    }

    /// The greater age of both clocks: the wall clock may have been set back, and the monotonic one
    /// doesn't advance while the machine sleeps.
    fn age(&self, now: SystemTime, steady: Instant) -> Duration {
        steady.duration_since(self.at).max(now.duration_since(self.loaded).unwrap_or_default())
    }
}

/// The pause after failed refreshes, while valid credentials are served: 15 seconds, doubling up to
/// 150, and up to a fifth more at random.
pub(super) fn after_failed_refresh(count: u32, chance: f64) -> Duration {
    doubled(Duration::from_secs(15), count, Duration::from_secs(150)).mul_f64(1.0 + chance / 5.0)
}

/// How long a failure is returned from memory if nothing can be served: 1 second, doubling up to 5.
pub(super) fn after_failure(count: u32) -> Duration {
    doubled(Duration::from_secs(1), count, Duration::from_secs(5))
}

/// No pause if there was no failure since the last change.
fn doubled(first: Duration, count: u32, most: Duration) -> Duration {
    match count.checked_sub(1) {
        None => Duration::ZERO,
        Some(times) => first.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX)).min(most),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_cap() {
        let seconds = |pause: &dyn Fn(u32) -> Duration| -> Vec<u64> {
            (0..7).map(|count| pause(count).as_secs()).collect()
        };
        let refresh = |chance| seconds(&|count| after_failed_refresh(count, chance));
        assert_eq!(refresh(0.0), [0, 15, 30, 60, 120, 150, 150]);
        assert_eq!(refresh(1.0), [0, 18, 36, 72, 144, 180, 180]);
        assert_eq!(seconds(&after_failure), [0, 1, 2, 4, 5, 5, 5]);
        assert_eq!(after_failed_refresh(u32::MAX, 0.0).as_secs(), 150);
    }
}
