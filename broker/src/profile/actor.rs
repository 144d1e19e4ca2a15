//! One profile's credentials over time: loaded once however many ask, loaded again in the background
//! before they end, served as long as they are valid.
//!
//! The state is one value ([`machine`]), behind a lock that is held for a transition alone: no load, no file and no
//! network is waited for under it. What a message made of it is published at once, as a whole, and in the order of the
//! transitions. One task does what the state says is to be done next: it runs the one load that counts, and looks at the
//! clock. A lock, and no queue of messages, since the keys of a profile that is removed must be gone when the removal
//! returns, however much the workers have to do, and since what nobody can put into a queue can't fill one.
//!
//! Invariant: the path of a signature with fresh credentials takes no lock, nor does whoever lists the profiles. A load is
//! a task of its own, so that it survives whoever asked for it, and a panic in it is a failed load.

mod machine;
mod pace;
mod state;
mod status;
mod whose;

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

use self::machine::{Machine, Rejection, Step};
use self::state::{Asker, Moment, Outcome, Ticket};
use self::status::Status;
use super::identity::account_of;
use super::load::{Effort, Load};
use super::reading::{About, Change, Reading, Taken};
use super::traceable::Traceable;
use crate::clock::Clock;
use crate::error::{Denial, Reason};
use crate::secret::Credentials;

/// Nobody waits longer for a load: a `credential_process` may hang.
const LOAD_DEADLINE: Duration = Duration::from_secs(60);

/// One profile's credentials.
pub(super) struct Actor {
    source: Arc<dyn Load>,
    machine: Mutex<Machine>,
    /// The state as it was published last.
    status: ArcSwap<Status>,
    changes: watch::Sender<()>,
    clock: Clock,
    /// Wakes the task.
    wake: Arc<Notify>,
    task: Once,
}

/// What can be told from outside.
pub(super) struct View {
    pub(super) state: ProfileState,
    pub(super) failure: Option<Denial>,
    pub(super) expiry: Option<SystemTime>,
    pub(super) loaded: Option<SystemTime>,
    pub(super) generation: u64,
    /// What the files said when they were read last; nothing before that.
    pub(super) about: Option<About>,
    /// Whose the credentials are, where that was asked; else empty.
    pub(super) identity_arn: String,
}

impl Actor {
    pub(super) fn new(source: Arc<dyn Load>, changes: watch::Sender<()>, clock: Clock) -> Self {
        let (machine, status) = (Mutex::default(), ArcSwap::default());
        let (wake, task) = (Arc::default(), Once::new());
        Self { source, machine, status, changes, clock, wake, task }
    }

    /// Credentials that may sign at `now`.
    pub(super) async fn credentials(
        self: &Arc<Self>,
        now: SystemTime,
    ) -> Result<Arc<Credentials>, Denial> {
        // Whoever waits for a load holds no keys meanwhile that may have to go.
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
            None => wait(self.tell(|machine, now| machine.want(Asker::Caller, now))?).await,
        }
    }

    /// Starts a load that nobody waits for, unless one runs or has just failed.
    pub(super) fn start(self: &Arc<Self>) {
        // The outcome is kept in the state.
        drop(self.tell(|machine, now| machine.want(Asker::Nobody, now)));
    }

    /// Loads again now: an input of the credentials has changed.
    pub(super) fn change(self: &Arc<Self>, change: Change) {
        self.tell(|machine, now| machine.change(change, now));
    }

    /// Takes over what the files say now.
    pub(super) fn take_reading(self: &Arc<Self>, reading: Reading) -> Taken {
        self.tell(|machine, now| machine.take_reading(reading, now))
    }

    /// Shows what the files say, unless somebody has read them for the profile before.
    pub(super) fn survey(self: &Arc<Self>, reading: Reading) {
        self.tell(|machine, _| machine.survey(reading));
    }

    /// Drops the keys for good, before it returns.
    pub(super) fn end(self: &Arc<Self>) {
        self.tell(|machine, now| machine.end(now));
    }

    /// Upstream refused a signature of this generation. Loads again, and gives the generation to sign
    /// with: it is greater if the load brought other credentials.
    pub(super) async fn reject(self: &Arc<Self>, generation: u64) -> Result<u64, Denial> {
        match self.tell(|machine, now| machine.reject(generation, now)) {
            Rejection::Known(generation) => Ok(generation),
            Rejection::Wait(flight) => Ok(wait(flight).await?.generation()),
        }
    }

    /// Whether anyone has asked for the credentials yet.
    pub(super) fn is_touched(&self) -> bool {
        self.status.load().touched
    }

    /// The token's file, whose changes count for this profile beside those of the AWS files.
    pub(super) fn token_file(&self) -> Option<PathBuf> {
        self.status.load().token_file.clone()
    }

    /// Whether AWS can tell agents apart that use it, as far as the files tell.
    pub(super) fn traceable(&self) -> Option<Traceable> {
        self.status.load().about.as_ref().and_then(|about| about.traceable.clone())
    }

    /// Whether the files have been read for it.
    pub(super) fn is_surveyed(&self) -> bool {
        self.status.load().about.is_some()
    }

    /// The account that the credentials belong to, as far as AWS has said.
    pub(super) fn account(&self) -> Option<String> {
        let status = self.status.load();
        let of_keys = status.held.as_ref().and_then(|held| held.credentials.account());
        account_of(&status.identity_arn).or_else(|| of_keys.map(str::to_owned))
    }

    /// The id of a key that stays the same.
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

    /// Hands a message to the state, and does what follows from it.
    fn tell<T>(self: &Arc<Self>, message: impl FnOnce(&mut Machine, Moment) -> T) -> T {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let reply = message(&mut machine, self.now());
        if let Some(status) = machine.take_status() {
            self.status.store(Arc::new(status));
        }
        let news = machine.take_news();
        if let Some(Some(landing)) = &news
            && landing.outcome.is_ok()
        {
            self.ask_whose(&mut machine);
        }
        drop(machine);
        let Some(landing) = news else { return reply };
        if let Some(landing) = landing {
            self.source.on_end(landing.took, landing.outcome.as_ref());
            landing.landed.send_replace(Some(landing.outcome));
        }
        self.changes.send_replace(());
        self.task.call_once(|| drop(tokio::spawn(run(Arc::downgrade(self)))));
        self.wake.notify_one();
        reply
    }

    /// Asks whose the keys in force are, once for each. Nobody waits for the answer.
    fn ask_whose(self: &Arc<Self>, machine: &mut Machine) {
        let Some(held) = machine.state.held() else { return };
        let id = held.credentials.access_key_id().to_owned();
        if machine.whose.is_about(&id) {
            return;
        }
        let Some(asking) = self.source.identify(held.credentials.expose_keys()) else { return };
        let (this, asked_about) = (Arc::downgrade(self), id.clone());
        let task = tokio::spawn(async move {
            let arn = asking.await.ok();
            if let Some(this) = this.upgrade() {
                this.tell(|machine, _| machine.identify(&asked_about, arn));
            }
        });
        machine.whose.ask(&id, task.abort_handle());
    }

    /// Begins a load, which ends in time.
    fn load(self: &Arc<Self>, ticket: Ticket, effort: Effort, now: SystemTime) -> Loading {
        let (source, this) = (Arc::clone(&self.source), Arc::downgrade(self));
        let on_read = Box::new(move |reading| {
            if let Some(this) = this.upgrade() {
                this.tell(|machine, _| machine.take_read_of_load(ticket, reading));
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

/// The task of one profile: does what its state says is to be done, as long as the profile is there.
async fn run(actor: Weak<Actor>) {
    let mut flight: Option<(Ticket, SystemTime, Loading)> = None;
    loop {
        let Some(this) = actor.upgrade() else { return };
        let (wake, now) = (Arc::clone(&this.wake), this.now());
        match this.tell(|machine, _| machine.step(now)) {
            Step::End => return,
            Step::Load(ticket, effort, look) => {
                // One that was overtaken goes on, and nobody listens: cut off, it could lose a refresh token that the
                // server has just given out. It may also hang, and nobody waits for that.
                let running = flight.take().filter(|(of, ..)| *of == ticket);
                let begin = || (ticket, now.wall, this.load(ticket, effort, now.wall));
                let (_, began, load) = flight.insert(running.unwrap_or_else(begin));
                // The profile may go meanwhile.
                drop(this);
                let loaded = tokio::select! {
                    loaded = load => loaded,
                    () = wake.notified() => continue,
                    () = tokio::time::sleep(look.unwrap_or_default()), if look.is_some() => {
                        let Some(this) = actor.upgrade() else { return };
                        this.tell(Machine::tick);
                        continue;
                    }
                };
                let panicked = "the load ended in a panic: a bug, of which the log says more";
                let panicked = |_| Denial::new(Reason::CredentialsUnavailable, panicked);
                let (loaded, began) = (loaded.map_err(panicked).flatten(), *began);
                flight = None;
                let Some(this) = actor.upgrade() else { return };
                let chance = this.clock.chance();
                this.tell(|machine, now| machine.land(ticket, loaded, began, chance, now));
            }
            Step::Wait(pause) => {
                flight = None;
                drop(this);
                match pause {
                    Some(pause) => drop(tokio::time::timeout(pause, wake.notified()).await),
                    None => wake.notified().await,
                }
                let Some(this) = actor.upgrade() else { return };
                this.tell(Machine::tick);
            }
        }
    }
}

/// The outcome of a load that runs.
async fn wait(mut flight: watch::Receiver<Outcome>) -> Result<Arc<Credentials>, Denial> {
    let outcome = flight.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
    outcome.unwrap_or_else(|| {
        Err(Denial::new(Reason::CredentialsUnavailable, "the load ended without an outcome"))
    })
}

impl Drop for Actor {
    fn drop(&mut self) {
        // The task has nothing to do any more.
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
