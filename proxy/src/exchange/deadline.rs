//! The time limit of a call.

use std::time::Duration;

use tokio::time::Instant;

/// The time limit of a whole call, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    at: Option<Instant>,
}

/// A call exceeded its deadline.
#[derive(Debug)]
pub(crate) struct TooLate;

impl Deadline {
    /// No limit.
    pub(crate) fn none() -> Self {
        Self { at: None }
    }

    /// `limit` from now, or no limit if the clock can't represent that time.
    pub(crate) fn new(limit: Duration) -> Self {
        Self { at: Instant::now().checked_add(limit) }
    }

    /// The time of the deadline; `None` without a limit.
    pub(super) fn at(&self) -> Option<Instant> {
        self.at
    }

    /// The result of `work` if it finishes in time.
    pub(crate) async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, TooLate> {
        match self.at {
            Some(at) => tokio::time::timeout_at(at, work).await.map_err(|_| TooLate),
            None => Ok(work.await),
        }
    }

    /// Waits until the deadline has passed.
    pub(crate) async fn passed(&self) {
        match self.at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_limit_ends_work() {
        let deadline = Deadline::new(Duration::from_secs(2));
        let work = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        assert!(deadline.within(work(1)).await.is_ok());
        assert!(deadline.within(work(2)).await.is_err(), "the limit is one for all of a call");
        assert!(Deadline::none().within(work(1 << 20)).await.is_ok());
        assert!(Deadline::new(Duration::MAX).within(work(1 << 20)).await.is_ok());
    }
}
