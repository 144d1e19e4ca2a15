//! One lock for each key.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Locks that are made on first use, and dropped when they aren't held or awaited any more.
#[derive(Debug)]
pub(super) struct Locks<K>(Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>);

impl<K> Default for Locks<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash> Locks<K> {
    /// The lock of a key.
    pub(super) fn of(&self, key: &K) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|other, lock| other == key || Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(key.clone()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_lock_while_it_is_held() {
        let locks = Locks::default();
        let first = locks.of(&1);
        let held = first.try_lock().expect("it is free");
        assert!(locks.of(&1).try_lock().is_err());
        assert!(locks.of(&2).try_lock().is_ok());
        drop(held);
        assert!(locks.of(&1).try_lock().is_ok());
        drop(first);
        locks.of(&3);
        assert_eq!(locks.0.lock().expect("a lock").len(), 1);
    }
}
