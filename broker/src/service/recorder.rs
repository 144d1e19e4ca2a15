//! Records background work in the audit log and the metrics.

use std::sync::Arc;
use std::time::Duration;

use crate::audit::{Audit, Event};
use crate::clock;
use crate::config::{Agent, ProfileName};
use crate::error::Denial;
use crate::metrics::Metrics;
use crate::profile::Observer;
use crate::secret::Credentials;

/// The audit log and the metrics of a process.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    pub(crate) audit: Arc<Audit>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Observer for Recorder {
    fn on_load(
        &self,
        profile: &ProfileName,
        agent: Option<&Agent>,
        took: Duration,
        outcome: Result<&Arc<Credentials>, &Denial>,
    ) {
        self.metrics.loaded(profile.as_str(), took, outcome.map(drop));
        let outcome = match outcome {
            Ok(keys) => Ok((keys.access_key_id().to_owned(), keys.generation())),
            Err(denial) => Err(denial.clone()),
        };
        let agent = agent.map(|agent| agent.name().to_owned());
        self.audit
            .event(Event::Load { profile: profile.to_string(), agent, outcome }, clock::now());
    }
}
