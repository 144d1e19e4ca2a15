//! One profile's credentials over time: loaded once however many ask, loaded again before they end,
//! served as long as they are valid.
//!
//! Invariant: the path of a signature with fresh credentials takes no lock. A load is a task of its
//! own, so that it survives whoever asked for it. Wall-clock time is an argument (it decides about
//! expiry, and may step); intervals between loads are measured by the monotonic clock.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use futures_util::future::BoxFuture;
use sigward_proto::v1::{ProfileState, Reason};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Denial;
use crate::secret::Credentials;

/// Nobody waits longer for a load: a `credential_process` may hang.
const LOAD_DEADLINE: Duration = Duration::from_secs(60);
/// A failure is answered from memory for so long: a failing profile isn't hammered.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The same while valid credentials are served anyway.
const AFTER_FAILED_REFRESH: Duration = Duration::from_secs(30);
/// Between two loads that rejections force: a caller can't make the broker storm STS.
const BETWEEN_FORCED: Duration = Duration::from_secs(10);
/// How long credentials without an expiry are taken for current.
const UNEXPIRING: Duration = Duration::from_secs(60);

/// Who needs the outcome of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// A caller waits.
    Waited,
    /// Nobody does: there are valid credentials.
    Background,
}

/// Where credentials come from.
pub(super) trait Load: Send + Sync {
    /// Loads them anew, from the files up.
    fn load(
        &self,
        effort: Effort,
        now: SystemTime,
    ) -> BoxFuture<'_, Result<aws_credential_types::Credentials, Denial>>;
}

/// One profile's credentials.
pub(super) struct Refresh {
    source: Arc<dyn Load>,
    current: ArcSwapOption<Credentials>,
    flight: Mutex<Flight>,
    changes: watch::Sender<()>,
}

type Outcome = Option<Result<Arc<Credentials>, Denial>>;

#[derive(Default)]
struct Flight {
    /// The load that is on its way.
    running: Option<watch::Receiver<Outcome>>,
    /// When the last load failed, and how; nothing after a success.
    failed: Option<(Instant, Denial)>,
    /// When the last load was forced.
    forced: Option<Instant>,
    generation: u64,
}

/// What can be told from outside.
pub(super) struct Status {
    pub(super) state: ProfileState,
    pub(super) failure: Option<Denial>,
    pub(super) expiry: Option<SystemTime>,
    pub(super) generation: u64,
}

impl Refresh {
    pub(super) fn new(source: Arc<dyn Load>, changes: watch::Sender<()>) -> Self {
        Self { source, current: ArcSwapOption::empty(), flight: Mutex::default(), changes }
    }

    /// Credentials that may sign at `now`.
    pub(super) async fn credentials(
        self: &Arc<Self>,
        now: SystemTime,
    ) -> Result<Arc<Credentials>, Denial> {
        if let Some(current) = self.current.load_full().filter(|current| current.usable(now)) {
            if current.due(UNEXPIRING) <= now {
                self.start(now);
            }
            return Ok(current);
        }
        wait(self.join(now, AFTER_FAILURE)?).await
    }

    /// Starts a load that nobody waits for, unless one runs or has just failed.
    pub(super) fn start(self: &Arc<Self>, now: SystemTime) {
        // The outcome is kept, in `current` or in `failed`.
        drop(self.join(now, AFTER_FAILED_REFRESH));
    }

    /// Loads again now: something has changed that the credentials are made of.
    pub(super) fn reload(self: &Arc<Self>, now: SystemTime) {
        let mut flight = self.flight();
        flight.failed = None;
        drop(self.launch(&mut flight, now));
    }

    /// Upstream refused a signature of this generation. Loads again, and gives the generation to sign
    /// with: it is greater if the load brought other credentials.
    pub(super) async fn reject(
        self: &Arc<Self>,
        generation: u64,
        now: SystemTime,
    ) -> Result<u64, Denial> {
        let flight = {
            let mut flight = self.flight();
            if flight.generation != generation {
                return Ok(flight.generation);
            }
            let recently = flight.forced.is_some_and(|forced| forced.elapsed() < BETWEEN_FORCED);
            match flight.running() {
                Some(running) => running,
                None if recently => return Ok(generation),
                None => {
                    flight.forced = Some(Instant::now());
                    self.launch(&mut flight, now)
                }
            }
        };
        Ok(wait(flight).await?.generation())
    }

    pub(super) fn status(&self, now: SystemTime) -> Status {
        let mut flight = self.flight();
        let loading = flight.running().is_some();
        let failure = flight.failed.as_ref().map(|(_, denial)| denial.clone());
        let current = self.current.load_full();
        let usable = current.as_ref().is_some_and(|current| current.usable(now));
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
        let expiry = current.as_ref().and_then(|current| current.expiry());
        Status { state, failure, expiry, generation: flight.generation }
    }

    /// The load that runs, or a new one, or the failure of one that ended less than `pause` ago.
    fn join(
        self: &Arc<Self>,
        now: SystemTime,
        pause: Duration,
    ) -> Result<watch::Receiver<Outcome>, Denial> {
        let mut flight = self.flight();
        if let Some(running) = flight.running() {
            return Ok(running);
        }
        match &flight.failed {
            Some((at, denial)) if at.elapsed() < pause => Err(denial.clone()),
            _ => Ok(self.launch(&mut flight, now)),
        }
    }

    fn launch(self: &Arc<Self>, flight: &mut Flight, now: SystemTime) -> watch::Receiver<Outcome> {
        let (landed, running) = watch::channel(None);
        flight.running = Some(running.clone());
        let this = Arc::clone(self);
        let served = self.current.load().as_ref().is_some_and(|current| current.usable(now));
        let effort = if served { Effort::Background } else { Effort::Waited };
        tokio::spawn(async move {
            let loaded = tokio::time::timeout(LOAD_DEADLINE, this.source.load(effort, now)).await;
            let late = |_| Denial::new(Reason::CredentialsUnavailable, "the load took too long");
            let outcome = this.land(loaded.map_err(late).flatten(), now);
            landed.send_replace(Some(outcome));
            this.changes.send_replace(());
        });
        self.changes.send_replace(());
        running
    }

    /// Takes over the outcome of a load.
    fn land(
        &self,
        loaded: Result<aws_credential_types::Credentials, Denial>,
        now: SystemTime,
    ) -> Result<Arc<Credentials>, Denial> {
        let mut flight = self.flight();
        flight.running = None;
        let fresh = loaded.and_then(|keys| {
            let current = self.current.load();
            let same = current.as_ref().is_some_and(|current| *current.expose_keys() == keys);
            let generation = flight.generation + u64::from(!same);
            let fresh = Credentials::new(keys, now, generation);
            let expired = "the source gave credentials that have expired";
            if fresh.usable(now) {
                Ok(Arc::new(fresh))
            } else {
                Err(Denial::new(Reason::CredentialsUnavailable, expired))
            }
        });
        match &fresh {
            Ok(fresh) => {
                flight.generation = fresh.generation();
                flight.failed = None;
                self.current.store(Some(Arc::clone(fresh)));
            }
            Err(denial) => flight.failed = Some((Instant::now(), denial.clone())),
        }
        fresh
    }

    fn flight(&self) -> MutexGuard<'_, Flight> {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    /// The load that runs. One whose task died without an outcome doesn't.
    fn running(&mut self) -> Option<watch::Receiver<Outcome>> {
        let alive = self.running.take().filter(|running| running.has_changed().is_ok());
        self.running.clone_from(&alive);
        alive
    }
}

async fn wait(mut flight: watch::Receiver<Outcome>) -> Result<Arc<Credentials>, Denial> {
    let outcome = flight.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
    outcome.unwrap_or_else(|| {
        Err(Denial::new(Reason::CredentialsUnavailable, "the load ended without an outcome"))
    })
}

impl fmt::Debug for Refresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refresh").field("current", &self.current).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
