//! The identity of the current credentials, queried once for each access key.

use tokio::task::AbortHandle;

/// The identity, if it is known.
#[derive(Debug, Default)]
pub(super) struct KnownIdentity {
    /// The key that was queried last.
    access_key_id: String,
    /// AWS's answer; empty before the first one, and the previous one while another key is queried.
    arn: String,
    /// The running query, which holds the keys.
    asking: Option<Query>,
}

/// A query to AWS, which is aborted on drop.
#[derive(Debug)]
pub(super) struct Query(AbortHandle);

impl KnownIdentity {
    pub(super) fn arn(&self) -> &str {
        &self.arn
    }

    pub(super) fn is_about(&self, access_key_id: &str) -> bool {
        self.access_key_id == access_key_id
    }

    /// Records a query about another key.
    pub(super) fn ask(&mut self, access_key_id: &str, asking: AbortHandle) {
        access_key_id.clone_into(&mut self.access_key_id);
        self.asking = Some(Query(asking));
    }

    /// Records an answer about a key. Without an answer the identity is unknown: the previous one
    /// would be a guess, and the next load queries it again.
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

impl Drop for Query {
    fn drop(&mut self) {
        self.0.abort();
    }
}
