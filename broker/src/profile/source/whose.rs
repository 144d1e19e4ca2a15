//! Whose the credentials in force are, asked in the background where the configuration says so.

use std::sync::{Arc, MutexGuard, PoisonError};

use aws_credential_types::Credentials;
use tokio::task::AbortHandle;

use super::Source;
use crate::profile::identity;

/// Whose they are, as far as that is known.
#[derive(Debug, Default)]
pub(super) struct Whose {
    /// Of the key that was asked about last.
    access_key_id: String,
    /// What AWS said; empty while it hasn't.
    arn: String,
    /// Holds the keys.
    asking: Option<AbortHandle>,
}

impl Source {
    /// Whose the credentials are, where that was asked; else empty.
    pub(in crate::profile) fn identity_arn(&self) -> String {
        self.whose().arn.clone()
    }

    /// Asks whose the keys are that sign from now on, once for each. Nobody waits for the answer. Without keys
    /// nothing is known, and nothing held.
    pub(super) fn identify(self: &Arc<Self>, keys: Option<&Credentials>) {
        let mut whose = self.whose();
        let Some(keys) = keys.filter(|_| self.identify) else {
            *whose = Whose::default();
            return;
        };
        if whose.access_key_id == keys.access_key_id() {
            return;
        }
        if let Some(asking) = whose.asking.take() {
            asking.abort();
        }
        keys.access_key_id().clone_into(&mut whose.access_key_id);
        let (this, keys) = (Arc::clone(self), keys.clone());
        let asked_about = whose.access_key_id.clone();
        let task = tokio::spawn(async move {
            let asked = async { identity::ask(this.client().await?, keys).await }.await;
            let mut whose = this.whose();
            if whose.access_key_id != asked_about {
                return;
            }
            match asked {
                Ok(identity) => whose.arn = identity.arn,
                Err(denial) => {
                    tracing::info!(profile = %this.name, %denial, "identity not known");
                    // That of the keys before would be a guess; and the next load asks again.
                    *whose = Whose::default();
                }
            }
            drop(whose);
            this.changes.send_replace(());
        });
        whose.asking = Some(task.abort_handle());
    }

    fn whose(&self) -> MutexGuard<'_, Whose> {
        self.whose.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Whose {
    fn drop(&mut self) {
        if let Some(asking) = &self.asking {
            asking.abort();
        }
    }
}
