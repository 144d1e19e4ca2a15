//! Records whether a used session was renewed. What the server stored for the old one is lost, and the agent is
//! notified of that once.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::ProfileName;
use crate::wire;

/// The record, without a lock.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    /// Whether a tool was called over the open session.
    was_called: AtomicBool,
    /// Whether the next result must carry the notice of a renewal.
    has_notice: AtomicBool,
}

impl Renewal {
    /// Records that a tool is called over the session: its server may store state for it.
    pub(super) fn on_call(&self) {
        if !self.was_called.load(Ordering::Relaxed) {
            self.was_called.store(true, Ordering::Relaxed);
        }
    }

    /// Records that a session was opened. Returns whether it replaces a used one.
    pub(super) fn on_open(&self) -> bool {
        self.was_called.swap(false, Ordering::Relaxed)
    }

    /// Records that the session replaces a used one: the next result carries the notice.
    pub(super) fn on_replacement(&self) {
        self.has_notice.store(true, Ordering::Relaxed);
    }

    /// Whether the next result carries a notice about the session.
    pub(super) fn has_notice(&self) -> bool {
        self.has_notice.load(Ordering::Relaxed)
    }

    /// Whether a tool was called over the session, or a replacement wasn't reported yet.
    pub(super) fn was_used(&self) -> bool {
        self.was_called.load(Ordering::Relaxed) || self.has_notice()
    }

    /// The notice for the next result, as a JSON object. It is returned once.
    pub(super) fn take_notice(&self, profile: &ProfileName) -> Option<String> {
        if !self.has_notice() || !self.has_notice.swap(false, Ordering::Relaxed) {
            return None;
        }
        Some(format!(
            r#"{{"event":"session-renewed","profile":{},"message":{}}}"#,
            wire::quote(profile.as_str()),
            wire::quote(&message(profile))
        ))
    }
}

/// The text that tells an agent about a renewal.
pub(super) fn message(profile: &ProfileName) -> String {
    format!(
        "The server had dropped the MCP session of the AWS profile {profile}, and a new one was opened. Files and other \
         state of the old session are gone."
    )
}
