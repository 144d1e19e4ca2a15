//! The identity of the credentials in force, asked once for each access key.

use tokio::task::AbortHandle;

/// Whose they are, as far as that is known.
#[derive(Debug, Default)]
pub(super) struct Whose {
    /// Of the key that was asked about last.
    access_key_id: String,
    /// What AWS said; empty while it hasn't. While it is asked about the next key, that of the one before.
    arn: String,
    /// Holds the keys.
    asking: Option<Asking>,
}

/// A question to AWS, which ends with this value.
#[derive(Debug)]
pub(super) struct Asking(AbortHandle);

impl Whose {
    pub(super) fn arn(&self) -> &str {
        &self.arn
    }

    pub(super) fn is_about(&self, access_key_id: &str) -> bool {
        self.access_key_id == access_key_id
    }

    /// AWS is asked about another key.
    pub(super) fn ask(&mut self, access_key_id: &str, asking: AbortHandle) {
        access_key_id.clone_into(&mut self.access_key_id);
        self.asking = Some(Asking(asking));
    }

    /// AWS has answered about a key. Without an answer nothing is known: that of the keys before would be a guess, and
    /// the next load asks again.
    pub(super) fn answer(&mut self, access_key_id: &str, arn: Option<String>) {
        if !self.is_about(access_key_id) {
            return;
        }
        match arn {
            Some(arn) => self.arn = arn,
            None => *self = Self::default(),
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}
