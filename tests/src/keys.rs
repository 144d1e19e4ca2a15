//! The keys of a test's world, and their owners.
//!
//! Every secret starts with [`CANARY`] and every session token with [`TOKEN_CANARY`], so that a search for two constant
//! strings finds any leak. The rest of a key is random: two tests never share one.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use sha2::{Digest, Sha256};

/// The prefix of every secret access key of the tests.
pub const CANARY: &str = "SgwCanarySecret/";
/// The prefix of every session token of the tests.
pub const TOKEN_CANARY: &str = "SgwCanaryToken/";

/// One access key, and its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// `AKIA…`, or `ASIA…` with a session token.
    pub access_key_id: String,
    /// 40 characters, starting with [`CANARY`].
    pub secret: String,
    /// Starts with [`TOKEN_CANARY`]; a request must have exactly this token.
    pub session_token: Option<String>,
    /// The ARN that GetCallerIdentity returns.
    pub identity: String,
    /// The 12 digits of the account.
    pub account: String,
}

impl Key {
    /// A new long-lived key of the user `name` in an account of its own.
    #[must_use]
    pub fn user(name: &str) -> Self {
        let account = account(name);
        let random = random();
        Self {
            access_key_id: format!("AKIA{}", random[..16].to_uppercase()),
            secret: format!("{CANARY}{}", &random[16..40]),
            session_token: None,
            identity: format!("arn:aws:iam::{account}:user/{name}"),
            account,
        }
    }

    /// A new temporary key of a session of the role `name`.
    #[must_use]
    pub fn role(name: &str, session: &str) -> Self {
        let account = account(name);
        let random = random();
        Self {
            access_key_id: format!("ASIA{}", random[..16].to_uppercase()),
            secret: format!("{CANARY}{}", &random[16..40]),
            // As long as real ones, and with characters that must survive headers and URLs.
            session_token: Some(format!(
                "{TOKEN_CANARY}{}+{}==",
                self::random().repeat(8),
                &random[..8]
            )),
            identity: format!("arn:aws:sts::{account}:assumed-role/{name}/{session}"),
            account,
        }
    }
}

/// All keys that a server knows. Clones share one table; a fake STS adds to it while the server runs.
#[derive(Clone, Debug, Default)]
pub struct KeyTable(Arc<RwLock<HashMap<String, Key>>>);

impl KeyTable {
    /// Adds `key`.
    pub fn insert(&self, key: Key) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        table.insert(key.access_key_id.clone(), key);
    }

    /// Removes a key, as if it were revoked.
    pub fn remove(&self, access_key_id: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(access_key_id);
    }

    /// The key with this id.
    #[must_use]
    pub fn find(&self, access_key_id: &str) -> Option<Key> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(access_key_id).cloned()
    }
}

impl FromIterator<Key> for KeyTable {
    fn from_iter<T: IntoIterator<Item = Key>>(keys: T) -> Self {
        let table = Self::default();
        keys.into_iter().for_each(|key| table.insert(key));
        table
    }
}

/// A stable account number for a name: the same name always has the same account.
fn account(name: &str) -> String {
    let sum = Sha256::digest(name);
    let number = sum[..8].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    format!("{:012}", number % 1_000_000_000_000)
}

/// 64 hex digits, different for each call in any process. Not for real secrets.
fn random() -> String {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let mut seed = [0_u8; 32];
    let filled = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
    assert_eq!(filled, Ok(seed.len()), "getrandom answers");
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let mut text = String::new();
    for byte in Sha256::digest([&seed[..], &call.to_le_bytes()].concat()) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_shape_of_real_ones() {
        let (user, role) = (Key::user("dev"), Key::role("Reader", "s"));
        assert_eq!((user.access_key_id.len(), user.secret.len()), (20, 40));
        assert_eq!((role.access_key_id.len(), role.secret.len()), (20, 40));
        assert_eq!(user.account, Key::user("dev").account);
        assert_ne!(user.secret, Key::user("dev").secret);
        assert_ne!(user.account, role.account);
    }
}
