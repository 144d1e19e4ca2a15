//! The types for keys and tokens.
//!
//! Invariant: [`Credentials`] has no `Display`, no `Serialize` and no `Clone`, its `Debug` shows no
//! key, and its strings are zeroed on drop (by the inner type of the AWS SDK; copies that libraries
//! leave on the heap are zeroed by [`crate::memory`]). Code that accesses a key can be found by
//! searching for `expose`.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_smithy_runtime_api::client::identity::Identity;
use zeroize::Zeroizing;

/// Credentials aren't used in their last seconds: the request may arrive after the expiry.
const LAST_SECONDS: Duration = Duration::from_secs(15);

/// The credentials of one profile, as loaded once.
pub struct Credentials {
    keys: aws_credential_types::Credentials,
    identity: Identity,
    loaded: SystemTime,
    generation: u64,
}

impl Credentials {
    /// Wraps a provider's response, which was loaded at the time `loaded`.
    pub(crate) fn new(
        keys: aws_credential_types::Credentials,
        loaded: SystemTime,
        generation: u64,
    ) -> Self {
        let identity = Identity::from(keys.clone());
        Self { keys, identity, loaded, generation }
    }

    /// The access key id.
    #[must_use]
    pub fn access_key_id(&self) -> &str {
        self.keys.access_key_id()
    }

    /// The account of the credentials, if the provider returned it.
    #[must_use]
    pub fn account(&self) -> Option<&str> {
        self.keys.account_id().map(|account| account.as_str())
    }

    /// The expiry, if there is one.
    #[must_use]
    pub fn expiry(&self) -> Option<SystemTime> {
        self.keys.expiry()
    }

    /// The generation, which increases with each load of different credentials.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether they may be used at `now`.
    #[must_use]
    pub fn usable(&self, now: SystemTime) -> bool {
        self.expiry().is_none_or(|expiry| now + LAST_SECONDS < expiry)
    }

    /// The lifetime from the load to the expiry, if there is one.
    pub(crate) fn life(&self) -> Option<Duration> {
        self.expiry().map(|expiry| expiry.duration_since(self.loaded).unwrap_or_default())
    }

    /// The time of the load.
    pub(crate) fn loaded(&self) -> SystemTime {
        self.loaded
    }

    /// The keys, only for AWS's signer.
    pub(crate) fn expose_identity(&self) -> &Identity {
        &self.identity
    }

    /// The keys, for the signature, and for comparison with those of another load.
    pub(crate) fn expose_keys(&self) -> &aws_credential_types::Credentials {
        &self.keys
    }
}

/// A token, or another text that must not be shown; zeroed on drop.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    pub(crate) fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl From<Zeroizing<String>> for Secret {
    fn from(text: Zeroizing<String>) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("** redacted **")
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("generation", &self.generation)
            .field("keys", &"** redacted **")
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_key() {
        let keys = aws_credential_types::Credentials::new(
            "AKIDCANARY",
            "secretcanary",
            Some("tokencanary".to_owned()),
            None,
            "test",
        );
        let shown = format!("{:?}", Credentials::new(keys, SystemTime::UNIX_EPOCH, 1));
        assert!(!shown.contains("canary") && !shown.contains("CANARY"), "{shown}");
        assert!(!format!("{:?}", Secret::new("canary".to_owned())).contains("canary"));
    }

    #[test]
    fn credentials_are_unusable_in_their_last_seconds() {
        let expiry = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let keys = aws_credential_types::Credentials::new("A", "s", None, Some(expiry), "test");
        let credentials = Credentials::new(keys, SystemTime::UNIX_EPOCH, 1);
        assert!(credentials.usable(expiry - Duration::from_secs(16)));
        assert!(!credentials.usable(expiry - Duration::from_secs(15)));
        assert!(!credentials.usable(expiry + Duration::from_secs(1)));
        assert_eq!(credentials.life(), Some(Duration::from_secs(1000)));
    }
}
