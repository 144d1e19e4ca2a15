//! One attempt at something that many wait for.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::error::Error;

/// Something that is done once, by the first who needs it. The others wait, and share its failure as
/// they share its success: what takes long to fail would otherwise fail for one after the other.
/// Whoever asks later tries again.
#[derive(Debug, Default)]
pub(crate) struct Attempt(Mutex<Option<(Instant, Arc<Error>)>>);

impl Attempt {
    /// Returns the `known` outcome, else that of `work`.
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
            // A sign-in may end it in this moment.
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
    async fn a_failure_is_shared_by_all_who_wait() {
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
    async fn one_who_gives_up_leaves_it_to_the_next() {
        let attempt = Attempt::default();
        let never = attempt.once(|| None::<u8>, std::future::pending());
        assert!(tokio::time::timeout(Duration::from_secs(1), never).await.is_err());
        assert_eq!(attempt.once(|| None, async { Ok(7) }).await.unwrap(), 7);
    }
}
