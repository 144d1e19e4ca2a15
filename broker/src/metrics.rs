//! What the broker counts, as Prometheus reads it.
//!
//! Invariant: labels are names of the configuration and of the contract. What a caller sends is never
//! one: it could fill the memory of whoever collects.

use std::time::UNIX_EPOCH;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sigward_proto::v1::ProfileState;

use crate::error::Denial;
use crate::profile::View;

/// All metrics of a process; they outlive reloads.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    signatures: Family<Decision, Counter>,
    states: Family<State, Gauge>,
    expiries: Family<Profile, Gauge>,
    rejected: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decision {
    profile: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    profile: String,
    state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Profile {
    profile: String,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sigward");
        let signatures = Family::default();
        let help =
            "Requests for signatures, by profile and outcome: signed, or the reason of the denial";
        registry.register("signatures", help, signatures.clone());
        let states = Family::default();
        registry.register("profile_state", "1 for the state that a profile is in", states.clone());
        let expiries = Family::default();
        let help = "When the credentials of a profile end, in seconds since 1970";
        registry.register("credential_expiry_timestamp_seconds", help, expiries.clone());
        let rejected = Gauge::default();
        let help = "1 while the configuration file has faults and the one before is in force";
        registry.register("config_rejected", help, rejected.clone());
        Self { registry, signatures, states, expiries, rejected }
    }
}

impl Metrics {
    /// Counts a decision. `profile` is one of the configuration; empty if the caller named no such.
    pub fn decided(&self, profile: &str, outcome: Result<(), &Denial>) {
        let outcome = outcome.map_or_else(|denial| denial.reason().name(), |()| "signed");
        let decision = Decision { profile: profile.to_owned(), outcome };
        self.signatures.get_or_create(&decision).inc();
    }

    /// The text for a collector, with the profiles as they are now.
    #[must_use]
    pub fn text(&self, profiles: &[View], config_rejected: bool) -> String {
        self.states.clear();
        self.expiries.clear();
        self.rejected.set(i64::from(config_rejected));
        for view in profiles {
            let state = State { profile: view.name.to_string(), state: state(view.state) };
            self.states.get_or_create(&state).set(1);
            if let Some(expiry) = view.expiry {
                let profile = Profile { profile: view.name.to_string() };
                let seconds = expiry.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                self.expiries.get_or_create(&profile).set(seconds.try_into().unwrap_or(i64::MAX));
            }
        }
        let mut text = String::new();
        // Writing to a text can't fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

/// `PROFILE_STATE_FRESH` as `fresh`.
fn state(state: ProfileState) -> String {
    let name = state.as_str_name();
    name.strip_prefix("PROFILE_STATE_").unwrap_or(name).to_lowercase()
}

#[cfg(test)]
mod tests {
    use sigward_proto::v1::Reason;

    use super::*;

    #[test]
    fn decisions_are_counted_by_profile_and_outcome() {
        let metrics = Metrics::default();
        metrics.decided("dev", Ok(()));
        metrics.decided("dev", Ok(()));
        metrics.decided("", Err(&Denial::new(Reason::ProfileNotAllowed, "no rule")));
        let text = metrics.text(&[], true);
        for line in [
            r#"sigward_signatures_total{profile="dev",outcome="signed"} 2"#,
            r#"sigward_signatures_total{profile="",outcome="PROFILE_NOT_ALLOWED"} 1"#,
            "sigward_config_rejected 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
        assert!(metrics.text(&[], false).contains("sigward_config_rejected 0"));
        assert_eq!(state(ProfileState::LoginRequired), "login_required");
    }
}
