//! What is on its way, and what came of the last: the part of the machine that stands under a lock.

use std::sync::Arc;

use sigward_proto::v1::Reason;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Change;
use crate::error::Denial;
use crate::secret::Credentials;

/// What a load brought; nothing while it runs.
pub(super) type Outcome = Option<Result<Arc<Credentials>, Denial>>;

#[derive(Default)]
pub(super) struct Flight {
    /// The load that is on its way.
    pub(super) running: Option<watch::Receiver<Outcome>>,
    /// What the credentials are made of was changed since the last good load.
    pub(super) changed: Option<(Change, Instant)>,
    /// The loads that failed since the last good one; nothing after a success.
    pub(super) failed: Option<Failed>,
    /// When the last load was forced.
    pub(super) forced: Option<Instant>,
    pub(super) generation: u64,
    /// The profile is gone for good.
    pub(super) ended: bool,
    /// Whether the background task was started.
    pub(super) kept: bool,
}

/// What a load that runs is told.
#[derive(Clone, Copy)]
pub(super) enum Word {
    /// Something has changed since it began: its outcome is of yesterday.
    Again,
    /// The profile is gone: its outcome is nobody's.
    Gone,
}

pub(super) struct Failed {
    pub(super) at: Instant,
    /// When the first of them failed, of those that pass by themselves or of those that don't.
    pub(super) since: Instant,
    pub(super) count: u32,
    /// Of the pauses after it, from 0 to 1.
    pub(super) chance: f64,
    pub(super) denial: Denial,
}

impl Flight {
    /// The load that runs. One whose task died without an outcome doesn't.
    pub(super) fn running(&mut self) -> Option<watch::Receiver<Outcome>> {
        let alive = self.running.take().filter(|running| running.has_changed().is_ok());
        self.running.clone_from(&alive);
        alive
    }

    /// Takes note of a failure.
    pub(super) fn failed(&mut self, denial: Denial, chance: f64) {
        let at = Instant::now();
        let new = Failed { at, since: at, count: 1, chance, denial };
        self.failed = Some(match &self.failed {
            None => new,
            Some(last) => {
                let since = if last.passes() == new.passes() { last.since } else { at };
                Failed { since, count: last.count.saturating_add(1), ..new }
            }
        });
    }

    /// Takes note of a change: what failed before it says nothing any more.
    pub(super) fn changed(&mut self, change: Change) {
        let now = Instant::now();
        self.changed = match self.changed {
            Some((Change::Files, since)) if change == Change::Token => Some((Change::Files, since)),
            _ => Some((change, now)),
        };
        if let Some(failed) = &mut self.failed {
            failed.count = 0;
            failed.since = now;
        }
    }
}

impl Failed {
    /// Whether it is nobody's word about the credentials, but trouble on the way.
    pub(super) fn passes(&self) -> bool {
        self.denial.reason() == Reason::CredentialsUnavailable
    }
}

/// The outcome of a load that runs.
pub(super) async fn wait(mut flight: watch::Receiver<Outcome>) -> Result<Arc<Credentials>, Denial> {
    let outcome = flight.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
    outcome.unwrap_or_else(|| {
        Err(Denial::new(Reason::CredentialsUnavailable, "the load ended without an outcome"))
    })
}
