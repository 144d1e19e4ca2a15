//! The states of a profile's credentials, each with only the data that it has.
//!
//! Invariant: only `fresh`, `refreshing` and `degraded` contain keys; only `loading` and
//! `refreshing` have a running load.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use super::pace::{self, Due};
use crate::error::{Denial, Reason};
use crate::profile::load::Effort;
use crate::profile::reading::{Change, Inputs};
use crate::secret::Credentials;

/// The time after which keys are dropped that their source hasn't confirmed.
const DISOWNED: Duration = Duration::from_secs(60);

/// The result of a load; `None` while it runs.
pub(super) type Outcome = Option<Result<Arc<Credentials>, Denial>>;

/// The current time by both clocks. The wall clock, which may step, decides about expiry; intervals
/// are measured by the monotonic one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) wall: SystemTime,
    pub(super) steady: Instant,
}

/// Identifies a load of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(pub(super) u64);

/// The state of a profile's credentials.
#[derive(Debug, Default)]
pub(super) enum State {
    /// The credentials have never been requested.
    #[default]
    Unloaded,
    /// There are no credentials, and a load is running.
    Loading { flight: Flight, failed: Option<Failed> },
    /// The last load succeeded.
    Fresh { held: LoadedKeys },
    /// There are credentials, and a load is running.
    Refreshing {
        held: LoadedKeys,
        flight: Flight,
        failed: Option<Failed>,
        changed: Option<Changed>,
    },
    /// There are credentials, and the last load failed.
    Degraded { held: LoadedKeys, failed: Failed, changed: Option<Changed> },
    /// There are no credentials, and the last load failed.
    Failed { failed: Failed },
    /// The configuration no longer has the profile, or has a different one of the same name.
    Ended { denial: Denial },
}

/// The result of the last successful load.
#[derive(Debug, Clone)]
pub(super) struct LoadedKeys {
    pub(super) credentials: Arc<Credentials>,
    pub(super) due: Due,
    /// The inputs that they were loaded from.
    pub(super) of: Option<Inputs>,
}

/// A running load.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) ticket: Ticket,
    pub(super) since: Instant,
    /// The inputs that it has read, as soon as it has.
    pub(super) read: Option<Inputs>,
    pub(super) landed: watch::Sender<Outcome>,
}

/// The failed loads since the last successful one.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    pub(super) at: Instant,
    /// The time of the first failure of the same kind, temporary or not.
    pub(super) since: Instant,
    /// The number of failures; 0 if an input has changed since.
    pub(super) count: u32,
    /// The random part of the following pause, from 0 to 1.
    pub(super) chance: f64,
    pub(super) denial: Denial,
    /// The inputs that the last one had read.
    pub(super) of: Option<Inputs>,
}

/// An input of the credentials has changed since they were loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) change: Change,
    pub(super) since: Instant,
}

/// The requester of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// A caller that waits for the outcome, because no credentials can be served.
    Caller,
    /// A background task.
    Background,
}

impl State {
    /// The current keys.
    pub(super) fn held(&self) -> Option<&LoadedKeys> {
        match self {
            Self::Fresh { held } | Self::Refreshing { held, .. } | Self::Degraded { held, .. } => {
                Some(held)
            }
            Self::Unloaded | Self::Loading { .. } | Self::Failed { .. } | Self::Ended { .. } => {
                None
            }
        }
    }

    /// The inputs of the last load that has read the files.
    pub(super) fn last_read(&self) -> Option<&Inputs> {
        let (flight, failed, held) = match self {
            Self::Unloaded | Self::Ended { .. } => (None, None, None),
            Self::Loading { flight, failed } => (Some(flight), failed.as_ref(), None),
            Self::Fresh { held } => (None, None, Some(held)),
            Self::Refreshing { held, flight, failed, .. } => {
                (Some(flight), failed.as_ref(), Some(held))
            }
            Self::Degraded { held, failed, .. } => (None, Some(failed), Some(held)),
            Self::Failed { failed } => (None, Some(failed), None),
        };
        let of_flight = flight.and_then(|flight| flight.read.as_ref());
        let of_failed = failed.and_then(|failed| failed.of.as_ref());
        of_flight.or(of_failed).or_else(|| held.and_then(|held| held.of.as_ref()))
    }

    /// When and why to drop keys that are still valid: because their source has failed for
    /// [`DISOWNED`] and they never expire, or because the source has changed. The delay tolerates a
    /// file that is being rewritten.
    pub(super) fn disowned(&self) -> Option<(Instant, &Denial)> {
        let (held, failed, changed) = match self {
            Self::Refreshing { held, failed: Some(failed), changed, .. }
            | Self::Degraded { held, failed, changed } => (held, failed, changed),
            _ => return None,
        };
        let unending = held.credentials.expiry().is_none();
        let (since, disowned) = match changed {
            // This applies even if the new keys aren't known: the old ones aren't the configured ones.
            Some(Changed { change: Change::Files, since }) => (*since, true),
            Some(Changed { change: Change::Token, .. }) => (failed.since, !failed.passes()),
            None => (failed.since, unending && !failed.passes()),
        };
        disowned.then_some((since + DISOWNED, &failed.denial))
    }

    pub(super) fn flight_mut(&mut self) -> Option<&mut Flight> {
        match self {
            Self::Loading { flight, .. } | Self::Refreshing { flight, .. } => Some(flight),
            Self::Unloaded
            | Self::Fresh { .. }
            | Self::Degraded { .. }
            | Self::Failed { .. }
            | Self::Ended { .. } => None,
        }
    }
}

impl Failed {
    pub(super) fn after(
        last: Option<&Self>,
        denial: Denial,
        of: Option<Inputs>,
        chance: f64,
        now: Moment,
    ) -> Self {
        let at = now.steady;
        let new = Self { at, since: at, count: 1, chance, denial, of };
        match last {
            None => new,
            Some(last) => {
                let since = if last.passes() == new.passes() { last.since } else { at };
                Self { since, count: last.count.saturating_add(1), ..new }
            }
        }
    }

    /// Whether the failure is temporary: the source couldn't be reached, which tells nothing about
    /// the credentials.
    pub(super) fn passes(&self) -> bool {
        self.denial.reason() == Reason::CredentialsUnavailable
    }

    /// Whether only a person can resolve the failure, after which the files change, or a caller asks.
    pub(super) fn is_final(&self) -> bool {
        !matches!(
            self.denial.reason(),
            Reason::CredentialsUnavailable | Reason::ProfileMisconfigured | Reason::NoCredentials
        )
    }

    /// Whether the failure is the answer to a new request, because it is too early for another load.
    pub(super) fn is_answer(&self, asker: Asker, now: Moment) -> bool {
        let pause = match asker {
            Asker::Caller => pace::after_failure(self.count),
            Asker::Background => pace::after_failed_refresh(self.count, self.chance),
        };
        now.steady.duration_since(self.at) < pause
    }
}

impl Changed {
    /// A change of the files is kept until it is loaded: a later change of the token doesn't make
    /// the keys those of the files.
    pub(super) fn merge(before: Option<Self>, change: Change, since: Instant) -> Self {
        match before {
            Some(before) if before.change == Change::Files && change == Change::Token => before,
            _ => Self { change, since },
        }
    }
}

/// How hard a load tries, after earlier failures, and depending on whether valid keys are served.
pub(super) fn effort(failed: Option<&Failed>, served: bool) -> Effort {
    match served || failed.is_some_and(|failed| failed.count > 0) {
        true => Effort::Background,
        false => Effort::Waited,
    }
}
