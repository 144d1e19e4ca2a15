//! For tests: waiting with a deadline.

use std::time::{Duration, Instant};

/// More time than an immediate operation may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// The output of a future that should complete soon, by the runtime's clock: a paused and idle
/// runtime reaches the deadline at once.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("it comes in time")
}

/// Lets other tasks run until a condition is met, by the machine's clock.
pub(crate) async fn until(mut reached: impl FnMut() -> bool) {
    let started = Instant::now();
    while !reached() {
        assert!(started.elapsed() < DEADLINE, "it isn't reached in time");
        tokio::task::yield_now().await;
    }
}
