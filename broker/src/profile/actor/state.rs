//! How a profile's credentials are: the states, each with what it has and nothing else.
//!
//! Invariant: keys are in `fresh`, `refreshing` and `degraded`, and nowhere else; a load runs in `loading` and
//! `refreshing`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use super::pace::{self, Due};
use crate::error::{Denial, Reason};
use crate::profile::load::Effort;
use crate::profile::reading::{Change, Inputs};
use crate::secret::Credentials;

/// After so long without an answer from their source, keys that it may not stand behind any more are dropped.
const DISOWNED: Duration = Duration::from_secs(60);

/// What a load brought; nothing while it runs.
pub(super) type Outcome = Option<Result<Arc<Credentials>, Denial>>;

/// Now, by both clocks. Wall-clock time decides about expiry, and may step; intervals are measured by the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) wall: SystemTime,
    pub(super) steady: Instant,
}

/// Which load of a profile it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(pub(super) u64);

/// How a profile's credentials are.
#[derive(Debug, Default)]
pub(super) enum State {
    /// Nobody has asked for them yet.
    #[default]
    Unloaded,
    /// There are none yet, or none any more, and a load runs.
    Loading { flight: Flight, failed: Option<Failed> },
    /// The last load brought them.
    Fresh { held: Held },
    /// There are some, and a load runs.
    Refreshing { held: Held, flight: Flight, failed: Option<Failed>, changed: Option<Changed> },
    /// There are some, and the last load failed.
    Degraded { held: Held, failed: Failed, changed: Option<Changed> },
    /// There are none, and the last load failed: a person has to sign in, or to repair something, or it passes.
    Failed { failed: Failed },
    /// The configuration doesn't have the profile any more, or has another one of its name.
    Ended { denial: Denial },
}

/// What the last good load brought.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) credentials: Arc<Credentials>,
    pub(super) due: Due,
    /// What they were loaded from.
    pub(super) of: Option<Inputs>,
}

/// A load that runs.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) ticket: Ticket,
    pub(super) since: Instant,
    /// What it has read, as soon as it has.
    pub(super) read: Option<Inputs>,
    pub(super) landed: watch::Sender<Outcome>,
}

/// The loads that failed since the last good one.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    pub(super) at: Instant,
    /// When the first of them failed, of those that pass by themselves or of those that don't.
    pub(super) since: Instant,
    /// 0 where something has changed since.
    pub(super) count: u32,
    /// Of the pauses after it, from 0 to 1.
    pub(super) chance: f64,
    pub(super) denial: Denial,
    /// What the last of them had read.
    pub(super) of: Option<Inputs>,
}

/// An input of the credentials has changed since they were loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) change: Change,
    pub(super) since: Instant,
}

/// Who asks for a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// Somebody who gets an answer of it, and nothing can sign.
    Caller,
    /// Nobody waits.
    Nobody,
}

impl State {
    /// The keys in force.
    pub(super) fn held(&self) -> Option<&Held> {
        match self {
            Self::Fresh { held } | Self::Refreshing { held, .. } | Self::Degraded { held, .. } => {
                Some(held)
            }
            Self::Unloaded | Self::Loading { .. } | Self::Failed { .. } | Self::Ended { .. } => {
                None
            }
        }
    }

    /// What the last load that has read anything read.
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

    /// When and why to drop keys that still sign: for [`DISOWNED`] their source has given none, and they never end, or
    /// it is no longer what they were loaded from. The delay spares a file that is being rewritten.
    pub(super) fn disowned(&self) -> Option<(Instant, &Denial)> {
        let (held, failed, changed) = match self {
            Self::Refreshing { held, failed: Some(failed), changed, .. }
            | Self::Degraded { held, failed, changed } => (held, failed, changed),
            _ => return None,
        };
        let unending = held.credentials.expiry().is_none();
        let (since, disowned) = match changed {
            // Also where nobody can say what the new ones would be: the old ones aren't those that are asked for.
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

    /// Whether it says nothing about the credentials, but that their source couldn't be reached.
    pub(super) fn passes(&self) -> bool {
        self.denial.reason() == Reason::CredentialsUnavailable
    }

    /// Whether nothing will change until a person acts; then the files change, or someone asks.
    pub(super) fn is_final(&self) -> bool {
        !matches!(
            self.denial.reason(),
            Reason::CredentialsUnavailable | Reason::ProfileMisconfigured | Reason::NoCredentials
        )
    }

    /// Whether it is the answer to whoever asks now, since it is too early for another load.
    pub(super) fn is_answer(&self, asker: Asker, now: Moment) -> bool {
        let pause = match asker {
            Asker::Caller => pace::after_failure(self.count),
            Asker::Nobody => pace::after_failed_refresh(self.count, self.chance),
        };
        now.steady.duration_since(self.at) < pause
    }
}

impl Changed {
    /// That of the files counts until it is taken over: a change of the token doesn't make the keys those of the files.
    pub(super) fn merge(before: Option<Self>, change: Change, since: Instant) -> Self {
        match before {
            Some(before) if before.change == Change::Files && change == Change::Token => before,
            _ => Self { change, since },
        }
    }
}

/// How hard a load is to try after those that failed, while there are keys that sign or aren't.
pub(super) fn effort(failed: Option<&Failed>, served: bool) -> Effort {
    match served || failed.is_some_and(|failed| failed.count > 0) {
        true => Effort::Background,
        false => Effort::Waited,
    }
}
