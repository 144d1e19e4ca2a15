//! The observer of loads of credentials, for the audit log and the metrics, which are above this
//! module.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials as Keys;
use futures_util::future::BoxFuture;

use super::load::{Effort, Load, OnRead};
use super::source::Source;
use crate::config::{Agent, ProfileName};
use crate::error::Denial;
use crate::secret::Credentials;

/// Gets notified when a load has ended. It must not block.
pub trait Observer: Debug + Send + Sync {
    /// A load of a profile's credentials, for an agent or the profile itself, has ended after this
    /// time with this result.
    fn on_load(
        &self,
        profile: &ProfileName,
        agent: Option<&Agent>,
        took: Duration,
        outcome: Result<&Arc<Credentials>, &Denial>,
    );
}

/// Ignores loads: for `check`, which reports to a person itself.
impl Observer for () {
    fn on_load(
        &self,
        _: &ProfileName,
        _: Option<&Agent>,
        _: Duration,
        _: Result<&Arc<Credentials>, &Denial>,
    ) {
    }
}

/// A source whose loads are observed.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub(super) source: Arc<Source>,
    /// The agent of the credentials, if any.
    pub(super) agent: Option<Arc<Agent>>,
    pub(super) name: ProfileName,
    pub(super) observer: Arc<dyn Observer>,
}

impl Load for Observed {
    fn load(
        &self,
        effort: Effort,
        now: SystemTime,
        on_read: OnRead,
    ) -> BoxFuture<'_, Result<Keys, Denial>> {
        Box::pin(self.source.load(self.agent.as_deref(), effort, now, on_read))
    }

    fn identify(&self, keys: &Keys) -> Option<BoxFuture<'static, Result<String, Denial>>> {
        self.source.query_identity(keys)
    }

    fn on_end(&self, took: Duration, outcome: Result<&Arc<Credentials>, &Denial>) {
        self.observer.on_load(&self.name, self.agent.as_deref(), took, outcome);
    }
}
