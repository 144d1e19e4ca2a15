//! What a load read, and whether that still stands there.
//!
//! Invariant: a look changes nothing, and brings no key out of the files: what was read is compared by its
//! hash.

use std::path::PathBuf;
use std::sync::{MutexGuard, PoisonError};
use std::time::SystemTime;

use super::chain::Chain;
use super::{Source, portal};
use crate::error::Denial;
use crate::profile::home::Snapshot;
use crate::profile::login_token::LoginTokens;
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
    /// The token's file, whose changes count for this profile beside those of the AWS files.
    pub(in crate::profile) fn token_file(&self) -> Option<PathBuf> {
        self.made().token.clone()
    }

    /// Compares what the files say now with what the last load read.
    pub(in crate::profile) async fn look(&self, snapshot: &Snapshot, now: SystemTime) -> Seen {
        match self.chain(snapshot) {
            Ok(chain) if self.must_exist && !chain.exists && chain.error().is_none() => {
                self.describe(Ok(&chain), None);
                Seen::Gone
            }
            Err(denial) if self.must_exist && snapshot.taken_away => {
                self.describe(Err(&denial), None);
                Seen::Gone
            }
            Err(denial) => {
                self.describe(Err(&denial), None);
                Seen::Unreadable(denial)
            }
            Ok(chain) => {
                let found = self.made_of(&chain, now).await;
                // Whoever writes the file may be half way: what was loaded from it before is as good as it was.
                if let Some(error) = chain.error() {
                    return Seen::Unreadable(error.clone());
                }
                let mut made = self.made();
                made.token = found.token;
                // A load may have been quicker than this look, and failed.
                let others_sign = made.in_force.is_some() && made.in_force != found.files;
                if made.files != found.files || others_sign {
                    Seen::Other(Change::Files)
                } else if made.all != found.all {
                    Seen::Other(Change::Token)
                } else {
                    Seen::Same
                }
            }
        }
    }

    /// Takes note of what a load reads.
    pub(super) async fn reads(&self, chain: Result<&Chain, &Denial>, now: SystemTime) {
        let chain = match chain {
            Ok(chain) => chain,
            Err(denial) => return self.describe(Err(denial), None),
        };
        let found = self.made_of(chain, now).await;
        if chain.error().is_some() {
            return;
        }
        let mut made = self.made();
        *made = Made { in_force: made.in_force, ..found };
    }

    /// Takes note that what the last load read signs now, or nothing does.
    pub(super) fn signs(&self, any: bool) {
        let mut made = self.made();
        made.in_force = made.files.filter(|_| any);
    }

    /// What a chain is made of, with the token as it is now; also what is shown about the profile.
    pub(super) async fn made_of(&self, chain: &Chain, now: SystemTime) -> Made {
        let made = |token: &[u8], path| Made {
            files: Some(chain.fingerprint(&[])),
            all: Some(chain.fingerprint(token)),
            token: path,
            in_force: None,
        };
        if let (Some(session), Some(directory)) = (chain.login_session(), &self.login_cache) {
            let path = LoginTokens::path(directory, session);
            let found = self.tokens.login.find(&path).await;
            self.describe(Ok(chain), found.err());
            return made(&self.tokens.login.mark(&path).await, Some(path));
        }
        let Some(session) = chain.session() else {
            self.describe(Ok(chain), None);
            return made(&[], None);
        };
        let found = self.tokens.find(session).await;
        let token = found.as_ref().ok().map(|token| self.tokens.mark(session, token));
        let made = made(token.as_ref().map_or(&[][..], |token| token), self.tokens.path(session));
        let hindrance = match &found {
            Ok(token) => portal::hindrance(token, now),
            Err(denial) => Some(denial.clone()),
        };
        self.describe(Ok(chain), hindrance);
        made
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
