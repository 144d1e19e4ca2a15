//! What clients had in sessions that their servers dropped, for the next session of the same client: its agent is told that
//! files are gone, as it is where the proxy renews a session by itself.
//!
//! Nothing in a handshake says that it is about a session in place of another. What tells a client is its handshake: one
//! that lost a session sends the same again, at once. Of several clients of one kind, as many are told as have lost
//! something. The worst that a wrong guess does: a client that has just started, of the same program in the same version,
//! reads that files are gone which it never had.
//!
//! Invariant: each loss is told once, and what is kept is bounded.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::ProfileName;
use crate::sync::lock;

/// A client that comes back later is taken for another one.
const KEPT: Duration = Duration::from_secs(60);
/// More than there are sessions aren't lost at a time.
const MOST: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Handshakes may be long, and are compared alone.
    hasher: RandomState,
    waiting: Mutex<VecDeque<Loss>>,
}

#[derive(Debug)]
struct Loss {
    at: Instant,
    client: u64,
    profiles: Vec<ProfileName>,
}

impl Losses {
    /// A client with this handshake has lost its sessions of these profiles.
    pub(super) fn add(&self, params: &str, profiles: Vec<ProfileName>, now: Instant) {
        let client = self.hasher.hash_one(params);
        let mut waiting = lock(&self.waiting);
        forget(&mut waiting, now);
        if waiting.len() < MOST {
            waiting.push_back(Loss { at: now, client, profiles });
        }
    }

    /// What a client with this handshake has lost; the oldest of several losses.
    pub(super) fn take(&self, params: &str, now: Instant) -> Option<Vec<ProfileName>> {
        let mut waiting = lock(&self.waiting);
        forget(&mut waiting, now);
        if waiting.is_empty() {
            return None;
        }
        let client = self.hasher.hash_one(params);
        let at = waiting.iter().position(|loss| loss.client == client)?;
        waiting.remove(at).map(|loss| loss.profiles)
    }
}

fn forget(waiting: &mut VecDeque<Loss>, now: Instant) {
    while waiting.front().is_some_and(|loss| now.duration_since(loss.at) >= KEPT) {
        waiting.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profiles(name: &str) -> Vec<ProfileName> {
        vec![ProfileName::parse(name).unwrap()]
    }

    #[test]
    fn each_loss_is_told_once_to_the_same_client_while_it_is_new() {
        let (losses, now) = (Losses::default(), Instant::now());
        assert_eq!(losses.take("{}", now), None);
        losses.add(r#"{"a":1}"#, profiles("dev"), now);
        losses.add(r#"{"a":1}"#, profiles("prod"), now + Duration::from_secs(1));
        losses.add(r#"{"a":2}"#, profiles("staging"), now + Duration::from_secs(2));
        assert_eq!(losses.take(r#"{"a": 1}"#, now), None, "another client");
        assert_eq!(losses.take(r#"{"a":1}"#, now), Some(profiles("dev")));
        assert_eq!(losses.take(r#"{"a":1}"#, now), Some(profiles("prod")));
        assert_eq!(losses.take(r#"{"a":1}"#, now), None, "once each");
        let late = now + Duration::from_secs(2) + KEPT;
        assert_eq!(losses.take(r#"{"a":2}"#, late), None);
        assert!(lock(&losses.waiting).is_empty());
    }

    /// The attack: a client opens sessions and has its server drop them, without end.
    #[test]
    fn what_is_kept_is_bounded() {
        let (losses, now) = (Losses::default(), Instant::now());
        for number in 0..MOST + 10 {
            losses.add(&number.to_string(), profiles("dev"), now);
        }
        assert_eq!(lock(&losses.waiting).len(), MOST);
        losses.add("{}", profiles("dev"), now + KEPT);
        assert_eq!(lock(&losses.waiting).len(), 1);
    }
}
