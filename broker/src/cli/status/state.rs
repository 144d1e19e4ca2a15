//! The states of a profile, in the words that people and programs get.

use sigward_proto::v1::ProfileState;

/// For people.
pub(super) fn words(state: ProfileState) -> &'static str {
    match state {
        ProfileState::Unspecified => "unknown",
        ProfileState::Unloaded => "unloaded",
        ProfileState::Loading => "loading",
        ProfileState::Fresh => "fresh",
        ProfileState::Refreshing => "refreshing",
        ProfileState::Degraded => "degraded",
        ProfileState::Expired => "expired",
        ProfileState::LoginRequired => "login required",
        ProfileState::Misconfigured => "misconfigured",
    }
}

/// As the proto names it.
pub(super) fn name(state: ProfileState) -> String {
    words(state).replace(' ', "_")
}
