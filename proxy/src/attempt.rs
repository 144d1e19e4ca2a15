//! One attempt at work that several callers wait for.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::error::Error;

/// Work that is done once, by the first caller. The other callers wait, and share its success or failure: otherwise a
/// slow failure would be repeated for each of them, one after the other. A later caller tries again.
#[derive(Debug, Default)]
pub(crate) struct Attempt(Mutex<Option<(Instant, Arc<Error>)>>);

impl Attempt {
    /// Returns the `known` outcome, or that of `work`.
    pub(crate) async fn once<T>(
        &self,
        known: impl Fn() -> Option<T>,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        if let Some(known) = known() {
            return Ok(known);
        }
        let asked = Instant::now();
        let mut failure = self.0.lock().await;
        if let Some(known) = known() {
            return Ok(known);
        }
        if let Some((at, error)) = &*failure
            && *at > asked
        {
            return Err(Error::Shared(Arc::clone(error)));
        }
        let error = match work.await {
            Ok(done) => {
                *failure = None;
                return Ok(done);
            }
            // A sign-in may remove this cause at any moment, so the failure isn't stored.
            Err(error) if error.login_required().is_some() => return Err(error),
            Err(error) => Arc::new(error),
        };
        *failure = Some((Instant::now(), Arc::clone(&error)));
        Err(Error::Shared(error))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use std::time::Duration;

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_shared_by_all_waiting_callers() {
        let (attempt, tries) = (Attempt::default(), AtomicUsize::new(0));
        let ask = || {
            attempt.once(|| None::<()>, async {
                tries.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(10)).await;
                Err(Error::NoAnswer)
            })
        };
        let all = join_all((0..20).map(|_| ask())).await;
        assert!(all.iter().all(|one| matches!(one, Err(Error::Shared(_)))));
        assert_eq!(tries.load(Ordering::Relaxed), 1);
        ask().await.unwrap_err();
        assert_eq!(tries.load(Ordering::Relaxed), 2, "a later caller tries again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_caller_is_replaced_by_the_next() {
        let attempt = Attempt::default();
        let never = attempt.once(|| None::<u8>, std::future::pending());
        assert!(tokio::time::timeout(Duration::from_secs(1), never).await.is_err());
        assert_eq!(attempt.once(|| None, async { Ok(7) }).await.unwrap(), 7);
    }
}
