//! What a running broker answered: the profiles, and for an operator the callers.

use sigward_proto::v1::{Caller, Profile, WatchProfilesResponse};

/// What the broker said.
#[derive(PartialEq)]
pub(super) struct Answer {
    pub(super) profiles: Vec<Profile>,
    pub(super) config_rejected: bool,
    /// For an operator: who has connections, and how many more there are.
    pub(super) callers: Option<(Vec<Caller>, u32)>,
}

impl From<WatchProfilesResponse> for Answer {
    fn from(change: WatchProfilesResponse) -> Self {
        let WatchProfilesResponse { profiles, config_rejected } = change;
        Self { profiles, config_rejected, callers: None }
    }
}

impl Answer {
    /// Whether signatures for an endpoint are given by turns.
    pub(super) fn is_paced(&self) -> bool {
        let mut endpoints = self.profiles.iter().flat_map(|profile| &profile.endpoints);
        endpoints.any(|endpoint| endpoint.pace.is_some())
    }
}
