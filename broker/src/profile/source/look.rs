//! What a load read, and whether that still stands there.
//!
//! Invariant: a look changes nothing, and brings no key out of the files: what was read is compared by its
//! hash.

use std::path::PathBuf;
use std::sync::{MutexGuard, PoisonError};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::Source;
use super::chain::Chain;
use crate::config::CredentialsFrom;
use crate::error::Denial;

/// What a profile's credentials were last made of, and where that stands.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) fingerprint: Option<[u8; 32]>,
    /// The cache file of the token, or of the login session.
    pub(super) token: Option<PathBuf>,
}

/// What has become of what the last load read.
#[derive(Debug)]
pub(in crate::profile) enum Seen {
    /// It stands there as it did.
    Same,
    /// Another load would read something else.
    Other,
    /// The profile isn't there any more.
    Gone,
    /// Nobody can tell.
    Unreadable(Denial),
}

impl Source {
    /// The files whose changes count for this profile.
    pub(in crate::profile) fn watched(&self) -> Vec<PathBuf> {
        self.files.paths().cloned().chain(self.made().token.clone()).collect()
    }

    /// Compares what stands there now with what the last load read.
    pub(in crate::profile) async fn look(&self) -> Seen {
        let must_exist = matches!(self.from, CredentialsFrom::AwsProfile(_));
        match self.chain().await.map(|(chain, _)| chain) {
            Ok(chain) if must_exist && !chain.exists => Seen::Gone,
            Err(_) if must_exist && self.files.taken_away() => Seen::Gone,
            Err(denial) => Seen::Unreadable(denial),
            Ok(chain) => {
                let now = self.made_of(&chain);
                let mut made = self.made();
                made.token = now.token;
                match made.fingerprint == now.fingerprint {
                    true => Seen::Same,
                    false => Seen::Other,
                }
            }
        }
    }

    pub(super) fn made_of(&self, chain: &Chain) -> Made {
        if let (Some(session), Some(directory)) = (chain.login_session(), &self.login_cache) {
            // The SDK names and reads it in the same way.
            let name = hex::encode(Sha256::digest(session.trim())) + ".json";
            let path = directory.join(name);
            let cached = Zeroizing::new(std::fs::read(&path).unwrap_or_default());
            return Made { fingerprint: Some(chain.fingerprint(&cached)), token: Some(path) };
        }
        let session = chain.session();
        let token = session.and_then(|session| self.tokens.find(session));
        let access = token.as_ref().map_or("", |token| token.access.expose());
        Made {
            fingerprint: Some(chain.fingerprint(access.as_bytes())),
            token: session.and_then(|session| self.tokens.path(session)),
        }
    }

    pub(super) fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
