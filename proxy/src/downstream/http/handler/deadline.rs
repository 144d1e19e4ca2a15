//! When an answer has taken too long, and what its client gets then.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

/// A limit of a whole call, or none.
pub(super) struct Deadline {
    at: Instant,
    late: Option<BoxFuture<'static, String>>,
}

impl Deadline {
    /// No limit.
    pub(super) fn none() -> Self {
        // Later than any process ends.
        Self { at: Instant::now() + Duration::from_secs(365 * 24 * 3600), late: None }
    }

    /// `limit` from now; `late` says what the client gets then.
    pub(super) fn new(
        limit: Duration,
        late: impl Future<Output = String> + Send + 'static,
    ) -> Self {
        let none = Self::none();
        let at = Instant::now().checked_add(limit).filter(|at| *at < none.at);
        at.map_or(none, |at| Self { at, late: Some(late.boxed()) })
    }

    /// When it passes.
    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// What the client gets, once it has passed.
    pub(super) async fn late(&mut self) -> Option<String> {
        Some(self.late.take()?.await)
    }

    /// What comes of `work`, or what the client gets where that takes too long.
    pub(super) async fn within<T>(&mut self, work: impl Future<Output = T>) -> Result<T, String> {
        if self.late.is_none() {
            return Ok(work.await);
        }
        match tokio::time::timeout_at(self.at, work).await {
            Ok(done) => Ok(done),
            Err(_) => Err(self.late().await.unwrap_or_default()),
        }
    }
}
