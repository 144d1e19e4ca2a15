//! The state in force, for all calls.
//!
//! Invariant: a reload replaces it as a whole.

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

/// Once the broker is about to end, calls wait this long for credentials, and for the rest of their message.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// What holds now: a reload puts another state in its place, as a whole.
pub(crate) struct Current {
    pub(super) state: ArcSwap<State>,
    /// Wakes those who wait, once another state is in its place.
    replaced: watch::Sender<()>,
    /// The configuration has changed, and has errors.
    pub(super) rejected: AtomicBool,
    pub(super) metrics: Arc<Metrics>,
    pub(super) audit: Arc<Audit>,
    pub(super) rates: Rates,
    pub(super) budget: Arc<Budget>,
    /// Of all endpoints; they outlive reloads.
    paces: Arc<Paces>,
    /// Ends the streams when the broker drains.
    pub(super) draining: watch::Receiver<bool>,
    /// When nobody waits any longer, for all calls in flight and whatever they wait for.
    last_moment: OnceLock<tokio::time::Instant>,
}

/// What all calls share.
pub(crate) struct State {
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// How fast signatures for each of these are given.
    pub(crate) lanes: Vec<Arc<Lane>>,
    pub(crate) policy: Policy,
    pub(crate) profiles: Profiles,
}

impl State {
    /// What its configuration has names for.
    fn names(&self) -> Names {
        let profiles = self.profiles.names().map(ToString::to_string).collect();
        let endpoints = self.endpoints.iter().map(|endpoint| endpoint.name.clone()).collect();
        let owned = |(rule, agent): (&str, &str)| (rule.to_owned(), agent.to_owned());
        Names { profiles, endpoints, rules: self.policy.rules_with_agents().map(owned).collect() }
    }

    /// How each endpoint is paced now, by name.
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

    /// The state of this moment; whoever needs it for longer holds it.
    pub(crate) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Puts another state in place of the one that holds. A call in flight is decided again by the new one
    /// before it is signed.
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

    /// Waits until another state is in the place of `state`.
    pub(super) async fn until_replaced(&self, state: &Arc<State>) {
        // Before the state is looked at: none is missed.
        let mut replaced = self.replaced.subscribe();
        while Arc::ptr_eq(state, &self.state()) {
            // The sender is here.
            let _ = replaced.changed().await;
        }
    }

    /// Records that a call was turned away before anything of its message was read.
    pub(crate) async fn turn_away(&self, peer: Option<&Peer>, denial: Denial) -> Status {
        self.metrics.decided("", ("", ""), Err(&denial));
        let Some(peer) = peer else { return status::of(&denial, None) };
        let mut record = self.audit.begin("call", peer, clock::now());
        record.deny(&denial);
        let noted = self.note_denial(&record, true).await;
        if noted {
            tracing::info!(peer = %peer.id(), id = record.id(), %denial, "turned away");
        }
        status::of(&denial, noted.then(|| record.id()))
    }

    /// Writes the record of a denial, or counts it.
    pub(super) async fn note_denial(&self, record: &Record, stranger: bool) -> bool {
        self.audit.write_denial(record, stranger, Instant::now(), clock::now()).await
    }

    /// Takes note of a configuration with errors.
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

    /// What those are told whom this broker answers no more.
    pub(crate) fn ending() -> Denial {
        Denial::new(Reason::BrokerEnding, "the broker is shutting down")
    }

    /// Waits for what may hang, a disk, a program or a caller, until the broker is about to end: whoever waits is told to ask again.
    ///
    /// # Errors
    /// Those of the work, and BROKER_ENDING.
    pub(crate) async fn unless_ending<T>(
        &self,
        work: impl Future<Output = Result<T, Denial>>,
    ) -> Result<T, Denial> {
        let ending = async {
            // Without a sender there is no end.
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

    /// All that is counted, for a collector.
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
