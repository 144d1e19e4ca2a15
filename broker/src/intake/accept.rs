//! The behaviour of a listener while connections can't be accepted.

use std::io;
use std::time::Duration;

/// The pause after a failed accept (no file descriptors left).
const PAUSE: Duration = Duration::from_millis(50);

/// Logs the first of consecutive failures, not each of twenty per second, and waits.
pub(crate) async fn pause(error: &io::Error, failing: &mut bool) {
    if !*failing {
        tracing::warn!(%error, "connections can't be accepted");
    }
    *failing = true;
    tokio::time::sleep(PAUSE).await;
}
