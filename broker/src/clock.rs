//! The only module that reads the wall clock. Other code gets the time as an argument, or a
//! [`Clock`] if it has to read it again later, so that expiry, midnight and clock steps are tested
//! without waiting for them.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::SystemTime;

/// The current time.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this is the edge")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// A wall clock, and the random numbers that keep brokers from acting at the same moment.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    chance: fn() -> f64,
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self { now: Arc::new(now), chance }
    }

    /// Another clock, for tests: its random number is always 0.
    #[must_use]
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self { now: Arc::new(now), chance: || 0.0 }
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        (self.now)()
    }

    /// A random number from 0 to 1.
    #[must_use]
    pub fn chance(&self) -> f64 {
        (self.chance)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").finish_non_exhaustive()
    }
}

/// The standard library seeds its hashers randomly; nothing here has to be secret.
fn chance() -> f64 {
    let bits = RandomState::new().hash_one(());
    f64::from((bits >> 32) as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_from_0_to_1_and_differs() {
        let clock = Clock::system();
        let numbers: Vec<f64> = (0..100).map(|_| clock.chance()).collect();
        assert!(numbers.iter().all(|number| (0.0..=1.0).contains(number)));
        assert!(numbers.iter().any(|number| *number < 0.5));
        assert!(numbers.iter().any(|number| *number > 0.5));
    }
}
