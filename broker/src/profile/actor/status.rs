//! What is published of a profile: whoever reads it takes no lock, and touches no file.

use std::path::PathBuf;
use std::time::SystemTime;

use sigward_proto::v1::ProfileState;
use tokio::time::Instant;

use super::state::Held;
use crate::error::{Denial, Reason};
use crate::profile::reading::About;

/// A profile as it is since the last message.
#[derive(Debug, Default)]
pub(super) struct Status {
    pub(super) held: Option<Held>,
    pub(super) failure: Option<Denial>,
    pub(super) generation: u64,
    /// What the files said when they were read last; nothing before that.
    pub(super) about: Option<About>,
    /// The token's file, whose changes count for this profile beside those of the AWS files.
    pub(super) token_file: Option<PathBuf>,
    /// Whose the credentials are, where that was asked; else empty.
    pub(super) identity_arn: String,
    /// Whether anyone has asked for the credentials yet.
    pub(super) touched: bool,
    /// Whether a load runs.
    pub(super) loading: bool,
}

impl Status {
    /// The credentials, as long as they may sign.
    pub(super) fn usable(&self, now: SystemTime) -> Option<&Held> {
        self.held.as_ref().filter(|held| held.credentials.usable(now))
    }

    /// Whether a caller's wish is a reason to load, while there are credentials.
    pub(super) fn is_due(&self, held: &Held, now: SystemTime, steady: Instant) -> bool {
        !self.loading && held.due.asked(now, steady)
    }

    /// How it is called outside.
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
