//! Limits how often a request is sent.

use std::time::Duration;

use crate::error::{Error, Resend};

/// The first wait before another attempt.
const BACKOFF: Duration = Duration::from_millis(200);
/// The longest wait.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The longest wait that a server may ask for (`Retry-After`).
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// The attempts that a request has left. A request that the server may have acted on is sent again
/// only if it is repeatable.
#[derive(Debug)]
pub(crate) struct Attempts {
    left: u32,
    repeatable: bool,
    wait: Duration,
}

impl Attempts {
    /// Allows `retries` attempts after the first.
    pub(crate) fn new(retries: u32, repeatable: bool) -> Self {
        Self { left: retries, repeatable, wait: BACKOFF }
    }

    /// Waits for the next attempt after `error`, or returns the error if there is none.
    pub(crate) async fn after(&mut self, error: Error) -> Result<(), Error> {
        match self.wait(&error).await {
            true => Ok(()),
            false => Err(error),
        }
    }

    /// Waits for the next attempt after `error`. Returns false if there is none.
    pub(crate) async fn wait(&mut self, error: &Error) -> bool {
        let may_repeat = match error.resend() {
            Resend::Safe => true,
            Resend::IfReadOnly => self.repeatable,
            Resend::Pointless => false,
        };
        // A server that asks for a longer wait than callers accept: return its error.
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

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tokio::time::Instant;

    use super::*;

    fn unavailable(seconds: Option<u64>) -> Error {
        let (host, detail) = ("h".to_owned(), None);
        let retry_after = seconds.map(Duration::from_secs);
        Error::Status { host, status: StatusCode::SERVICE_UNAVAILABLE, detail, retry_after }
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_is_respected() {
        let mut attempts = Attempts::new(3, true);
        for (asked, least) in [(None, 0.2), (Some(7), 7.0), (Some(0), 0.8)] {
            let begun = Instant::now();
            assert!(attempts.wait(&unavailable(asked)).await);
            let waited = begun.elapsed().as_secs_f64();
            assert!((least..least + 0.01).contains(&waited), "{asked:?}: {waited}");
        }
        assert!(!attempts.wait(&unavailable(None)).await, "none is left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_retry_after_or_an_unsafe_repeat_fails_at_once() {
        let begun = Instant::now();
        assert!(!Attempts::new(3, true).wait(&unavailable(Some(3600))).await);
        assert!(!Attempts::new(3, false).wait(&unavailable(Some(1))).await);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
