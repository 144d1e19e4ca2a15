//! What the broker counts, as Prometheus reads it.
//!
//! Invariant: labels are names of the configuration in force and of the contract. What a caller sends is never
//! one: it could fill the memory of whoever collects. Nor do names pile up that the configuration had once. A peer is one
//! while it is connected, if a rule is about it: of those there is a bounded number.

mod paces;
mod peers;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use sigward_proto::v1::{ProfileState, Reason};

use self::paces::Paces;
pub use self::peers::Peers;
use crate::audit::Health;
use crate::error::Denial;
use crate::pace;
use crate::profile::View;

/// All metrics of a process; they outlive reloads.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    signatures: Family<Decision, Counter>,
    phases: [Histogram; Phase::ALL.len()],
    loads: Family<Load, Counter>,
    load_durations: Family<Profile, Histogram>,
    ages: Family<Profile, Gauge>,
    states: Family<State, Gauge>,
    expiries: Family<Profile, Gauge>,
    rejected: Gauge,
    refused: Family<Refusal, Counter>,
    /// Connections of callers whom a rule is about.
    pub connections: Gauge,
    /// The same by peer.
    pub peers: Peers,
    /// Connections of others.
    pub strangers: Gauge,
    handshakes: Family<HandshakeLabel, Counter>,
    tls_rejected: Gauge,
    /// One series, where TLS is served.
    tls_expiry: Family<Vec<(&'static str, &'static str)>, Gauge>,
    /// Calls in progress.
    pub calls: Gauge,
    paces: Paces,
    reloaded: Gauge,
    audit_head: Family<Head, Gauge>,
    audit_failures: Gauge,
    audit_queue: Gauge,
    audit_summed_up: Gauge,
    /// One collector at a time: each fills in what the profiles are now.
    collecting: Mutex<()>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decision {
    profile: String,
    rule: String,
    outcome: &'static str,
}

/// The names of a configuration that are labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Of its profiles.
    pub profiles: BTreeSet<String>,
    /// Of its rules.
    pub rules: BTreeSet<String>,
    /// Of its endpoints.
    pub endpoints: BTreeSet<String>,
}

/// A phase of the life of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The head is checked, and the body read.
    Parse,
    /// The rules decide.
    Authorize,
    /// Credentials are there, or are waited for.
    Resolve,
    /// It has its turn, or waits for it.
    Turn,
    /// They sign.
    Sign,
    /// The record is written.
    Audit,
}

impl Phase {
    const ALL: [Self; 6] =
        [Self::Parse, Self::Authorize, Self::Resolve, Self::Turn, Self::Sign, Self::Audit];

    fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Authorize => "authorize",
            Self::Resolve => "resolve",
            Self::Turn => "turn",
            Self::Sign => "sign",
            Self::Audit => "audit",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

/// What came of a TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// The peer is known.
    Done,
    /// It has no certificate that is good, or it doesn't speak this TLS.
    Refused,
    /// It took too long.
    Late,
    /// There were too many, and it was the oldest.
    MadeRoom,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Load {
    profile: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusal {
    what: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Head {
    sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    profile: String,
    state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Profile {
    profile: String,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sigward");
        let signatures = Family::default();
        let help = "Requests for signatures as they were answered, by profile, rule and outcome: signed, or the reason of the denial";
        registry.register("signatures", help, signatures.clone());
        // From 10 µs to 42 s: a signature takes microseconds, and may wait for a load.
        let times = || Histogram::new(exponential_buckets(1e-5, 4.0, 12));
        let of_phases = Family::<PhaseLabel, Histogram>::new_with_constructor(times);
        let help = "Time that calls for signatures spent in a phase that they got through";
        let seconds = Unit::Seconds;
        registry.register_with_unit("phase_duration", help, seconds, of_phases.clone());
        let phases = Phase::ALL
            .map(|phase| of_phases.get_or_create_owned(&PhaseLabel { phase: phase.name() }));
        let loads = Family::default();
        let help = "Loads of credentials, by profile and outcome: loaded, or the reason";
        registry.register("credential_loads", help, loads.clone());
        let load_times: fn() -> Histogram = || Histogram::new(exponential_buckets(1e-3, 4.0, 9));
        let load_durations = Family::new_with_constructor(load_times);
        let help = "Time that loads of credentials took";
        let seconds = Unit::Seconds;
        registry.register_with_unit(
            "credential_load_duration",
            help,
            seconds,
            load_durations.clone(),
        );
        let ages = Family::default();
        let help = "When the profile's credentials were loaded, as a Unix timestamp in seconds";
        registry.register("credential_loaded_timestamp_seconds", help, ages.clone());
        let states = Family::default();
        registry.register("profile_state", "1 for the state that a profile is in", states.clone());
        let expiries = Family::default();
        let help = "Expiry of the profile's credentials, as a Unix timestamp in seconds";
        registry.register("credential_expiry_timestamp_seconds", help, expiries.clone());
        let rejected = Gauge::default();
        let help = "1 while the configuration file has errors and the one before is in force";
        registry.register("config_rejected", help, rejected.clone());
        let refused = Family::default();
        let help =
            "What the intake refused because there was too much of it, by what: connection or call";
        registry.register("intake_refused", help, refused.clone());
        let paces = Paces::register(&mut registry);
        let reloaded = Gauge::default();
        let help =
            "When the configuration in force was last reloaded, as a Unix timestamp in seconds";
        registry.register("config_reloaded_timestamp_seconds", help, reloaded.clone());
        let audit_head = Family::default();
        let help = "1 for the SHA-256 of the last line of the audit log: audit verify --head";
        registry.register("audit_head", help, audit_head.clone());
        let gauge = |registry: &mut Registry, name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let help = "Audit records that could not be written, since the start";
        let audit_failures = gauge(&mut registry, "audit_failures", help);
        let help = "Audit records that wait to be written";
        let audit_queue = gauge(&mut registry, "audit_queue", help);
        let help = "Denials that were counted in a summary instead of recorded, since the start";
        let audit_summed_up = gauge(&mut registry, "audit_summed_up", help);
        let connections =
            gauge(&mut registry, "connections", "Connections of callers that a rule is about");
        let peers = Peers::default();
        let help = "Connections by peer, of callers that a rule is about";
        registry.register("peer_connections", help, peers.family().clone());
        let handshakes = Family::default();
        let help = "TLS handshakes by outcome: done, refused, late, or made_room for others";
        registry.register("tls_handshakes", help, handshakes.clone());
        let help = "1 while the files of TLS have errors and those before are in force";
        let tls_rejected = gauge(&mut registry, "tls_files_rejected", help);
        let tls_expiry = Family::default();
        let help = "Expiry of the broker's own certificate, as a Unix timestamp in seconds";
        registry.register("tls_certificate_expiry_timestamp_seconds", help, tls_expiry.clone());
        let strangers =
            gauge(&mut registry, "stranger_connections", "Connections of other callers");
        let calls = gauge(&mut registry, "calls", "Calls in progress");
        let build = Family::<Build, Gauge>::default();
        registry.register("build_info", "1 for the version that runs", build.clone());
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        Self {
            registry,
            signatures,
            phases,
            loads,
            load_durations,
            ages,
            states,
            expiries,
            rejected,
            refused,
            connections,
            peers,
            handshakes,
            tls_rejected,
            tls_expiry,
            strangers,
            calls,
            paces,
            reloaded,
            audit_head,
            audit_failures,
            audit_queue,
            audit_summed_up,
            collecting: Mutex::default(),
        }
    }
}

impl Metrics {
    /// Counts a decision. `profile` is one of the configuration; empty if the caller named no such.
    pub fn decided(&self, profile: &str, rule: &str, outcome: Result<(), &Denial>) {
        let outcome = outcome.map_or_else(|denial| denial.reason().name(), |()| "signed");
        let decision = Decision { profile: profile.to_owned(), rule: rule.to_owned(), outcome };
        self.signatures.get_or_create(&decision).inc();
    }

    /// Counts how long a call for a signature was in a phase.
    pub fn passed(&self, phase: Phase, took: Duration) {
        self.phases[phase as usize].observe(took.as_secs_f64());
    }

    /// Counts a load of the credentials of a profile of the configuration.
    pub fn loaded(&self, profile: &str, took: Duration, outcome: Result<(), &Denial>) {
        let outcome = outcome.map_or_else(|denial| denial.reason().name(), |()| "loaded");
        let profile = profile.to_owned();
        self.loads.get_or_create(&Load { profile: profile.clone(), outcome }).inc();
        self.load_durations.get_or_create(&Profile { profile }).observe(took.as_secs_f64());
    }

    /// Counts something that there was too much of.
    pub fn refused(&self, what: &'static str) {
        self.refused.get_or_create(&Refusal { what }).inc();
    }

    /// Counts a TLS handshake.
    pub fn shook_hands(&self, outcome: Handshake) {
        let outcome = match outcome {
            Handshake::Done => "done",
            Handshake::Refused => "refused",
            Handshake::Late => "late",
            Handshake::MadeRoom => "made_room",
        };
        self.handshakes.get_or_create(&HandshakeLabel { outcome }).inc();
    }

    /// Takes note of the files of TLS: when the broker's certificate expires, or that new files have errors.
    pub fn tls_files(&self, expiry: Option<SystemTime>) {
        self.tls_rejected.set(i64::from(expiry.is_none()));
        if let Some(expiry) = expiry {
            let seconds = expiry.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            self.tls_expiry.get_or_create(&Vec::new()).set(seconds.try_into().unwrap_or(i64::MAX));
        }
    }

    /// Drops the series of names that a configuration no longer has. A call that was in flight meanwhile may bring one
    /// back; it goes with a later reload of that name.
    pub fn forget(&self, before: &Names, now: &Names) {
        let none = String::new();
        let all = |names: &BTreeSet<String>| names.iter().cloned().chain([none.clone()]).collect();
        let (profiles, rules): (Vec<_>, Vec<_>) = (all(&before.profiles), all(&before.rules));
        let drop_decisions = |profile: &String, rule: &String| {
            for outcome in outcomes() {
                let (profile, rule) = (profile.clone(), rule.clone());
                self.signatures.remove(&Decision { profile, rule, outcome });
            }
        };
        for profile in before.profiles.difference(&now.profiles) {
            rules.iter().for_each(|rule| drop_decisions(profile, rule));
            for outcome in outcomes() {
                self.loads.remove(&Load { profile: profile.clone(), outcome });
            }
            self.load_durations.remove(&Profile { profile: profile.clone() });
        }
        before.endpoints.difference(&now.endpoints).for_each(|name| self.paces.forget(name));
        for rule in before.rules.difference(&now.rules) {
            profiles.iter().for_each(|profile| drop_decisions(profile, rule));
        }
    }

    /// Takes note of a reload.
    pub fn reloaded(&self, now: SystemTime) {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.reloaded.set(seconds.try_into().unwrap_or(i64::MAX));
    }

    /// The text for a collector, with the profiles as they are now.
    #[must_use]
    pub fn text(
        &self,
        profiles: &[View],
        paces: &[(&str, pace::View)],
        config_rejected: bool,
        audit: &Health,
    ) -> String {
        let _one_at_a_time = self.collecting.lock().unwrap_or_else(PoisonError::into_inner);
        self.audit_head.clear();
        self.audit_head.get_or_create(&Head { sha256: audit.head.clone() }).set(1);
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.audit_failures.set(gauge(audit.failures));
        self.audit_queue.set(gauge(audit.queued as u64));
        self.audit_summed_up.set(gauge(audit.summed_up));
        self.states.clear();
        self.expiries.clear();
        self.ages.clear();
        self.rejected.set(i64::from(config_rejected));
        for view in profiles {
            let state = State { profile: view.name.to_string(), state: state(view.state) };
            self.states.get_or_create(&state).set(1);
            for (times, time) in [(&self.expiries, view.expiry), (&self.ages, view.loaded)] {
                let Some(time) = time else { continue };
                let profile = Profile { profile: view.name.to_string() };
                let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                times.get_or_create(&profile).set(seconds.try_into().unwrap_or(i64::MAX));
            }
        }
        self.paces.fill_in(paces);
        let mut text = String::new();
        // Writing to a text can't fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

/// Every outcome of a decision or a load.
fn outcomes() -> impl Iterator<Item = &'static str> {
    let reasons = (0..128).filter_map(|number| Reason::try_from(number).ok()).map(Reason::name);
    reasons.chain(["signed", "loaded"])
}

/// `PROFILE_STATE_FRESH` as `fresh`.
fn state(state: ProfileState) -> String {
    let name = state.as_str_name();
    name.strip_prefix("PROFILE_STATE_").unwrap_or(name).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProfileName;
    use crate::error::Reason;

    fn health() -> Health {
        Health { head: "abc".to_owned(), failures: 3, queued: 0, summed_up: 0 }
    }

    #[test]
    fn decisions_are_counted_by_profile_and_outcome() {
        let metrics = Metrics::default();
        metrics.decided("dev", "agents", Ok(()));
        metrics.decided("dev", "agents", Ok(()));
        metrics.decided("", "", Err(&Denial::new(Reason::ProfileNotAllowed, "no rule")));
        metrics.passed(Phase::Sign, Duration::from_micros(50));
        metrics.loaded("dev", Duration::from_millis(3), Ok(()));
        let late = Denial::new(Reason::CredentialsUnavailable, "late");
        metrics.loaded("dev", Duration::from_secs(60), Err(&late));
        let text = metrics.text(&[], &[], true, &health());
        for line in [
            r#"sigward_signatures_total{profile="dev",rule="agents",outcome="signed"} 2"#,
            r#"sigward_signatures_total{profile="",rule="",outcome="PROFILE_NOT_ALLOWED"} 1"#,
            "sigward_config_rejected 1",
            r#"sigward_phase_duration_seconds_bucket{le="0.00016",phase="sign"} 1"#,
            r#"sigward_phase_duration_seconds_count{phase="audit"} 0"#,
            r#"sigward_credential_loads_total{profile="dev",outcome="loaded"} 1"#,
            r#"sigward_credential_loads_total{profile="dev",outcome="CREDENTIALS_UNAVAILABLE"} 1"#,
            r#"sigward_credential_load_duration_seconds_count{profile="dev"} 2"#,
            r#"sigward_audit_head{sha256="abc"} 1"#,
            "sigward_audit_failures 3",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
        assert!(metrics.text(&[], &[], false, &health()).contains("sigward_config_rejected 0"));
        assert_eq!(state(ProfileState::LoginRequired), "login_required");
    }

    /// Programs may write configurations, with names that are never used again.
    #[test]
    fn names_that_are_gone_take_their_series_along() {
        let names = |profiles: &[&str], rules: &[&str]| {
            let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
            Names { profiles: set(profiles), rules: set(rules), endpoints: set(profiles) }
        };
        let metrics = Metrics::default();
        let denial = Denial::new(Reason::ToolNotAllowed, "no rule");
        for profile in ["stays", "goes", ""] {
            for rule in ["lasting", "passing", ""] {
                metrics.decided(profile, rule, Ok(()));
                metrics.decided(profile, rule, Err(&denial));
            }
            metrics.loaded(profile, Duration::ZERO, Ok(()));
            metrics.loaded(profile, Duration::ZERO, Err(&denial));
        }
        let before = names(&["stays", "goes"], &["lasting", "passing"]);
        let count = |text: &str, series: &str| {
            text.lines().filter(|line| line.starts_with(&format!("sigward_{series}{{"))).count()
        };
        metrics.forget(&before, &before);
        assert_eq!(count(&metrics.text(&[], &[], false, &health()), "signatures_total"), 18);
        metrics.forget(&before, &names(&["stays", "new"], &["lasting"]));
        let text = metrics.text(&[], &[], false, &health());
        assert!(!text.contains("goes") && !text.contains("passing"), "{text}");
        assert_eq!(count(&text, "signatures_total"), 8);
        assert_eq!(count(&text, "credential_loads_total"), 4);
        assert_eq!(count(&text, "credential_load_duration_seconds_count"), 2);
        for outcome in ["signed", "TOOL_NOT_ALLOWED"] {
            let line = format!("{{profile=\"stays\",rule=\"lasting\",outcome=\"{outcome}\"}} 1");
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }

    /// The series of the profiles are filled in anew for each collector: none may meet those of another one half done.
    #[test]
    fn collectors_at_the_same_time_all_get_every_series() {
        let view = |number: usize| View {
            name: ProfileName::parse(&format!("p{number}")).expect("a name"),
            description: String::new(),
            region: None,
            source: "",
            state: ProfileState::Fresh,
            failure: None,
            expiry: Some(UNIX_EPOCH),
            loaded: Some(UNIX_EPOCH),
            generation: 1,
            identity_arn: String::new(),
            account: String::new(),
            role: String::new(),
        };
        let (metrics, views) = (Metrics::default(), (0..50).map(view).collect::<Vec<_>>());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..25 {
                        let text = metrics.text(&views, &[], false, &health());
                        for series in [
                            "sigward_profile_state{",
                            "sigward_credential_expiry_timestamp_seconds{",
                            "sigward_credential_loaded_timestamp_seconds{",
                            "sigward_audit_head{",
                        ] {
                            let found = text.lines().filter(|it| it.starts_with(series)).count();
                            let all = if series.contains("head") { 1 } else { views.len() };
                            assert_eq!(found, all, "{series}");
                        }
                    }
                });
            }
        });
    }
}
