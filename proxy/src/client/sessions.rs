//! The sessions of one client, by profile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::config::ProfileName;
use crate::session::{Context, Session};
use crate::sync::lock;

/// The sessions that were used, open or not.
#[derive(Debug)]
pub(super) struct Sessions {
    default: ProfileName,
    context: Arc<Context>,
    by_profile: Mutex<HashMap<ProfileName, Arc<Session>>>,
}

impl Sessions {
    pub(super) fn new(default: ProfileName, context: Arc<Context>) -> Self {
        Self { default, context, by_profile: Mutex::default() }
    }

    /// The session of a profile.
    pub(super) fn of(&self, profile: &ProfileName) -> Arc<Session> {
        let mut sessions = lock(&self.by_profile);
        let session = sessions.entry(profile.clone()).or_insert_with(|| {
            let (profile, is_default) = (profile.clone(), *profile == self.default);
            Arc::new(Session::new(profile, is_default, Arc::clone(&self.context)))
        });
        Arc::clone(session)
    }

    /// The session of the default profile, which is the client's own.
    pub(super) fn of_default(&self) -> Arc<Session> {
        self.of(&self.default)
    }

    /// The same, if it was used.
    pub(super) fn existing_default(&self) -> Option<Arc<Session>> {
        lock(&self.by_profile).get(&self.default).cloned()
    }

    /// All sessions that were used.
    pub(super) fn all(&self) -> Vec<Arc<Session>> {
        lock(&self.by_profile).values().cloned().collect()
    }

    /// The sessions of profiles other than the default.
    pub(super) fn others(&self) -> Vec<Arc<Session>> {
        let sessions = lock(&self.by_profile);
        sessions.values().filter(|session| !session.is_default).cloned().collect()
    }

    /// Removes and returns all sessions.
    pub(super) fn take_all(&self) -> Vec<Arc<Session>> {
        lock(&self.by_profile).drain().map(|(_, session)| session).collect()
    }
}
