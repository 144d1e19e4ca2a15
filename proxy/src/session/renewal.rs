//! Whether a session was renewed that had been used: whatever the server kept for the old one is gone, and the agent
//! is told so, once.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::ProfileName;
use crate::wire;

/// What is known of it, without a lock.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    /// Whether a tool was called over the session that is open.
    was_called: AtomicBool,
    /// Whether the next result is to say that the session was renewed.
    has_notice: AtomicBool,
}

impl Renewal {
    /// A tool is called over the session: its server may keep something for it.
    pub(super) fn on_call(&self) {
        if !self.was_called.load(Ordering::Relaxed) {
            self.was_called.store(true, Ordering::Relaxed);
        }
    }

    /// A session was opened. Whether it takes the place of one that was used.
    pub(super) fn on_open(&self) -> bool {
        self.was_called.swap(false, Ordering::Relaxed)
    }

    /// It is in the place of one that was used: the next result says so.
    pub(super) fn on_replacement(&self) {
        self.has_notice.store(true, Ordering::Relaxed);
    }

    /// Whether the next result is to say something of the session.
    pub(super) fn has_notice(&self) -> bool {
        self.has_notice.load(Ordering::Relaxed)
    }

    /// Whether a tool was called over it, or the end of another one wasn't told yet.
    pub(super) fn was_used(&self) -> bool {
        self.was_called.load(Ordering::Relaxed) || self.has_notice()
    }

    /// What the next result is to say of the session, once; a JSON object.
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

/// What an agent is told of a renewal.
pub(super) fn message(profile: &ProfileName) -> String {
    format!(
        "The server had dropped the MCP session of the AWS profile {profile}, and a new one was opened. Files and other \
         state of the old session are gone."
    )
}
