//! Manages the credentials of one profile: loads them once for all callers, reloads them in the
//! background before they expire, and serves them while they are valid.
//!
//! The state is one value ([`machine`]), behind a lock that is held only for a transition: never
//! for a load, a file or the network. The result of a message is published at once, as a whole, and
//! in the order of the transitions. One task carries out the next step of the state: it runs the
//! current load, and checks the clock. There is a lock instead of a message queue, because the keys
//! of a removed profile must be gone when the removal returns, however busy the workers are, and
//! because a queue could be filled.
//!
//! Invariant: signatures with fresh credentials, and lists of profiles, take no lock. A load is a
//! task of its own, so that it continues if its caller is cancelled, and a panic in it is a failed
//! load.

mod known_identity;
mod machine;
mod pace;
mod state;
mod status;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use aws_credential_types::Credentials as Keys;
use sigward_proto::v1::ProfileState;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::machine::{Machine, Rejection, Requested, Step};
use self::state::{Asker, Moment, Outcome, Ticket};
use self::status::Status;
use super::identity::account_of;
use super::load::{Effort, Load};
use super::reading::{About, Change, Reading, Taken};
use super::traceable::Traceable;
use crate::clock::Clock;
use crate::error::{Denial, Reason};
use crate::secret::Credentials;

/// The timeout of a load: a `credential_process` may hang.
const LOAD_DEADLINE: Duration = Duration::from_secs(60);

/// The credentials of one profile.
pub(super) struct Actor {
    source: Arc<dyn Load>,
    machine: Mutex<Machine>,
    /// The last published state.
    status: ArcSwap<Status>,
    changes: watch::Sender<()>,
    clock: Clock,
    /// Wakes the task.
    wake: Arc<Notify>,
    task: Once,
}

/// The visible state.
pub(super) struct View {
    pub(super) state: ProfileState,
    pub(super) failure: Option<Denial>,
    pub(super) expiry: Option<SystemTime>,
    pub(super) loaded: Option<SystemTime>,
    pub(super) generation: u64,
    /// The last reading of the files, if there is one.
    pub(super) about: Option<About>,
    /// The identity of the credentials if it was queried, else empty.
    pub(super) identity_arn: String,
}

impl Actor {
    pub(super) fn new(source: Arc<dyn Load>, changes: watch::Sender<()>, clock: Clock) -> Self {
        let (machine, status) = (Mutex::default(), ArcSwap::default());
        let (wake, task) = (Arc::default(), Once::new());
        Self { source, machine, status, changes, clock, wake, task }
    }

    /// Credentials that may be used at `now`.
    pub(super) async fn credentials(
        self: &Arc<Self>,
        now: SystemTime,
    ) -> Result<Arc<Credentials>, Denial> {
        // The keys aren't held while waiting for a load, because they may have to be dropped.
        let fresh = {
            let status = self.status.load();
            let held = status.usable(now);
            held.map(|held| {
                (Arc::clone(&held.credentials), status.is_due(held, now, Instant::now()))
            })
        };
        match fresh {
            Some((credentials, false)) => Ok(credentials),
            Some((credentials, true)) => {
                self.start();
                Ok(credentials)
            }
            None => match self.send(|machine, moment| machine.request(now, moment))? {
                Requested::Loaded(credentials) => Ok(credentials),
                Requested::Wait(flight) => wait(flight).await,
            },
        }
    }

    /// Starts a load in the background, unless one is running or has just failed.
    pub(super) fn start(self: &Arc<Self>) {
        // The outcome is stored in the state.
        drop(self.send(|machine, now| machine.want(Asker::Background, now)));
    }

    /// Reloads, because an input of the credentials has changed.
    pub(super) fn change(self: &Arc<Self>, change: Change) {
        self.send(|machine, now| machine.change(change, now));
    }

    /// Updates the state with a new reading of the files.
    pub(super) fn take_reading(self: &Arc<Self>, reading: Reading) -> Taken {
        self.send(|machine, now| machine.take_reading(reading, now))
    }

    /// Publishes the data of the files, unless they have been read for the profile before.
    pub(super) fn survey(self: &Arc<Self>, reading: Reading) {
        self.send(|machine, _| machine.survey(reading));
    }

    /// Drops the keys permanently, before it returns.
    pub(super) fn end(self: &Arc<Self>) {
        self.send(|machine, now| machine.end(now));
    }

    /// Reloads, because upstream refused a signature of this generation. Returns the generation to
    /// sign with, which is greater if the credentials have changed.
    pub(super) async fn reject(self: &Arc<Self>, generation: u64) -> Result<u64, Denial> {
        match self.send(|machine, now| machine.reject(generation, now)) {
            Rejection::Known(generation) => Ok(generation),
            Rejection::Wait(flight) => Ok(wait(flight).await?.generation()),
        }
    }

    /// Whether the credentials have ever been requested.
    pub(super) fn is_touched(&self) -> bool {
        self.status.load().touched
    }

    /// The token's file, which is watched in addition to the AWS files.
    pub(super) fn token_file(&self) -> Option<PathBuf> {
        self.status.load().token_file.clone()
    }

    /// Whether AWS can send apart the agents that use the profile, by the files.
    pub(super) fn traceable(&self) -> Option<Traceable> {
        self.status.load().about.as_ref().and_then(|about| about.traceable.clone())
    }

    /// Whether the files have been read for the profile.
    pub(super) fn is_surveyed(&self) -> bool {
        self.status.load().about.is_some()
    }

    /// The account of the credentials, if AWS has returned it.
    pub(super) fn account(&self) -> Option<String> {
        let status = self.status.load();
        let of_keys = status.held.as_ref().and_then(|held| held.credentials.account());
        account_of(&status.identity_arn).or_else(|| of_keys.map(str::to_owned))
    }

    /// The id of a key that never expires.
    pub(super) fn lasting_key(&self) -> Option<String> {
        let status = self.status.load();
        let held = status.held.as_ref().map(|held| &held.credentials);
        let lasting = held.filter(|credentials| credentials.expiry().is_none());
        lasting.map(|credentials| credentials.access_key_id().to_owned())
    }

    pub(super) fn view(&self, now: SystemTime) -> View {
        let status = self.status.load();
        let credentials = status.held.as_ref().map(|held| &held.credentials);
        View {
            state: status.state(now),
            failure: status.failure.clone(),
            expiry: credentials.and_then(|it| it.expiry()),
            loaded: credentials.map(|it| it.loaded()),
            generation: status.generation,
            about: status.about.clone(),
            identity_arn: status.identity_arn.clone(),
        }
    }

    /// Applies a message to the state, and carries out the consequences.
    fn send<T>(self: &Arc<Self>, message: impl FnOnce(&mut Machine, Moment) -> T) -> T {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let reply = message(&mut machine, self.now());
        if let Some(status) = machine.take_status() {
            self.status.store(Arc::new(status));
        }
        let notification = machine.take_notification();
        if let Some(Some(landing)) = &notification
            && landing.outcome.is_ok()
        {
            self.query_identity(&mut machine);
        }
        drop(machine);
        let Some(landing) = notification else { return reply };
        if let Some(landing) = landing {
            self.source.on_end(landing.took, landing.outcome.as_ref());
            landing.landed.send_replace(Some(landing.outcome));
        }
        self.changes.send_replace(());
        self.task.call_once(|| drop(tokio::spawn(run(Arc::downgrade(self)))));
        self.wake.notify_one();
        reply
    }

    /// Queries the identity of the current keys, once for each key, in the background.
    fn query_identity(self: &Arc<Self>, machine: &mut Machine) {
        let Some(held) = machine.state.held() else { return };
        let id = held.credentials.access_key_id().to_owned();
        if machine.identity.is_about(&id) {
            return;
        }
        let Some(asking) = self.source.identify(held.credentials.expose_keys()) else { return };
        let (this, asked_about) = (Arc::downgrade(self), id.clone());
        let task = tokio::spawn(async move {
            let arn = asking.await.ok();
            if let Some(this) = this.upgrade() {
                this.send(|machine, _| machine.identify(&asked_about, arn));
            }
        });
        machine.identity.ask(&id, task.abort_handle());
    }

    /// Starts a load, with a timeout.
    fn load(self: &Arc<Self>, ticket: Ticket, effort: Effort, now: SystemTime) -> Loading {
        let (source, this) = (Arc::clone(&self.source), Arc::downgrade(self));
        let on_read = Box::new(move |reading| {
            if let Some(this) = this.upgrade() {
                this.send(|machine, _| machine.take_read_of_load(ticket, reading));
            }
        });
        tokio::spawn(async move {
            let late = |_| Denial::new(Reason::CredentialsUnavailable, "the load took too long");
            let load = source.load(effort, now, on_read);
            tokio::time::timeout(LOAD_DEADLINE, load).await.map_err(late).flatten()
        })
    }

    fn now(&self) -> Moment {
        Moment { wall: self.clock.now(), steady: Instant::now() }
    }
}

type Loading = JoinHandle<Result<Keys, Denial>>;

/// The task of a profile: carries out the steps of its state, until the profile is dropped.
async fn run(actor: Weak<Actor>) {
    let mut flight: Option<(Ticket, SystemTime, Loading)> = None;
    loop {
        let Some(this) = actor.upgrade() else { return };
        let (wake, now) = (Arc::clone(&this.wake), this.now());
        match this.send(|machine, _| machine.step(now)) {
            Step::End => return,
            Step::Load(ticket, effort, look) => {
                // A superseded load continues without a receiver: cancelling it could lose a
                // refresh token that the server has just issued. It may also hang without blocking
                // anything.
                let running = flight.take().filter(|(of, ..)| *of == ticket);
                let begin = || (ticket, now.wall, this.load(ticket, effort, now.wall));
                let (_, began, load) = flight.insert(running.unwrap_or_else(begin));
                // The profile may be dropped during the load.
                drop(this);
                let loaded = tokio::select! {
                    loaded = load => loaded,
                    () = wake.notified() => continue,
                    () = tokio::time::sleep(look.unwrap_or_default()), if look.is_some() => {
                        let Some(this) = actor.upgrade() else { return };
                        this.send(Machine::tick);
                        continue;
                    }
                };
                let panicked = "the load ended in a panic: a bug, see the log for details";
                let panicked = |_| Denial::new(Reason::CredentialsUnavailable, panicked);
                let (loaded, began) = (loaded.map_err(panicked).flatten(), *began);
                flight = None;
                let Some(this) = actor.upgrade() else { return };
                let chance = this.clock.chance();
                this.send(|machine, now| machine.land(ticket, loaded, began, chance, now));
            }
            Step::Wait(pause) => {
                flight = None;
                drop(this);
                match pause {
                    Some(pause) => drop(tokio::time::timeout(pause, wake.notified()).await),
                    None => wake.notified().await,
                }
                let Some(this) = actor.upgrade() else { return };
                this.send(Machine::tick);
            }
        }
    }
}

/// Waits for the outcome of a running load.
async fn wait(mut flight: watch::Receiver<Outcome>) -> Result<Arc<Credentials>, Denial> {
    let outcome = flight.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
    outcome.unwrap_or_else(|| {
        Err(Denial::new(Reason::CredentialsUnavailable, "the load ended without an outcome"))
    })
}

impl Drop for Actor {
    fn drop(&mut self) {
        // Wakes the task, which then ends.
        self.wake.notify_one();
    }
}

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Actor").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
