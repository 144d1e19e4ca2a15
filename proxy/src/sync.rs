//! Locks that outlive a panic: nothing that they guard is left half done by one.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The guard of `mutex`.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
