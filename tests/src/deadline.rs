//! Deadlines: a test that waits says what for, and fails with that text when it doesn't come.

use std::future::Future;
use std::time::Duration;

/// The time limit for anything that should be immediate, for busy machines.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The time limit for third-party programs that start slowly, or for a hundred steps in sequence.
pub const LONG_DEADLINE: Duration = Duration::from_secs(120);

/// The output of `future`, or a panic with `explanation` after [`DEADLINE`].
///
/// # Panics
/// After the deadline.
pub async fn within<T>(future: impl Future<Output = T>, explanation: impl FnOnce() -> String) -> T {
    limited(DEADLINE, future, explanation).await
}

/// [`within`] for [`LONG_DEADLINE`].
///
/// # Panics
/// After the deadline.
pub async fn within_long<T>(
    future: impl Future<Output = T>,
    explanation: impl FnOnce() -> String,
) -> T {
    limited(LONG_DEADLINE, future, explanation).await
}

async fn limited<T>(
    deadline: Duration,
    future: impl Future<Output = T>,
    explanation: impl FnOnce() -> String,
) -> T {
    match tokio::time::timeout(deadline, future).await {
        Ok(output) => output,
        Err(_) => panic!("after {deadline:?}: {}", explanation()),
    }
}
