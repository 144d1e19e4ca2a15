//! The sign-in that a token comes from: a token that the broker renewed belongs to the same sign-in.
//!
//! Credentials for the previous token stay valid, so a renewal doesn't reload profiles.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use crate::memory;

/// The hash of a token.
pub(super) type Mark = [u8; 32];

/// The last renewal of each session, by its key.
#[derive(Debug)]
pub(super) struct Origins<K>(Mutex<HashMap<K, Renewed>>);

/// The result of a renewal by the broker.
#[derive(Debug, Clone, Copy)]
struct Renewed {
    mark: Mark,
    /// The mark of the token that the sign-in itself returned.
    origin: Mark,
}

/// The mark of a token with this text.
pub(super) fn mark(token: &[u8]) -> Mark {
    memory::wiped(|| Sha256::digest(token).into())
}

impl<K> Default for Origins<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Origins<K> {
    /// Records that the broker renewed `before`, and got `now`.
    pub(super) fn renewed(&self, session: K, before: Mark, now: Mark) {
        let mut known = self.known();
        let origin = origin(known.get(&session), before);
        known.insert(session, Renewed { mark: now, origin });
    }

    /// The mark of the sign-in that a token comes from: its own, unless the broker renewed it.
    pub(super) fn of<Q: Eq + Hash + ?Sized>(&self, session: &Q, mark: Mark) -> Mark
    where
        K: Borrow<Q>,
    {
        origin(self.known().get(session), mark)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<K, Renewed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn origin(known: Option<&Renewed>, mark: Mark) -> Mark {
    known.filter(|renewed| renewed.mark == mark).map_or(mark, |renewed| renewed.origin)
}
