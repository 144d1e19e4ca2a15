//! What a client sent at the beginning, to be sent again over other sessions.

use std::sync::{Mutex, PoisonError};

/// The longest params of one message that are kept: they stay for as long as the client.
pub(crate) const MAX_KEPT: usize = 64 << 10;

/// What a client sent that a session of another profile must get as well.
#[derive(Debug, Default)]
pub struct Handshake(Mutex<Kept>);

/// See [`Handshake`].
#[derive(Debug, Default, Clone)]
pub(super) struct Kept {
    /// The text of `params` of `initialize`.
    pub(super) initialize: Option<String>,
    /// The text of `params` of `logging/setLevel`.
    pub(super) log_level: Option<String>,
    /// The result of the next handshake that is replayed, where it is wanted.
    result: Option<Option<String>>,
}

impl Handshake {
    /// Keeps the `params` of the client's `initialize`, and nothing of an earlier one.
    pub fn initialize(&self, params: &str) {
        *self.lock() = Kept { initialize: Some(params.to_owned()), ..Kept::default() };
    }

    /// The handshake came to nothing.
    pub fn forget(&self) {
        *self.lock() = Kept::default();
    }

    /// The `params` of the client's `initialize`.
    #[must_use]
    pub fn params(&self) -> Option<String> {
        self.lock().initialize.clone()
    }

    /// Has the result of the next replay kept: it answers the client's own handshake.
    pub(crate) fn want_result(&self) {
        self.lock().result = Some(None);
    }

    /// What came of that.
    pub(crate) fn take_result(&self) -> Option<String> {
        self.lock().result.take().flatten()
    }

    /// A server has answered a replay.
    pub(super) fn answered(&self, result: &str) {
        if let Some(wanted) = &mut self.lock().result {
            *wanted = Some(result.to_owned());
        }
    }

    /// Keeps the `params` of `logging/setLevel`.
    pub fn log_level(&self, params: &str) {
        if params.len() > MAX_KEPT {
            tracing::warn!("a log level isn't kept for sessions of other profiles: it is too long");
            return;
        }
        self.lock().log_level = Some(params.to_owned());
    }

    /// All of it.
    pub(super) fn kept(&self) -> Kept {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_level_that_is_too_long_is_not_kept() {
        let handshake = Handshake::default();
        handshake.log_level(r#"{"level":"info"}"#);
        handshake.log_level(&"x".repeat(MAX_KEPT + 1));
        assert_eq!(handshake.kept().log_level.as_deref(), Some(r#"{"level":"info"}"#));
        handshake.initialize("{}");
        assert_eq!(handshake.kept().log_level, None, "it belonged to the handshake before");
    }
}
