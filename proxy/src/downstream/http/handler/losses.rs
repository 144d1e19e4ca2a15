//! Stores the sessions that clients lost because their servers dropped them, so that the next session of the same
//! client can report it: the agent is notified that files are gone, as it is if the proxy itself renews a session.
//!
//! A handshake doesn't tell which session it replaces. A client is recognised by its handshake: after losing a session,
//! it sends the same handshake again at once. Of several identical clients, as many are notified as have lost a
//! session. The worst effect of a wrong match: a client that has just started, with the same program in the same
//! version, is notified of lost files that it never had.
//!
//! Invariant: each loss is reported once, and the number of stored losses is bounded.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::ProfileName;
use crate::sync::lock;

/// A client that reconnects later is treated as another client.
const RETENTION: Duration = Duration::from_secs(60);
/// No more sessions than this can exist, and be lost, at a time.
const MAX_LOSSES: usize = 4096;

/// The losses that haven't been reported yet.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Handshakes may be long, so that only their hashes are stored and compared.
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
    /// Stores that a client with this handshake lost its sessions of these profiles.
    pub(super) fn add(&self, params: &str, profiles: Vec<ProfileName>, now: Instant) {
        let client = self.hasher.hash_one(params);
        let mut waiting = lock(&self.waiting);
        forget(&mut waiting, now);
        if waiting.len() < MAX_LOSSES {
            waiting.push_back(Loss { at: now, client, profiles });
        }
    }

    /// Takes the profiles that a client with this handshake lost; the oldest loss, if there are
    /// several.
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
    while waiting.front().is_some_and(|loss| now.duration_since(loss.at) >= RETENTION) {
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
    fn each_recent_loss_is_reported_once_to_the_same_client() {
        let (losses, now) = (Losses::default(), Instant::now());
        assert_eq!(losses.take("{}", now), None);
        losses.add(r#"{"a":1}"#, profiles("dev"), now);
        losses.add(r#"{"a":1}"#, profiles("prod"), now + Duration::from_secs(1));
        losses.add(r#"{"a":2}"#, profiles("staging"), now + Duration::from_secs(2));
        assert_eq!(losses.take(r#"{"a": 1}"#, now), None, "another client");
        assert_eq!(losses.take(r#"{"a":1}"#, now), Some(profiles("dev")));
        assert_eq!(losses.take(r#"{"a":1}"#, now), Some(profiles("prod")));
        assert_eq!(losses.take(r#"{"a":1}"#, now), None, "once each");
        let late = now + Duration::from_secs(2) + RETENTION;
        assert_eq!(losses.take(r#"{"a":2}"#, late), None);
        assert!(lock(&losses.waiting).is_empty());
    }

    /// The attack: a client opens sessions and has its server drop them, without end.
    #[test]
    fn stored_losses_are_bounded() {
        let (losses, now) = (Losses::default(), Instant::now());
        for number in 0..MAX_LOSSES + 10 {
            losses.add(&number.to_string(), profiles("dev"), now);
        }
        assert_eq!(lock(&losses.waiting).len(), MAX_LOSSES);
        losses.add("{}", profiles("dev"), now + RETENTION);
        assert_eq!(lock(&losses.waiting).len(), 1);
    }
}
