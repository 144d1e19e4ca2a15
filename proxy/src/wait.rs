//! How long to wait before a throttled request is repeated.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The first wait, if the server asked for none. The broker spaces the signatures for all callers.
const FIRST: Duration = Duration::from_millis(250);
/// The longest such wait.
const LONGEST: Duration = Duration::from_secs(8);
/// The largest random addition, so that callers that were throttled together don't retry together.
const SPREAD: Duration = Duration::from_secs(1);

/// The waits of one request.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Backoff {
    /// The next wait: never shorter than `asked`, and randomised.
    pub(crate) fn next(&mut self, asked: Option<Duration>) -> Duration {
        self.after(asked, chance())
    }

    fn after(&mut self, asked: Option<Duration>, chance: f64) -> Duration {
        let usual = self.0;
        self.0 = (usual * 2).min(LONGEST);
        match asked {
            Some(asked) => asked.saturating_add((asked / 4).max(FIRST).min(SPREAD).mul_f64(chance)),
            None => usual.mul_f64(0.5 + chance / 2.0),
        }
    }
}

/// A random number from 0 to 1. The standard library seeds its hashers randomly; this number
/// needn't be secret.
fn chance() -> f64 {
    f64::from((RandomState::new().hash_one(()) >> 32) as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_are_never_shorter_than_the_server_asked() {
        let mut backoff = Backoff::default();
        let millis = |wait: Duration| wait.as_millis();
        assert_eq!(millis(backoff.after(None, 0.0)), 125);
        assert_eq!(millis(backoff.after(None, 1.0)), 500);
        assert_eq!(millis(backoff.after(Some(Duration::ZERO), 0.0)), 0);
        for (seconds, most) in [(1, 1250), (2, 2500), (60, 61_000)] {
            let asked = Duration::from_secs(seconds);
            assert_eq!(backoff.after(Some(asked), 0.0), asked);
            assert_eq!(millis(backoff.after(Some(asked), 1.0)), most);
        }
        assert_eq!(backoff.after(None, 1.0), LONGEST);
        assert_eq!(backoff.after(Some(Duration::MAX), 1.0), Duration::MAX);
        let all: Vec<_> = (0..20).map(|_| Backoff::default().next(None)).collect();
        assert!(all.iter().any(|wait| *wait != all[0]), "{all:?}");
    }
}
