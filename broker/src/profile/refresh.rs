//! One profile's credentials over time: loaded once however many ask, loaded again in the background
//! before they end, served as long as they are valid.
//!
//! ```text
//!            load ok                  half of life, a change, a rejection
//!  unloaded ────────▶ fresh ────────────────────────────────▶ refreshing
//!     │                 ▲ ◀──────────── load ok ────────────────┤ │ load failed
//!     │ load failed     └─────── load ok ─────── degraded ◀───────┘
//!     ▼                                            │ the end of life
//!  login_required, misconfigured ◀──────────────── expired
//! ```
//!
//! Invariant: the path of a signature with fresh credentials takes no lock. A load is a task of its
//! own, so that it survives whoever asked for it, and a panic in it is a failed load. Wall-clock time
//! decides about expiry, and may step; intervals are measured by the monotonic clock.

mod flight;
mod pace;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use futures_util::future::BoxFuture;
use sigward_proto::v1::{ProfileState, Reason};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::flight::{Failed, Flight, Outcome, Word, wait};
use self::pace::Due;
use crate::clock::Clock;
use crate::error::Denial;
use crate::secret::Credentials;

/// Nobody waits longer for a load: a `credential_process` may hang.
const LOAD_DEADLINE: Duration = Duration::from_secs(60);
/// After so long without an answer from their source, keys that it may not stand behind any more are dropped.
const DISOWNED: Duration = Duration::from_secs(60);
/// Between two loads that rejections force: a caller can't make the broker storm STS.
const BETWEEN_FORCED: Duration = Duration::from_secs(10);
/// The background looks at the clock at least so often: it may have stepped, or the machine slept.
const LOOK: Duration = Duration::from_secs(30);

/// How hard a load tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// A caller waits: a hiccup of the network is nothing to tell them.
    Waited,
    /// Once: there are valid credentials, or the load before failed too.
    Background,
}

/// What has changed of that which credentials are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// What the files say: they may be someone else's.
    Files,
    /// The sign-in behind them.
    Token,
}

/// Where credentials come from.
pub(super) trait Load: Send + Sync {
    /// Loads them anew, from the files up.
    fn load(
        &self,
        effort: Effort,
        now: SystemTime,
    ) -> BoxFuture<'_, Result<aws_credential_types::Credentials, Denial>>;

    /// Hears which ones sign from now on, if any.
    fn in_force(&self, _keys: Option<&aws_credential_types::Credentials>) {}

    /// Hears how a load ended, before those who wait for it.
    fn on_end(&self, _took: Duration, _outcome: Result<&Arc<Credentials>, &Denial>) {}
}

/// One profile's credentials.
pub(super) struct Refresh {
    source: Arc<dyn Load>,
    current: ArcSwapOption<Held>,
    flight: Mutex<Flight>,
    /// To the load that runs. It is sent with the flight locked.
    word: watch::Sender<Word>,
    changes: watch::Sender<()>,
    clock: Clock,
    /// Wakes the background task.
    wake: Arc<Notify>,
}

/// What the last good load brought.
struct Held {
    credentials: Arc<Credentials>,
    due: Due,
}

/// What can be told from outside.
pub(super) struct Status {
    pub(super) state: ProfileState,
    pub(super) failure: Option<Denial>,
    pub(super) expiry: Option<SystemTime>,
    pub(super) loaded: Option<SystemTime>,
    pub(super) generation: u64,
}

impl Refresh {
    pub(super) fn new(source: Arc<dyn Load>, changes: watch::Sender<()>, clock: Clock) -> Self {
        let (current, flight) = (ArcSwapOption::empty(), Mutex::default());
        let (word, wake) = (watch::Sender::new(Word::Again), Arc::default());
        Self { source, current, flight, word, changes, clock, wake }
    }

    /// Credentials that may sign at `now`.
    pub(super) async fn credentials(
        self: &Arc<Self>,
        now: SystemTime,
    ) -> Result<Arc<Credentials>, Denial> {
        let current = self.current.load_full();
        if let Some(held) = current.filter(|held| held.credentials.usable(now)) {
            if held.due.asked(now) {
                self.start();
            }
            return Ok(Arc::clone(&held.credentials));
        }
        wait(self.join(pace::after_failure)?).await
    }

    /// Starts a load that nobody waits for, unless one runs or has just failed.
    pub(super) fn start(self: &Arc<Self>) {
        // The outcome is kept, in `current` or in `failed`.
        drop(self.join(pace::after_failed_refresh));
    }

    /// Loads again now: something has changed that the credentials are made of.
    pub(super) fn reload(self: &Arc<Self>, change: Change) {
        let mut flight = self.flight();
        if flight.ended {
            return;
        }
        flight.changed(change);
        if flight.running().is_some() {
            self.word.send_replace(Word::Again);
        } else {
            drop(self.launch(&mut flight));
        }
    }

    /// Drops the keys: the profile isn't there any more. A later load may bring others.
    pub(super) fn forget(&self, denial: Denial) {
        let mut flight = self.flight();
        flight.failed = None;
        flight.failed(denial, 0.0);
        self.word.send_replace(Word::Gone);
        self.current.store(None);
        self.source.in_force(None);
        drop(flight);
        self.changes.send_replace(());
    }

    /// Drops the keys for good.
    pub(super) fn end(&self) {
        self.flight().ended = true;
        let detail = "the configuration has just changed";
        self.forget(Denial::new(Reason::CredentialsUnavailable, detail));
        self.wake.notify_one();
    }

    /// Whether anyone has asked for the credentials yet.
    pub(super) fn touched(&self) -> bool {
        let flight = self.flight();
        flight.running.is_some() || flight.failed.is_some() || flight.generation > 0
    }

    /// Upstream refused a signature of this generation. Loads again, and gives the generation to sign
    /// with: it is greater if the load brought other credentials.
    pub(super) async fn reject(self: &Arc<Self>, generation: u64) -> Result<u64, Denial> {
        let flight = {
            let mut flight = self.flight();
            if flight.generation != generation {
                return Ok(flight.generation);
            }
            let recently = flight.forced.is_some_and(|forced| forced.elapsed() < BETWEEN_FORCED);
            match flight.running() {
                Some(running) => running,
                None if recently || flight.ended => return Ok(generation),
                None => {
                    flight.forced = Some(Instant::now());
                    self.launch(&mut flight)
                }
            }
        };
        Ok(wait(flight).await?.generation())
    }

    pub(super) fn status(&self, now: SystemTime) -> Status {
        let mut flight = self.flight();
        let loading = flight.running().is_some();
        let failure = flight.failed.as_ref().map(|failed| failed.denial.clone());
        let current = self.current.load_full();
        let usable = current.as_ref().is_some_and(|held| held.credentials.usable(now));
        let state = match (usable, loading, failure.as_ref().map(Denial::reason)) {
            (true, true, _) => ProfileState::Refreshing,
            (true, false, Some(_)) => ProfileState::Degraded,
            (true, false, None) => ProfileState::Fresh,
            (false, true, _) => ProfileState::Loading,
            (false, false, Some(Reason::LoginRequired)) => ProfileState::LoginRequired,
            (false, false, Some(reason)) if reason != Reason::CredentialsUnavailable => {
                ProfileState::Misconfigured
            }
            (false, false, _) if current.is_some() => ProfileState::Expired,
            (false, false, _) => ProfileState::Unloaded,
        };
        let expiry = current.as_ref().and_then(|held| held.credentials.expiry());
        let loaded = current.as_ref().map(|held| held.credentials.loaded());
        Status { state, failure, expiry, loaded, generation: flight.generation }
    }

    /// The load that runs, or a new one, or the failure of one whose `pause` isn't over.
    fn join(
        self: &Arc<Self>,
        pause: fn(count: u32, chance: f64) -> Duration,
    ) -> Result<watch::Receiver<Outcome>, Denial> {
        let mut flight = self.flight();
        if let Some(running) = flight.running() {
            return Ok(running);
        }
        match &flight.failed {
            Some(failed)
                if flight.ended || failed.at.elapsed() < pause(failed.count, failed.chance) =>
            {
                Err(failed.denial.clone())
            }
            _ => Ok(self.launch(&mut flight)),
        }
    }

    fn launch(self: &Arc<Self>, flight: &mut Flight) -> watch::Receiver<Outcome> {
        let (landed, running) = watch::channel(None);
        flight.running = Some(running.clone());
        let mut word = self.word.subscribe();
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let started = Instant::now();
            let outcome = loop {
                let now = this.clock.now();
                // A load that was overtaken goes on, and nobody listens: cut off, it could lose a refresh token that
                // the server has just given out. It may also hang, and nobody waits for that.
                let load = tokio::spawn(this.load(now));
                let loaded = tokio::select! {
                    loaded = load => Some(loaded.unwrap_or_else(|_| {
                        let panicked = "the load ended in a panic: a bug, of which the log says more";
                        Err(Denial::new(Reason::CredentialsUnavailable, panicked))
                    })),
                    _ = word.changed() => None,
                };
                if let Some(outcome) = this.land(loaded, now, &mut word) {
                    break outcome;
                }
            };
            this.source.on_end(started.elapsed(), outcome.as_ref());
            landed.send_replace(Some(outcome));
            this.changes.send_replace(());
            this.wake.notify_one();
        });
        if !flight.kept {
            flight.kept = true;
            tokio::spawn(keep(Arc::downgrade(self)));
        }
        self.changes.send_replace(());
        running
    }

    /// One load, which ends in time.
    fn load(
        &self,
        now: SystemTime,
    ) -> impl Future<Output = Result<aws_credential_types::Credentials, Denial>> + use<> {
        let served = self.current.load().as_ref().is_some_and(|held| held.credentials.usable(now));
        let failing = self.flight().failed.as_ref().is_some_and(|failed| failed.count > 0);
        let effort = if served || failing { Effort::Background } else { Effort::Waited };
        let source = Arc::clone(&self.source);
        async move {
            let late = |_| Denial::new(Reason::CredentialsUnavailable, "the load took too long");
            let loaded = tokio::time::timeout(LOAD_DEADLINE, source.load(effort, now)).await;
            loaded.map_err(late).flatten()
        }
    }

    /// Takes over the outcome of a load, or says that it has to be done again. None has been overtaken.
    fn land(
        &self,
        loaded: Option<Result<aws_credential_types::Credentials, Denial>>,
        now: SystemTime,
        word: &mut watch::Receiver<Word>,
    ) -> Outcome {
        let mut flight = self.flight();
        let loaded = loaded.filter(|_| !word.has_changed().unwrap_or_default());
        let Some(loaded) = loaded else {
            return match *word.borrow_and_update() {
                Word::Again => None,
                Word::Gone => {
                    flight.running = None;
                    let gone = flight.failed.as_ref().map(|failed| failed.denial.clone());
                    Some(Err(gone.unwrap_or_else(|| {
                        let detail = "the keys were dropped meanwhile";
                        Denial::new(Reason::CredentialsUnavailable, detail)
                    })))
                }
            };
        };
        flight.running = None;
        let fresh = loaded.and_then(|keys| {
            let current = self.current.load();
            let same = |held: &Held| *held.credentials.expose_keys() == keys;
            let same = current.as_ref().is_some_and(|held| same(held));
            let generation = flight.generation + u64::from(!same);
            let fresh = Credentials::new(keys, now, generation);
            let expired = "the source gave credentials that have expired: is the clock right?";
            if fresh.usable(self.clock.now()) {
                Ok(Arc::new(fresh))
            } else {
                Err(Denial::new(Reason::CredentialsUnavailable, expired))
            }
        });
        match &fresh {
            Ok(fresh) => {
                flight.generation = fresh.generation();
                flight.failed = None;
                flight.changed = None;
                self.source.in_force(Some(fresh.expose_keys()));
                let due = Due::of(fresh, self.clock.chance());
                self.current.store(Some(Arc::new(Held { credentials: Arc::clone(fresh), due })));
            }
            Err(denial) => flight.failed(denial.clone(), self.clock.chance()),
        }
        Some(fresh)
    }

    /// When the background has to look again, at the latest.
    fn pause(&self) -> Duration {
        let flight = self.flight();
        let current = self.current.load();
        let Some(held) = current.as_ref() else { return LOOK };
        let pause = match &flight.failed {
            _ if flight.running.is_some() => LOOK,
            Some(failed) => {
                let pause = pace::after_failed_refresh(failed.count, failed.chance);
                pause.saturating_sub(failed.at.elapsed())
            }
            None => held.due.left(self.clock.now()),
        };
        // Never in a circle, whatever the clocks say.
        pause.clamp(Duration::from_millis(100), LOOK)
    }

    /// Whether the background should load.
    fn wants_load(&self) -> bool {
        let flight = self.flight();
        let current = self.current.load();
        let Some(held) = current.as_ref() else { return false };
        // What a change was to bring may have failed to come.
        let due = held.due.over(self.clock.now()) || flight.changed.is_some();
        let hopeless = |failed: &Failed| {
            // Until a person acts; then the files change, or someone asks.
            !matches!(
                failed.denial.reason(),
                Reason::CredentialsUnavailable
                    | Reason::ProfileMisconfigured
                    | Reason::NoCredentials
            )
        };
        due && !flight.failed.as_ref().is_some_and(hopeless)
    }

    /// Why keys are served no more that would still sign: for long now their source gives none, and they never end,
    /// or it isn't what they were made of. A file that is being written is right again sooner.
    fn disowned(&self) -> Option<Denial> {
        let flight = self.flight();
        let current = self.current.load();
        let unending = current.as_ref()?.credentials.expiry().is_none();
        let failed = flight.failed.as_ref()?;
        let (since, disowned) = match flight.changed {
            // Also where nobody can say what the new ones would be: the old ones aren't those that are asked for.
            Some((Change::Files, since)) => (since, true),
            Some((Change::Token, _)) => (failed.since, !failed.passes()),
            None => (failed.since, unending && !failed.passes()),
        };
        (disowned && since.elapsed() >= DISOWNED).then(|| failed.denial.clone())
    }

    fn flight(&self) -> MutexGuard<'_, Flight> {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The background task of one profile: loads again when it is due, without any request, as long as the
/// profile is there.
async fn keep(refresh: Weak<Refresh>) {
    loop {
        let Some(this) = refresh.upgrade() else { return };
        if this.flight().ended {
            return;
        }
        let (pause, wake) = (this.pause(), Arc::clone(&this.wake));
        // The profile may go meanwhile.
        drop(this);
        drop(tokio::time::timeout(pause, wake.notified()).await);
        let Some(this) = refresh.upgrade() else { return };
        if this.wants_load() {
            this.start();
        }
        if let Some(denial) = this.disowned() {
            this.forget(denial);
        }
    }
}

impl fmt::Debug for Refresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refresh").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
