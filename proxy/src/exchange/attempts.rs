//! How often a request is tried.

use std::time::Duration;

use crate::error::{Error, Resend};

/// The first wait before another attempt.
const BACKOFF: Duration = Duration::from_millis(200);
/// The longest.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The attempts that a request has left. What the server may have acted on is sent again only where
/// that is repeatable.
#[derive(Debug)]
pub(crate) struct Attempts {
    left: u32,
    repeatable: bool,
    wait: Duration,
}

impl Attempts {
    /// `retries` of them, after the first.
    pub(crate) fn new(retries: u32, repeatable: bool) -> Self {
        Self { left: retries, repeatable, wait: BACKOFF }
    }

    /// Waits for the next attempt after `error`; the error itself if there is none.
    pub(crate) async fn after(&mut self, error: Error) -> Result<(), Error> {
        let may_repeat = match error.resend() {
            Resend::Safe => true,
            Resend::IfReadOnly => self.repeatable,
            Resend::Pointless => false,
        };
        if self.left == 0 || !may_repeat {
            return Err(error);
        }
        self.left -= 1;
        tracing::info!(%error, "trying again in {:?}", self.wait);
        tokio::time::sleep(self.wait).await;
        self.wait = (self.wait * 2).min(BACKOFF_MAX);
        Ok(())
    }
}
