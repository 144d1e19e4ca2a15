//! The interface between a profile's actor and the source of its credentials.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials as Keys;
use futures_util::future::BoxFuture;

use super::reading::Reading;
use crate::error::Denial;
use crate::secret::Credentials;

/// How hard a load tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// Several attempts, because a caller waits, and a network glitch shouldn't fail its call.
    Waited,
    /// One attempt: there are valid credentials, or the previous load failed too.
    Background,
}

/// Called with the reading of the files as soon as a load has one: the rest of the load may take a
/// minute.
pub(super) type OnRead = Box<dyn FnOnce(Reading) + Send>;

/// A source of credentials.
pub(super) trait Load: Send + Sync {
    /// Loads the credentials, beginning with the files.
    fn load(
        &self,
        effort: Effort,
        now: SystemTime,
        on_read: OnRead,
    ) -> BoxFuture<'_, Result<Keys, Denial>>;

    /// Queries the identity of the keys as an ARN, if the configuration asks for it.
    fn identify(&self, _keys: &Keys) -> Option<BoxFuture<'static, Result<String, Denial>>> {
        None
    }

    /// Called when a load has ended, before its waiting callers get the outcome.
    fn on_end(&self, _took: Duration, _outcome: Result<&Arc<Credentials>, &Denial>) {}
}
