//! The names of a profile's states, for people and programs.

use sigward_proto::v1::ProfileState;

/// The name for people.
pub(super) fn label(state: ProfileState) -> &'static str {
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

/// The name in the proto.
pub(super) fn name(state: ProfileState) -> String {
    label(state).replace(' ', "_")
}
