//! The published state of a profile: reading it takes no lock, and opens no file.

use std::path::PathBuf;
use std::time::SystemTime;

use sigward_proto::v1::ProfileState;
use tokio::time::Instant;

use super::state::LoadedKeys;
use crate::error::{Denial, Reason};
use crate::profile::reading::About;

/// The state of a profile since the last message.
#[derive(Debug, Default)]
pub(super) struct Status {
    pub(super) held: Option<LoadedKeys>,
    pub(super) failure: Option<Denial>,
    pub(super) generation: u64,
    /// The last reading of the files, if there is one.
    pub(super) about: Option<About>,
    /// The token's file, which is watched in addition to the AWS files.
    pub(super) token_file: Option<PathBuf>,
    /// The identity of the credentials if it was queried, else empty.
    pub(super) identity_arn: String,
    /// Whether the credentials have ever been requested.
    pub(super) touched: bool,
    /// Whether a load is running.
    pub(super) loading: bool,
}

impl Status {
    /// The credentials, if they may be used at `now`.
    pub(super) fn usable(&self, now: SystemTime) -> Option<&LoadedKeys> {
        self.held.as_ref().filter(|held| held.credentials.usable(now))
    }

    /// Whether a request is a reason to reload, while there are credentials.
    pub(super) fn is_due(&self, held: &LoadedKeys, now: SystemTime, steady: Instant) -> bool {
        !self.loading && held.due.asked(now, steady)
    }

    /// The state as callers see it.
    pub(super) fn state(&self, now: SystemTime) -> ProfileState {
        let usable = self.usable(now).is_some();
        match (usable, self.loading, self.failure.as_ref().map(Denial::reason)) {
            (true, true, _) => ProfileState::Refreshing,
            (true, false, Some(_)) => ProfileState::Degraded,
            (true, false, None) => ProfileState::Fresh,
            (false, true, _) => ProfileState::Loading,
            (false, false, Some(Reason::LoginRequired)) => ProfileState::LoginRequired,
            (false, false, Some(reason)) if reason != Reason::CredentialsUnavailable => {
                ProfileState::Misconfigured
            }
            (false, false, _) if self.held.is_some() => ProfileState::Expired,
            (false, false, _) => ProfileState::Unloaded,
        }
    }
}
