//! The state machine of one profile's credentials. It loads nothing and reads no clock: the task of
//! the actor carries out the returned steps.
//!
//! ```text
//!            load ok                  half of life, a change, a rejection
//!  unloaded ───────▶ loading ──▶ fresh ───────────────────────▶ refreshing
//!                     ▲    │       ▲ ◀───────── load ok ──────────┤ │ load failed
//!      asked, changed │    │ failed└────── load ok ◀─ refreshing ◀─┴ degraded
//!                     └─ failed ◀──── the profile is gone, its keys are disowned
//! ```
//!
//! Every state leads to `ended` when the configuration drops the profile, and `ended` leads nowhere.
//!
//! Invariants: the result of a load counts only with the current ticket of its flight, so a load
//! that was started before a change has no effect. A load has never read older files than the
//! watch. Only `fresh`, `refreshing` and `degraded` contain keys.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials as Keys;
use tokio::sync::watch;
use tokio::time::Instant;

use super::known_identity::KnownIdentity;
use super::pace::{self, Due};
use super::state::{
    Asker, Changed, Failed, Flight, LoadedKeys, Moment, Outcome, State, Ticket, effort,
};
use super::status::Status;
use crate::error::{Denial, Reason};
use crate::profile::load::Effort;
use crate::profile::reading::{Change, Found, Reading, Taken};
use crate::secret::Credentials;

/// The minimum interval between loads forced by rejections: a caller must not be able to flood STS.
const BETWEEN_FORCED: Duration = Duration::from_secs(10);
/// The longest interval of checking the clock while there are keys: the clock may step, or the
/// machine may sleep.
const CLOCK_INTERVAL: Duration = Duration::from_secs(30);
/// The shortest interval, which prevents a busy loop whatever the clocks show.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// The result of a rejection.
#[derive(Debug)]
pub(super) enum Rejection {
    /// The current generation; no load is started.
    Known(u64),
    /// A load is running.
    Wait(watch::Receiver<Outcome>),
}

/// The answer to a caller that found no credentials in the published status.
#[derive(Debug)]
pub(super) enum Requested {
    /// Credentials that were loaded in the meantime.
    Loaded(Arc<Credentials>),
    /// A load is running.
    Wait(watch::Receiver<Outcome>),
}

/// The next step of the actor's task.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Run this load; after this time, check whether the current keys must be dropped before it ends.
    Load(Ticket, Effort, Option<Duration>),
    /// Wait for this time, or until a message.
    Wait(Option<Duration>),
    /// No further steps.
    End,
}

/// The outcome of a load, for its waiting callers.
#[derive(Debug)]
pub(super) struct Landing {
    pub(super) landed: watch::Sender<Outcome>,
    pub(super) outcome: Result<Arc<Credentials>, Denial>,
    pub(super) took: Duration,
}

/// The state of one profile.
#[derive(Debug, Default)]
pub(super) struct Machine {
    pub(super) state: State,
    /// The generation of the last loaded credentials; 0 if there are none yet.
    pub(super) generation: u64,
    /// The number of loads started.
    tickets: u64,
    /// The time of the last load forced by a rejection.
    forced: Option<Instant>,
    /// The latest reading of the files, by the watch or a load.
    read: Option<Reading>,
    pub(super) identity: KnownIdentity,
    /// Whether the status has changed since it was published.
    dirty: bool,
    /// Whether the change concerns waiting tasks.
    notify: bool,
    landing: Option<Landing>,
}

impl Machine {
    /// Requests credentials that may be used at `at`. A load may have ended since the caller looked at the status: another
    /// one would bring other keys.
    pub(super) fn request(&mut self, at: SystemTime, now: Moment) -> Result<Requested, Denial> {
        if let Some(held) = self.state.held().filter(|held| held.credentials.usable(at)) {
            return Ok(Requested::Loaded(Arc::clone(&held.credentials)));
        }
        self.want(Asker::Caller, now).map(Requested::Wait)
    }

    /// Requests a load: returns the running one, or a new one, or the last failure during its pause.
    pub(super) fn want(
        &mut self,
        asker: Asker,
        now: Moment,
    ) -> Result<watch::Receiver<Outcome>, Denial> {
        match &self.state {
            State::Ended { denial } => return Err(denial.clone()),
            State::Failed { failed } | State::Degraded { failed, .. }
                if failed.is_answer(asker, now) =>
            {
                return Err(failed.denial.clone());
            }
            _ => {}
        }
        Ok(self.launch(now))
    }

    /// Records that an input of the credentials has changed. A load that was started before is
    /// superseded.
    pub(super) fn change(&mut self, change: Change, now: Moment) {
        let renewed = |failed: Option<Failed>| {
            failed.map(|failed| Failed { count: 0, since: now.steady, ..failed })
        };
        let since = now.steady;
        self.state = match mem::take(&mut self.state) {
            ended @ State::Ended { .. } => ended,
            State::Unloaded => State::Loading { flight: self.flight(now), failed: None },
            State::Failed { failed } => {
                State::Loading { flight: self.flight(now), failed: renewed(Some(failed)) }
            }
            State::Loading { flight, failed } => {
                State::Loading { flight: self.overtaken(flight), failed: renewed(failed) }
            }
            State::Fresh { held } => {
                let (flight, changed) = (self.flight(now), Some(Changed { change, since }));
                State::Refreshing { held, flight, failed: None, changed }
            }
            State::Refreshing { held, flight, failed, changed } => {
                let changed = Some(Changed::merge(changed, change, since));
                let flight = self.overtaken(flight);
                State::Refreshing { held, flight, failed: renewed(failed), changed }
            }
            State::Degraded { held, failed, changed } => {
                let changed = Some(Changed::merge(changed, change, since));
                let flight = self.flight(now);
                State::Refreshing { held, flight, failed: renewed(Some(failed)), changed }
            }
        };
        self.mark();
    }

    /// Processes a reading of the watch.
    pub(super) fn take_reading(&mut self, reading: Reading, now: Moment) -> Taken {
        // A load has read newer files since.
        if self.has_read_since(&reading) {
            return Taken::Same;
        }
        let found = reading.found.clone();
        self.keep(reading);
        let found = match found {
            _ if !self.is_touched() => return Taken::Same,
            Found::Unreadable(denial) => return Taken::Kept(denial),
            Found::Gone => {
                let detail = "the profile isn't in the AWS files any more";
                self.forget(Denial::new(Reason::ProfileMisconfigured, detail), now);
                return Taken::Dropped;
            }
            Found::Inputs(found) => found,
        };
        // A load may have read the change before the watch, and failed.
        let of_keys = match &self.state {
            State::Refreshing { held, .. } | State::Degraded { held, .. } => held.of.as_ref(),
            _ => None,
        };
        let of_keys = of_keys.filter(|of| of.files != found.files).map(|_| Change::Files);
        let before = self.state.last_read();
        let change = match &self.state {
            State::Failed { .. } | State::Degraded { .. } => found.change_since_failure(before),
            _ => found.change(before),
        };
        match of_keys.or(change) {
            None => Taken::Same,
            Some(change) => {
                self.change(change, now);
                Taken::Reloads
            }
        }
    }

    /// Processes the reading for the list of profiles, unless the files have been read before.
    pub(super) fn survey(&mut self, reading: Reading) {
        if self.read.is_none() {
            self.keep(reading);
        }
    }

    /// Processes the reading of a load. If the watch has read the files since, the load is
    /// repeated: otherwise an edit that was reverted, or one during the last load, would be lost.
    pub(super) fn take_read_of_load(&mut self, ticket: Ticket, reading: Reading) {
        let is_stale = self.has_read_since(&reading);
        let Some(flight) = self.state.flight_mut().filter(|flight| flight.ticket == ticket) else {
            return;
        };
        if is_stale {
            self.tickets += 1;
            flight.ticket = Ticket(self.tickets);
            self.mark();
            return;
        }
        if let Found::Inputs(inputs) = &reading.found {
            flight.read = Some(inputs.clone());
        }
        self.keep(reading);
    }

    /// Processes the result of a load that was started at `began`. A superseded load has no effect.
    pub(super) fn land(
        &mut self,
        ticket: Ticket,
        loaded: Result<Keys, Denial>,
        began: SystemTime,
        chance: f64,
        now: Moment,
    ) {
        if self.state.flight_mut().is_none_or(|flight| flight.ticket != ticket) {
            return;
        }
        let (held, flight, failed, changed) = match mem::take(&mut self.state) {
            State::Loading { flight, failed } => (None, flight, failed, None),
            State::Refreshing { held, flight, failed, changed } => {
                (Some(held), flight, failed, changed)
            }
            // No other state has a flight.
            state => {
                self.state = state;
                return;
            }
        };
        let fresh = loaded.and_then(|keys| {
            let same = held.as_ref().is_some_and(|it| *it.credentials.expose_keys() == keys);
            let fresh = Credentials::new(keys, began, self.generation + u64::from(!same));
            let expired = "the source gave credentials that have expired: is the clock right?";
            match fresh.usable(now.wall) {
                true => Ok(Arc::new(fresh)),
                false => Err(Denial::new(Reason::CredentialsUnavailable, expired)),
            }
        });
        self.state = match &fresh {
            Ok(fresh) => {
                self.generation = fresh.generation();
                let due = Due::of(fresh, now.steady, chance);
                let credentials = Arc::clone(fresh);
                State::Fresh { held: LoadedKeys { credentials, due, of: flight.read.clone() } }
            }
            Err(denial) => {
                let of = flight.read.clone();
                let failed = Failed::after(failed.as_ref(), denial.clone(), of, chance, now);
                match held {
                    Some(held) => State::Degraded { held, failed, changed },
                    None => State::Failed { failed },
                }
            }
        };
        self.end_flight(flight, fresh, now);
        self.mark();
    }

    /// Processes a rejection: upstream refused a signature of this generation.
    pub(super) fn reject(&mut self, generation: u64, now: Moment) -> Rejection {
        if self.generation != generation {
            return Rejection::Known(self.generation);
        }
        let recently =
            self.forced.is_some_and(|forced| now.steady.duration_since(forced) < BETWEEN_FORCED);
        match &self.state {
            State::Loading { flight, .. } | State::Refreshing { flight, .. } => {
                Rejection::Wait(flight.landed.subscribe())
            }
            State::Ended { .. } => Rejection::Known(generation),
            _ if recently => Rejection::Known(generation),
            _ => {
                self.forced = Some(now.steady);
                Rejection::Wait(self.launch(now))
            }
        }
    }

    /// Drops the keys, because the profile no longer exists. A later load may bring others.
    pub(super) fn forget(&mut self, denial: Denial, now: Moment) {
        if matches!(self.state, State::Unloaded | State::Ended { .. }) {
            return;
        }
        let failed = Failed::after(None, denial.clone(), None, 0.0, now);
        self.drop_keys(State::Failed { failed }, denial, now);
    }

    /// Drops keys that their source may no longer stand for. A running load may bring others.
    fn disown(&mut self, denial: Denial, now: Moment) {
        match mem::take(&mut self.state) {
            State::Refreshing { flight, failed, .. } => {
                self.state = State::Loading { flight, failed };
                self.identity = KnownIdentity::default();
                self.mark();
            }
            state => {
                self.state = state;
                self.forget(denial, now);
            }
        }
    }

    /// Drops the keys permanently.
    pub(super) fn end(&mut self, now: Moment) {
        let detail = "the configuration has just changed";
        let denial = Denial::new(Reason::CredentialsUnavailable, detail);
        self.drop_keys(State::Ended { denial: denial.clone() }, denial, now);
    }

    /// Drops disowned keys, and starts a load that is due.
    pub(super) fn tick(&mut self, now: Moment) {
        let disowned = self.state.disowned().filter(|(at, _)| *at <= now.steady);
        if let Some(denial) = disowned.map(|(_, denial)| denial.clone()) {
            self.disown(denial, now);
        }
        let due = match &self.state {
            State::Fresh { held } => held.due.over(now.wall, now.steady),
            State::Degraded { held, failed, changed } => {
                // The load after a change may have failed.
                let due = held.due.over(now.wall, now.steady) || changed.is_some();
                due && !failed.is_final()
            }
            _ => false,
        };
        if due {
            // The outcome is stored in the state.
            drop(self.want(Asker::Background, now));
        }
    }

    /// The next step of the task until the next message.
    pub(super) fn step(&self, now: Moment) -> Step {
        let disowned = self.state.disowned();
        let disowned = disowned.map(|(at, _)| at.duration_since(now.steady).max(MIN_INTERVAL));
        let pause = match &self.state {
            State::Ended { .. } => return Step::End,
            State::Unloaded | State::Failed { .. } => return Step::Wait(None),
            State::Loading { flight, failed } => {
                return Step::Load(flight.ticket, effort(failed.as_ref(), false), None);
            }
            State::Refreshing { held, flight, failed, .. } => {
                let served = held.credentials.usable(now.wall);
                return Step::Load(flight.ticket, effort(failed.as_ref(), served), disowned);
            }
            State::Fresh { held } => held.due.left(now.wall, now.steady),
            State::Degraded { failed, .. } if failed.is_final() => CLOCK_INTERVAL,
            State::Degraded { held, failed, changed } => {
                let pause = pace::after_failed_refresh(failed.count, failed.chance);
                let left = pause.saturating_sub(now.steady.duration_since(failed.at));
                match changed {
                    Some(_) => left,
                    None => left.max(held.due.left(now.wall, now.steady)),
                }
            }
        };
        let pause = disowned.map_or(pause, |disowned| pause.min(disowned));
        Step::Wait(Some(pause.clamp(MIN_INTERVAL, CLOCK_INTERVAL)))
    }

    /// The status, if it has changed since the last call.
    pub(super) fn take_status(&mut self) -> Option<Status> {
        mem::take(&mut self.dirty).then(|| self.status())
    }

    /// Whether anything has changed for waiting tasks since the last call, with the outcome of a
    /// load that has ended.
    pub(super) fn take_notification(&mut self) -> Option<Option<Landing>> {
        mem::take(&mut self.notify).then(|| self.landing.take())
    }

    /// Processes AWS's answer about the identity of a key.
    pub(super) fn identify(&mut self, access_key_id: &str, arn: Option<String>) {
        self.identity.answer(access_key_id, arn);
        self.mark();
    }

    fn status(&self) -> Status {
        let failure = match &self.state {
            State::Loading { failed, .. } | State::Refreshing { failed, .. } => failed.as_ref(),
            State::Degraded { failed, .. } | State::Failed { failed } => Some(failed),
            State::Unloaded | State::Fresh { .. } | State::Ended { .. } => None,
        };
        let failure = failure.map(|failed| failed.denial.clone());
        let of_end = match &self.state {
            State::Ended { denial } => Some(denial.clone()),
            _ => None,
        };
        let token_file = match self.read.as_ref().map(|reading| &reading.found) {
            Some(Found::Inputs(inputs)) => inputs.token.clone(),
            _ => None,
        };
        Status {
            held: self.state.held().cloned(),
            failure: failure.or(of_end),
            generation: self.generation,
            about: self.read.as_ref().map(|reading| reading.about.clone()),
            token_file,
            identity_arn: self.identity.arn().to_owned(),
            touched: self.is_touched(),
            loading: matches!(self.state, State::Loading { .. } | State::Refreshing { .. }),
        }
    }

    /// Whether the credentials have ever been requested.
    fn is_touched(&self) -> bool {
        !matches!(self.state, State::Unloaded | State::Ended { .. })
    }

    /// The running load, or a new one.
    fn launch(&mut self, now: Moment) -> watch::Receiver<Outcome> {
        if let Some(flight) = self.state.flight_mut() {
            return flight.landed.subscribe();
        }
        let flight = self.flight(now);
        let running = flight.landed.subscribe();
        self.state = match mem::take(&mut self.state) {
            State::Failed { failed } => State::Loading { flight, failed: Some(failed) },
            State::Fresh { held } => {
                State::Refreshing { held, flight, failed: None, changed: None }
            }
            State::Degraded { held, failed, changed } => {
                State::Refreshing { held, flight, failed: Some(failed), changed }
            }
            State::Unloaded => State::Loading { flight, failed: None },
            // The first two have a flight, and no load is started for a dropped profile.
            other @ (State::Loading { .. } | State::Refreshing { .. } | State::Ended { .. }) => {
                other
            }
        };
        self.mark();
        running
    }

    fn flight(&mut self, now: Moment) -> Flight {
        self.tickets += 1;
        let (landed, _) = watch::channel(None);
        Flight { ticket: Ticket(self.tickets), since: now.steady, read: None, landed }
    }

    fn overtaken(&mut self, flight: Flight) -> Flight {
        self.tickets += 1;
        Flight { ticket: Ticket(self.tickets), read: None, ..flight }
    }

    fn end_flight(
        &mut self,
        flight: Flight,
        outcome: Result<Arc<Credentials>, Denial>,
        now: Moment,
    ) {
        let took = now.steady.duration_since(flight.since);
        self.landing = Some(Landing { landed: flight.landed, outcome, took });
    }

    fn drop_keys(&mut self, next: State, denial: Denial, now: Moment) {
        let before = mem::replace(&mut self.state, next);
        if let State::Loading { flight, .. } | State::Refreshing { flight, .. } = before {
            self.end_flight(flight, Err(denial), now);
        }
        self.identity = KnownIdentity::default();
        self.mark();
    }

    fn keep(&mut self, reading: Reading) {
        self.read = Some(reading);
        self.dirty = true;
    }

    fn mark(&mut self) {
        self.dirty = true;
        self.notify = true;
    }

    fn has_read_since(&self, reading: &Reading) -> bool {
        self.read.as_ref().is_some_and(|read| read.version > reading.version)
    }
}
