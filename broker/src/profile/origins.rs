//! Which sign-in a token comes from: a token that we renewed still belongs to the same sign-in.
//!
//! Credentials that were had for the token of before are as good as they were, so no profile is loaded again for it.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use crate::memory;

/// The hash of a token.
pub(super) type Mark = [u8; 32];

/// The last renewal of each session, by what names it.
#[derive(Debug)]
pub(super) struct Origins<K>(Mutex<HashMap<K, Renewed>>);

/// What a renewal of ours brought.
#[derive(Debug, Clone, Copy)]
struct Renewed {
    mark: Mark,
    /// Of the token that the sign-in itself brought.
    origin: Mark,
}

/// Marks a token by its text.
pub(super) fn mark(token: &[u8]) -> Mark {
    memory::wiped(|| Sha256::digest(token).into())
}

impl<K> Default for Origins<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Origins<K> {
    /// Takes note that we renewed `before`, and have `now`.
    pub(super) fn renewed(&self, session: K, before: Mark, now: Mark) {
        let mut known = self.known();
        let origin = origin(known.get(&session), before);
        known.insert(session, Renewed { mark: now, origin });
    }

    /// The mark of the sign-in that a token comes from: its own, but where a renewal of ours brought it.
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
