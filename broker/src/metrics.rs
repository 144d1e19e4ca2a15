//! The metrics of the broker, in the format of Prometheus.
//!
//! Invariant: labels are names in the current configuration and in the contract. A caller's text is
//! never a label, because it could fill the collector's memory. Names that only an earlier
//! configuration had are dropped. A peer is a label while it is connected, if a rule matches it:
//! their number is bounded.

mod audit;
mod outcomes;
mod paces;
mod peers;
mod phases;
mod profiles;
mod tls;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use self::audit::Audit;
use self::paces::Paces;
pub use self::peers::Peers;
pub use self::phases::Phase;
use self::phases::Phases;
use self::profiles::Profiles;
pub use self::tls::Handshake;
use self::tls::Tls;
use crate::audit::Health;
use crate::error::Denial;
use crate::pace;
use crate::profile::View;

/// The outcome of a decision with a signature.
const SIGNED: &str = "signed";

/// All metrics of a process; they outlive reloads.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    signatures: Family<Decision, Counter>,
    phases: Phases,
    profiles: Profiles,
    rejected: Gauge,
    refused: Family<Refusal, Counter>,
    paces: Paces,
    reloaded: Gauge,
    audit: Audit,
    /// Connections of callers that a rule matches.
    pub connections: Gauge,
    /// The same connections by peer.
    pub peers: Peers,
    tls: Tls,
    /// Connections of other callers.
    pub strangers: Gauge,
    /// Calls in progress.
    pub calls: Gauge,
    /// Allows one collector at a time, because each one fills in the current profiles.
    collecting: Mutex<()>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decision {
    profile: String,
    rule: String,
    /// The agent of the rule.
    agent: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusal {
    what: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// The names of a configuration that are labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The profiles.
    pub profiles: BTreeSet<String>,
    /// The rules, each with its agent, which may be empty.
    pub rules: BTreeSet<(String, String)>,
    /// The endpoints.
    pub endpoints: BTreeSet<String>,
}

/// A gauge without labels.
fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sigward");
        let signatures = Family::default();
        let help = "Requests for signatures as they were answered, by profile, rule, the rule's agent, and outcome: signed, or the reason of the denial";
        registry.register("signatures", help, signatures.clone());
        let phases = Phases::register(&mut registry);
        let profiles = Profiles::register(&mut registry);
        let help = "1 while the configuration file has errors and the previous one is in effect";
        let rejected = gauge(&mut registry, "config_rejected", help);
        let refused = Family::default();
        let help = "Connections and calls that the intake refused because of their number, by what: connection or call";
        registry.register("intake_refused", help, refused.clone());
        let paces = Paces::register(&mut registry);
        let help =
            "When the configuration in effect was last reloaded, as a Unix timestamp in seconds";
        let reloaded = gauge(&mut registry, "config_reloaded_timestamp_seconds", help);
        let audit = Audit::register(&mut registry);
        let help = "Connections of callers that a rule matches";
        let connections = gauge(&mut registry, "connections", help);
        let peers = Peers::default();
        let help = "Connections by peer, of callers that a rule matches";
        registry.register("peer_connections", help, peers.family().clone());
        let tls = Tls::register(&mut registry);
        let help = "Connections of callers that no rule matches";
        let strangers = gauge(&mut registry, "stranger_connections", help);
        let calls = gauge(&mut registry, "calls", "Calls in progress");
        let build = Family::<Build, Gauge>::default();
        registry.register("build_info", "1 for the running version", build.clone());
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        Self {
            registry,
            signatures,
            phases,
            profiles,
            rejected,
            refused,
            paces,
            reloaded,
            audit,
            connections,
            peers,
            tls,
            strangers,
            calls,
            collecting: Mutex::default(),
        }
    }
}

impl Metrics {
    /// Counts a decision. `profile` is a configured one; empty if the caller named none of those.
    /// `agent` is that of the deciding rule; either may be empty.
    pub fn decided(
        &self,
        profile: &str,
        (rule, agent): (&str, &str),
        outcome: Result<(), &Denial>,
    ) {
        let outcome = outcomes::name(SIGNED, outcome);
        let (profile, rule, agent) = (profile.to_owned(), rule.to_owned(), agent.to_owned());
        let decision = Decision { profile, rule, agent, outcome };
        self.signatures.get_or_create(&decision).inc();
    }

    /// Counts the time of a call in a phase.
    pub fn passed(&self, phase: Phase, took: Duration) {
        self.phases.passed(phase, took);
    }

    /// Counts a load of credentials. `profile` is a configured one.
    pub fn loaded(&self, profile: &str, took: Duration, outcome: Result<(), &Denial>) {
        self.profiles.loaded(profile, took, outcome);
    }

    /// Counts a refusal because of a limit.
    pub fn refused(&self, what: &'static str) {
        self.refused.get_or_create(&Refusal { what }).inc();
    }

    /// Counts a TLS handshake.
    pub fn handshake_ended(&self, outcome: Handshake) {
        self.tls.handshake_ended(outcome);
    }

    /// Records the expiry of the broker's certificate, or that new TLS files have errors.
    pub fn tls_files(&self, expiry: Option<SystemTime>) {
        self.tls.files(expiry);
    }

    /// Drops the series of names that the configuration no longer has. A call in flight may create
    /// one again; it is dropped by a later reload that removes the name.
    pub fn forget(&self, before: &Names, now: &Names) {
        let profiles: Vec<String> =
            before.profiles.iter().cloned().chain([String::new()]).collect();
        let no_rule = (String::new(), String::new());
        let rules: Vec<_> = before.rules.iter().chain([&no_rule]).collect();
        let drop_decisions = |profile: &String, (rule, agent): &(String, String)| {
            for outcome in outcomes::all(SIGNED) {
                let (profile, rule, agent) = (profile.clone(), rule.clone(), agent.clone());
                self.signatures.remove(&Decision { profile, rule, agent, outcome });
            }
        };
        for profile in before.profiles.difference(&now.profiles) {
            rules.iter().for_each(|rule| drop_decisions(profile, rule));
            self.profiles.forget(profile);
        }
        before.endpoints.difference(&now.endpoints).for_each(|name| self.paces.forget(name));
        for rule in before.rules.difference(&now.rules) {
            profiles.iter().for_each(|profile| drop_decisions(profile, rule));
        }
    }

    /// Records a reload.
    pub fn reloaded(&self, now: SystemTime) {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.reloaded.set(seconds.try_into().unwrap_or(i64::MAX));
    }

    /// The text for a collector, with the current state of the profiles.
    #[must_use]
    pub fn text(
        &self,
        profiles: &[View],
        paces: &[(&str, pace::View)],
        config_rejected: bool,
        audit: &Health,
    ) -> String {
        let _one_at_a_time = self.collecting.lock().unwrap_or_else(PoisonError::into_inner);
        self.audit.fill_in(audit);
        self.rejected.set(i64::from(config_rejected));
        self.profiles.fill_in(profiles);
        self.paces.fill_in(paces);
        let mut text = String::new();
        // Writing to a string can't fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests;
