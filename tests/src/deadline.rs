//! Deadlines: a test that waits for something says what, and fails loudly when it doesn't come.

use std::future::Future;
use std::time::Duration;

/// How long anything may take that should be immediate, on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The output of `future`, or a panic with `explanation` after [`DEADLINE`].
///
/// # Panics
/// After the deadline.
pub async fn within<T>(future: impl Future<Output = T>, explanation: impl FnOnce() -> String) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("after {DEADLINE:?}: {}", explanation()),
    }
}
