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
use crate::profile::refresh::Change;

/// What a profile's credentials were last made of, and where that stands.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// The hash of all that the AWS files say about it.
    files: Option<[u8; 32]>,
    /// The same, with the token.
    all: Option<[u8; 32]>,
    /// The cache file of the token, or of the login session.
    token: Option<PathBuf>,
    /// What the files said when the keys that sign now were loaded.
    in_force: Option<[u8; 32]>,
}

/// What has become of what the last load read.
#[derive(Debug)]
pub(in crate::profile) enum Seen {
    /// It stands there as it did.
    Same,
    /// Another load would read something else.
    Other(Change),
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
                // A load may have been quicker than this look, and failed.
                let others_sign = made.in_force.is_some() && made.in_force != now.files;
                if made.files != now.files || others_sign {
                    Seen::Other(Change::Files)
                } else if made.all != now.all {
                    Seen::Other(Change::Token)
                } else {
                    Seen::Same
                }
            }
        }
    }

    /// Takes note of what a load reads.
    pub(super) fn reads(&self, chain: &Chain) {
        let now = self.made_of(chain);
        let mut made = self.made();
        *made = Made { in_force: made.in_force, ..now };
    }

    /// Takes note that what the last load read signs now, or nothing does.
    pub(super) fn signs(&self, any: bool) {
        let mut made = self.made();
        made.in_force = made.files.filter(|_| any);
    }

    fn made_of(&self, chain: &Chain) -> Made {
        let made = |token: &[u8], path| Made {
            files: Some(chain.fingerprint(&[])),
            all: Some(chain.fingerprint(token)),
            token: path,
            in_force: None,
        };
        if let (Some(session), Some(directory)) = (chain.login_session(), &self.login_cache) {
            // The SDK names and reads it in the same way.
            let name = hex::encode(Sha256::digest(session.trim())) + ".json";
            let path = directory.join(name);
            let cached = Zeroizing::new(std::fs::read(&path).unwrap_or_default());
            return made(&cached, Some(path));
        }
        let session = chain.session();
        let token = session.and_then(|session| self.tokens.find(session));
        let access = token.as_ref().map_or("", |token| token.access.expose());
        made(access.as_bytes(), session.and_then(|session| self.tokens.path(session)))
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
