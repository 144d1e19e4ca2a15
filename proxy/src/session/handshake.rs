//! What a client said at the beginning, to be said again.

use std::sync::{Mutex, PoisonError};

/// What a client said that a session of another profile must hear as well.
#[derive(Debug, Default)]
pub struct Handshake {
    said: Mutex<Said>,
}

/// See [`Handshake`].
#[derive(Debug, Default, Clone)]
pub(super) struct Said {
    /// The text of `params` of `initialize`.
    pub(super) initialize: Option<String>,
    /// The client said `notifications/initialized`.
    pub(super) initialized: bool,
    /// The text of `params` of `logging/setLevel`.
    pub(super) log_level: Option<String>,
}

impl Handshake {
    /// Keeps the `params` of the client's `initialize`.
    pub fn initialize(&self, params: &str) {
        let said = Said { initialize: Some(params.to_owned()), ..Said::default() };
        *self.lock() = said;
    }

    /// The `params` of the client's `initialize`.
    #[must_use]
    pub fn params(&self) -> Option<String> {
        self.lock().initialize.clone()
    }

    /// The client said `notifications/initialized`.
    pub fn initialized(&self) {
        self.lock().initialized = true;
    }

    /// Keeps the `params` of `logging/setLevel`.
    pub fn log_level(&self, params: &str) {
        self.lock().log_level = Some(params.to_owned());
    }

    /// All of it.
    pub(super) fn said(&self) -> Said {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
