//! How often a request is tried.

use std::time::Duration;

use crate::error::{Error, Resend};

/// The first wait before another attempt.
const BACKOFF: Duration = Duration::from_millis(200);
/// The longest.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The longest wait that a server may ask for (`Retry-After`).
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

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
        match self.wait(&error).await {
            true => Ok(()),
            false => Err(error),
        }
    }

    /// Waits for the next attempt after `error`. False if there is none.
    pub(crate) async fn wait(&mut self, error: &Error) -> bool {
        let may_repeat = match error.resend() {
            Resend::Safe => true,
            Resend::IfReadOnly => self.repeatable,
            Resend::Pointless => false,
        };
        // A server that asks for more patience than callers have is answered by its error.
        let asked = error.retry_after().unwrap_or_default();
        if self.left == 0 || !may_repeat || asked > RETRY_AFTER_MAX {
            return false;
        }
        self.left -= 1;
        let wait = self.wait.max(asked);
        tracing::info!(%error, "trying again in {wait:?}");
        tokio::time::sleep(wait).await;
        self.wait = (self.wait * 2).min(BACKOFF_MAX);
        true
    }
}
