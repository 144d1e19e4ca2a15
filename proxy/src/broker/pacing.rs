//! Records the profiles whose signatures the broker paces, and limits how many of their calls wait at the broker.
//!
//! Further calls wait here. A broker limits the concurrent calls of one user, and over TLS those of one connection, and
//! the calls that end the waiting of others (reports that an exchange has ended) must not be blocked.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sigward_proto::STREAMS_OVER_TLS;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::ProfileName;
use crate::sync::lock;

/// The most waiting signatures of one profile, and of all profiles.
const OF_PROFILE: usize = 8;
const OF_ALL: usize = STREAMS_OVER_TLS as usize * 3 / 4;

/// The limits for paced profiles.
#[derive(Debug)]
pub(super) struct Pacing {
    /// The number of paced profiles; nearly always 0.
    count: AtomicUsize,
    profiles: Mutex<HashMap<ProfileName, Arc<Semaphore>>>,
    all: Arc<Semaphore>,
}

/// A permit to wait at the broker.
#[derive(Debug)]
pub(super) struct Place(
    #[allow(dead_code, reason = "held, not read")] [Option<OwnedSemaphorePermit>; 2],
);

impl Default for Pacing {
    fn default() -> Self {
        let (count, profiles) = (AtomicUsize::new(0), Mutex::default());
        Self { count, profiles, all: Arc::new(Semaphore::new(OF_ALL)) }
    }
}

impl Pacing {
    pub(super) fn is_paced(&self, profile: &ProfileName) -> bool {
        self.count.load(Ordering::Relaxed) > 0 && lock(&self.profiles).contains_key(profile)
    }

    /// Records whether a signature was paced.
    pub(super) fn on_signed(&self, profile: &ProfileName, is_paced: bool) {
        if !is_paced && self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut profiles = lock(&self.profiles);
        match is_paced {
            true if profiles.contains_key(profile) => {}
            true => {
                profiles.insert(profile.clone(), Arc::new(Semaphore::new(OF_PROFILE)));
            }
            false => drop(profiles.remove(profile)),
        }
        self.count.store(profiles.len(), Ordering::Relaxed);
    }

    /// Acquires a permit to wait at the broker, first come, first served.
    pub(super) async fn place(&self, profile: &ProfileName) -> Place {
        let of_profile = lock(&self.profiles).get(profile).map(Arc::clone);
        let of_profile = match of_profile {
            // The semaphore is never closed.
            Some(places) => places.acquire_owned().await.ok(),
            None => None,
        };
        Place([of_profile, Arc::clone(&self.all).acquire_owned().await.ok()])
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_limited_number_waits_at_the_broker() {
        let pacing = Pacing::default();
        let [one, two, three, four] =
            ["one", "two", "three", "four"].map(|name| ProfileName::parse(name).unwrap());
        pacing.on_signed(&one, false);
        assert!(!pacing.is_paced(&one));
        for profile in [&one, &two, &three, &four] {
            pacing.on_signed(profile, true);
            assert!(pacing.is_paced(profile));
        }
        let mut places = Vec::new();
        for _ in 0..OF_PROFILE {
            places.push(pacing.place(&one).now_or_never().unwrap());
        }
        assert!(pacing.place(&one).now_or_never().is_none());
        for profile in [&two, &three] {
            for _ in 0..OF_PROFILE {
                places.push(pacing.place(profile).now_or_never().unwrap());
            }
        }
        assert!(pacing.place(&four).now_or_never().is_none(), "reports need room, too");
        places.pop();
        assert!(pacing.place(&four).now_or_never().is_some());
        pacing.on_signed(&one, false);
        assert!(!pacing.is_paced(&one) && pacing.is_paced(&two));
    }
}
