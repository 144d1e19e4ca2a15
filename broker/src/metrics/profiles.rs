//! The profiles and the loads of their credentials.

use std::time::{Duration, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use sigward_proto::v1::ProfileState;

use super::outcomes;
use crate::error::Denial;
use crate::profile::View;

/// The outcome of a successful load.
const LOADED: &str = "loaded";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Load {
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

/// Loads are counted as they happen; states and times are filled in for each collector.
#[derive(Debug)]
pub(super) struct Profiles {
    loads: Family<Load, Counter>,
    load_durations: Family<Profile, Histogram>,
    ages: Family<Profile, Gauge>,
    states: Family<State, Gauge>,
    expiries: Family<Profile, Gauge>,
}

impl Profiles {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let loads = Family::default();
        let help = "Loads of credentials, by profile and outcome: loaded, or the reason";
        registry.register("credential_loads", help, loads.clone());
        let times: fn() -> Histogram = || Histogram::new(exponential_buckets(1e-3, 4.0, 9));
        let load_durations = Family::new_with_constructor(times);
        let (name, help) = ("credential_load_duration", "Time that loads of credentials took");
        registry.register_with_unit(name, help, Unit::Seconds, load_durations.clone());
        let ages = Family::default();
        let help = "When the profile's credentials were loaded, as a Unix timestamp in seconds";
        registry.register("credential_loaded_timestamp_seconds", help, ages.clone());
        let states = Family::default();
        registry.register("profile_state", "1 for the state that a profile is in", states.clone());
        let expiries = Family::default();
        let help = "Expiry of the profile's credentials, as a Unix timestamp in seconds";
        registry.register("credential_expiry_timestamp_seconds", help, expiries.clone());
        Self { loads, load_durations, ages, states, expiries }
    }

    /// Counts a load of credentials. `profile` is a configured one.
    pub(super) fn loaded(&self, profile: &str, took: Duration, outcome: Result<(), &Denial>) {
        let (profile, outcome) = (profile.to_owned(), outcomes::name(LOADED, outcome));
        self.loads.get_or_create(&Load { profile: profile.clone(), outcome }).inc();
        self.load_durations.get_or_create(&Profile { profile }).observe(took.as_secs_f64());
    }

    /// Drops the series of a profile that no longer exists.
    pub(super) fn forget(&self, profile: &str) {
        for outcome in outcomes::all(LOADED) {
            self.loads.remove(&Load { profile: profile.to_owned(), outcome });
        }
        self.load_durations.remove(&Profile { profile: profile.to_owned() });
    }

    /// Sets the current values.
    pub(super) fn fill_in(&self, profiles: &[View]) {
        self.states.clear();
        self.expiries.clear();
        self.ages.clear();
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
    }
}

/// The label of a state, like `fresh` for `PROFILE_STATE_FRESH`.
fn state(state: ProfileState) -> String {
    let name = state.as_str_name();
    name.strip_prefix("PROFILE_STATE_").unwrap_or(name).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_named_without_its_prefix() {
        assert_eq!(state(ProfileState::LoginRequired), "login_required");
    }
}
