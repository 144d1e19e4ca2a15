//! What a profile's actor asks of the source of its credentials.

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
    /// A caller waits: a hiccup of the network is nothing to tell them.
    Waited,
    /// Once: there are valid credentials, or the load before failed too.
    Background,
}

/// Hears what the files say, as soon as a load has read them: the rest of the load may take a minute.
pub(super) type OnRead = Box<dyn FnOnce(Reading) + Send>;

/// Where credentials come from.
pub(super) trait Load: Send + Sync {
    /// Loads them anew, from the files up.
    fn load(
        &self,
        effort: Effort,
        now: SystemTime,
        on_read: OnRead,
    ) -> BoxFuture<'_, Result<Keys, Denial>>;

    /// Asks whose the keys are, as an ARN, where the configuration says so.
    fn identify(&self, _keys: &Keys) -> Option<BoxFuture<'static, Result<String, Denial>>> {
        None
    }

    /// Hears how a load ended, before those who wait for it.
    fn on_end(&self, _took: Duration, _outcome: Result<&Arc<Credentials>, &Denial>) {}
}
