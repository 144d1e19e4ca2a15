//! The state in effect, for all calls.
//!
//! Invariant: a reload replaces the state as a whole.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tonic::Status;

use super::budget::Budget;
use super::recorder::Recorder;
use super::status;
use crate::audit::{Audit, Event as AuditEvent, Record};
use crate::clock;
use crate::endpoint::Endpoint;
use crate::error::{Denial, Reason};
use crate::metrics::{Metrics, Names};
use crate::pace::{Lane, Paces, View};
use crate::peer::Peer;
use crate::policy::{Policy, Rates};
use crate::profile::Profiles;

/// How long calls wait for credentials, and for the rest of their message, once the broker is
/// shutting down.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// The state in effect and what outlives it: a reload replaces the state as a whole.
pub(crate) struct Current {
    pub(super) state: ArcSwap<State>,
    /// Wakes the waiting calls after the state was replaced.
    replaced: watch::Sender<()>,
    /// The configuration has changed, and has errors.
    pub(super) rejected: AtomicBool,
    pub(super) metrics: Arc<Metrics>,
    pub(super) audit: Arc<Audit>,
    pub(super) rates: Rates,
    pub(super) budget: Arc<Budget>,
    /// The paces of all endpoints; they outlive reloads.
    paces: Arc<Paces>,
    /// Ends the streams when the broker drains.
    pub(super) draining: watch::Receiver<bool>,
    /// The deadline of all waiting calls once the broker drains.
    last_moment: OnceLock<tokio::time::Instant>,
}

/// The state that all calls share.
pub(crate) struct State {
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// The pace of each endpoint, in the same order.
    pub(crate) lanes: Vec<Arc<Lane>>,
    pub(crate) policy: Policy,
    pub(crate) profiles: Profiles,
}

impl State {
    /// The names in its configuration.
    fn names(&self) -> Names {
        let profiles = self.profiles.names().map(ToString::to_string).collect();
        let endpoints = self.endpoints.iter().map(|endpoint| endpoint.name.clone()).collect();
        let owned = |(rule, agent): (&str, &str)| (rule.to_owned(), agent.to_owned());
        Names { profiles, endpoints, rules: self.policy.rules_with_agents().map(owned).collect() }
    }

    /// The current pace of each endpoint, by name.
    fn paces(&self) -> Vec<(&str, View)> {
        let names = self.endpoints.iter().map(|endpoint| endpoint.name.as_str());
        names.zip(self.lanes.iter().map(|lane| lane.view())).collect()
    }
}

impl Current {
    pub(crate) fn new(
        state: State,
        paces: Arc<Paces>,
        recorder: Recorder,
        draining: watch::Receiver<bool>,
    ) -> Arc<Self> {
        let Recorder { audit, metrics } = recorder;
        metrics.reloaded(clock::now());
        Arc::new(Self {
            state: ArcSwap::from_pointee(state),
            replaced: watch::Sender::new(()),
            rejected: AtomicBool::new(false),
            metrics,
            audit,
            rates: Rates::new(Instant::now()),
            budget: Arc::default(),
            paces,
            draining,
            last_moment: OnceLock::new(),
        })
    }

    /// The current state; a caller that needs the same one for longer keeps the `Arc`.
    pub(crate) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Replaces the state. Calls in flight are decided again by the new state before they are signed.
    pub(crate) fn replace(&self, state: State) {
        let names = state.names();
        let old = self.state.swap(Arc::new(state));
        self.replaced.send_replace(());
        self.metrics.forget(&old.names(), &names);
        self.rejected.store(false, Ordering::Relaxed);
        self.metrics.reloaded(clock::now());
        self.audit.event(AuditEvent::Reload { accepted: true }, clock::now());
        self.state.load().profiles.succeed(&old.profiles);
    }

    /// Waits until `state` has been replaced.
    pub(super) async fn until_replaced(&self, state: &Arc<State>) {
        // Subscribed before the comparison, so that no change is missed.
        let mut replaced = self.replaced.subscribe();
        while Arc::ptr_eq(state, &self.state()) {
            // The sender can't be dropped: it belongs to `self`.
            let _ = replaced.changed().await;
        }
    }

    /// Records that a call was refused before its message was read.
    pub(crate) async fn turn_away(&self, peer: Option<&Peer>, denial: Denial) -> Status {
        self.metrics.decided("", ("", ""), Err(&denial));
        let Some(peer) = peer else { return status::of(&denial, None) };
        let mut record = self.audit.begin("call", peer, clock::now());
        record.deny(&denial);
        let is_recorded = self.record_denial(&record, true).await;
        if is_recorded {
            tracing::info!(peer = %peer.id(), id = record.id(), %denial, "turned away");
        }
        status::of(&denial, is_recorded.then(|| record.id()))
    }

    /// Writes the record of a denial, or only counts it during a flood.
    pub(super) async fn record_denial(&self, record: &Record, stranger: bool) -> bool {
        self.audit.write_denial(record, stranger, Instant::now(), clock::now()).await
    }

    /// Records that the new configuration has errors.
    pub(crate) fn reject(&self) {
        self.rejected.store(true, Ordering::Relaxed);
        self.audit.event(AuditEvent::Reload { accepted: false }, clock::now());
        self.state.load().profiles.announce();
    }

    pub(crate) fn audit(&self) -> &Audit {
        &self.audit
    }

    pub(crate) fn paces(&self) -> &Arc<Paces> {
        &self.paces
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// The denial for calls that a broker no longer answers while it shuts down.
    pub(crate) fn ending() -> Denial {
        Denial::new(Reason::BrokerEnding, "the broker is shutting down")
    }

    /// Runs work that may hang (a disk, a program or a caller) until the broker is about to end;
    /// then the caller is advised to try again.
    ///
    /// # Errors
    /// Those of the work, and BROKER_ENDING.
    pub(crate) async fn unless_ending<T>(
        &self,
        work: impl Future<Output = Result<T, Denial>>,
    ) -> Result<T, Denial> {
        let ending = async {
            // Without a sender the broker doesn't drain.
            if self.draining.clone().wait_for(|draining| *draining).await.is_err() {
                std::future::pending::<()>().await;
            }
            let now = tokio::time::Instant::now();
            tokio::time::sleep_until(*self.last_moment.get_or_init(|| now + LAST_WAIT)).await;
        };
        tokio::select! {
            biased;
            done = work => done,
            () = ending => {
                Err(Self::ending())
            }
        }
    }

    /// All metrics as text, for a collector.
    pub(crate) async fn metrics_text(&self, now: SystemTime) -> String {
        let state = self.state();
        let mut views = Vec::new();
        for name in state.profiles.names() {
            views.extend(state.profiles.worst(name, now).await.ok());
        }
        self.metrics.text(&views, &state.paces(), self.rejected(), &self.audit.health())
    }

    pub(crate) fn rejected(&self) -> bool {
        self.rejected.load(Ordering::Relaxed)
    }
}
