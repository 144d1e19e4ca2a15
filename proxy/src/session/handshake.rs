//! Stores what a client sent at the beginning, for replay over other sessions.

use std::sync::{Mutex, PoisonError};

/// The longest params of one message that are stored: they are kept as long as the client.
pub(crate) const MAX_KEPT: usize = 64 << 10;

/// The messages of a client that a session of another profile must get, too.
#[derive(Debug, Default)]
pub struct Handshake(Mutex<Stored>);

/// The stored messages.
#[derive(Debug, Default, Clone)]
pub(super) struct Stored {
    /// The text of `params` of `initialize`.
    pub(super) initialize: Option<String>,
    /// The text of `params` of `logging/setLevel`.
    pub(super) log_level: Option<String>,
    /// The result of the next handshake that is replayed. The outer `Option` is set if it is
    /// wanted.
    result: Option<Option<String>>,
}

impl Handshake {
    /// Stores the `params` of the client's `initialize`, and clears everything else.
    pub fn initialize(&self, params: &str) {
        *self.lock() = Stored { initialize: Some(params.to_owned()), ..Stored::default() };
    }

    /// Clears everything, because the handshake failed.
    pub fn forget(&self) {
        *self.lock() = Stored::default();
    }

    /// The `params` of the client's `initialize`.
    #[must_use]
    pub fn params(&self) -> Option<String> {
        self.lock().initialize.clone()
    }

    /// Asks for the result of the next replay, which answers the client's own handshake.
    pub(crate) fn want_result(&self) {
        self.lock().result = Some(None);
    }

    /// Takes that result.
    pub(crate) fn take_result(&self) -> Option<String> {
        self.lock().result.take().flatten()
    }

    /// Records the result of a replay.
    pub(super) fn answered(&self, result: &str) {
        if let Some(wanted) = &mut self.lock().result {
            *wanted = Some(result.to_owned());
        }
    }

    /// Stores the `params` of `logging/setLevel`.
    pub fn log_level(&self, params: &str) {
        if params.len() > MAX_KEPT {
            tracing::warn!(
                "a log level isn't stored for sessions of other profiles: it is too long"
            );
            return;
        }
        self.lock().log_level = Some(params.to_owned());
    }

    /// A copy of all that is stored.
    pub(super) fn stored(&self) -> Stored {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Stored> {
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
        assert_eq!(handshake.stored().log_level.as_deref(), Some(r#"{"level":"info"}"#));
        handshake.initialize("{}");
        assert_eq!(handshake.stored().log_level, None, "it belonged to the handshake before");
    }
}
