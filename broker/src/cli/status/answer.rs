//! The answer of a running broker: the profiles, and for an operator the callers.

use sigward_proto::v1::{Caller, Profile, WatchProfilesResponse};

/// The broker's answer.
#[derive(PartialEq)]
pub(super) struct Answer {
    pub(super) profiles: Vec<Profile>,
    pub(super) config_rejected: bool,
    /// For an operator: the callers with connections, and the number of further ones.
    pub(super) callers: Option<(Vec<Caller>, u32)>,
}

impl From<WatchProfilesResponse> for Answer {
    fn from(change: WatchProfilesResponse) -> Self {
        let WatchProfilesResponse { profiles, config_rejected } = change;
        Self { profiles, config_rejected, callers: None }
    }
}

impl Answer {
    /// Whether signatures for an endpoint are paced.
    pub(super) fn is_paced(&self) -> bool {
        let mut endpoints = self.profiles.iter().flat_map(|profile| &profile.endpoints);
        endpoints.any(|endpoint| endpoint.pace.is_some())
    }
}
