//! What a listener does when no connection can be accepted.

use std::io;
use std::time::Duration;

/// After a failed accept (no file descriptors left), before the next.
const PAUSE: Duration = Duration::from_millis(50);

/// Says so once, and not twenty times a second, and waits.
pub(crate) async fn pause(error: &io::Error, failing: &mut bool) {
    if !*failing {
        tracing::warn!(%error, "connections can't be accepted");
    }
    *failing = true;
    tokio::time::sleep(PAUSE).await;
}
