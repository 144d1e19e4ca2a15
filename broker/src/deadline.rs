//! For tests: waiting with a deadline.

use std::time::{Duration, Instant};

/// Longer than anything may take that should be immediate, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// The output of what should come soon, by the time of the runtime: a paused one that is idle gets there at once.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("it comes in time")
}

/// Lets the others run until something is reached, by the time of the machine.
pub(crate) async fn until(mut reached: impl FnMut() -> bool) {
    let started = Instant::now();
    while !reached() {
        assert!(started.elapsed() < DEADLINE, "it isn't reached in time");
        tokio::task::yield_now().await;
    }
}
