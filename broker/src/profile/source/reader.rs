//! Reads the AWS files and the token's cache for a profile.
//!
//! Invariant: reading changes nothing, and its result contains no key.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::chain::Chain;
use super::portal;
use crate::error::{Denial, Reason};
use crate::profile::home::Snapshot;
use crate::profile::login_token::LoginTokens;
use crate::profile::reading::{About, Found, Inputs, Reading};
use crate::profile::token::Tokens;

/// Determines which settings of the files apply to a profile.
#[derive(Debug)]
pub(super) struct Reader {
    /// The profile of the AWS files; for the default chain the one named in the environment.
    pub(super) aws_profile: String,
    /// Whether the profile must exist in the files.
    pub(super) must_exist: bool,
    /// Whether it is the SDK's default chain instead of a configured profile.
    pub(super) default_chain: bool,
    /// Whether one of the files has no path.
    pub(super) homeless: bool,
    /// The narrower role in the broker's configuration.
    pub(super) role: Option<String>,
    /// `AWS_DEFAULT_REGION`, which has priority over the profile's region.
    pub(super) first_region: Option<String>,
    /// `AWS_REGION`, which is used if the profile has no region.
    pub(super) last_region: Option<String>,
    /// The directory of the `aws login` sessions.
    pub(super) login_cache: Option<PathBuf>,
    pub(super) tokens: Arc<Tokens>,
}

impl Reader {
    /// The profile and those that it builds on.
    pub(super) fn chain(&self, snapshot: &Snapshot) -> Result<Chain, Denial> {
        let files = snapshot.files()?;
        let chain = Chain::of(files, &self.aws_profile);
        if self.must_exist && !chain.exists && self.homeless {
            let detail = "HOME is not set, and the user database has no home for this user: set HOME, or name the paths of the \
                          AWS files are (AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE, or config_file and \
                          credentials_file under [aws])";
            return Err(Denial::new(Reason::ProfileMisconfigured, detail));
        }
        Ok(chain)
    }

    /// The region, in the order of the reference proxy, which is boto3's: `AWS_DEFAULT_REGION`, the
    /// profile's region, `AWS_REGION`.
    pub(super) fn region<'a>(&'a self, chain: Option<&'a Chain>) -> Option<&'a String> {
        let own = chain.and_then(|chain| chain.region.as_ref());
        self.first_region.as_ref().or(own).or(self.last_region.as_ref())
    }

    /// The result of reading the files.
    pub(super) async fn read(&self, snapshot: &Snapshot, now: SystemTime) -> Reading {
        self.reading(snapshot, self.chain(snapshot).as_ref(), now).await
    }

    /// The same, with a chain that was already determined.
    pub(super) async fn reading(
        &self,
        snapshot: &Snapshot,
        chain: Result<&Chain, &Denial>,
        now: SystemTime,
    ) -> Reading {
        let version = snapshot.version;
        let chain = match chain {
            Ok(chain) => chain,
            Err(denial) => {
                let found = match self.must_exist && snapshot.taken_away {
                    true => Found::Gone,
                    false => Found::Unreadable(denial.clone()),
                };
                return Reading { version, about: self.about(Err(denial), None), found };
            }
        };
        let (inputs, of_token) = self.inputs(chain, now).await;
        let found = match chain.error() {
            // The file may be half written: earlier credentials stay valid.
            Some(error) => Found::Unreadable(error.clone()),
            None if self.must_exist && !chain.exists => Found::Gone,
            None => Found::Inputs(inputs),
        };
        Reading { version, about: self.about(Ok(chain), of_token), found }
    }

    /// The inputs of a chain, with the current token, and the reason why the token can't be used,
    /// if so.
    async fn inputs(&self, chain: &Chain, now: SystemTime) -> (Inputs, Option<Denial>) {
        let made_of = |sign_in: &[u8], token: &[u8], path| Inputs {
            files: chain.fingerprint(&[]),
            all: chain.fingerprint(sign_in),
            exact: chain.fingerprint(token),
            token: path,
        };
        if let (Some(session), Some(directory)) = (chain.login_session(), &self.login_cache) {
            let path = LoginTokens::path(directory, session);
            let found = self.tokens.login.find(&path).await;
            let mark = self.tokens.login.mark(&path).await;
            return (made_of(&mark, &mark, Some(path)), found.err());
        }
        let Some(session) = chain.session() else { return (made_of(&[], &[], None), None) };
        let found = self.tokens.find(session).await;
        let access = found.as_ref().map_or("", |token| token.access.expose());
        let sign_in = found.as_ref().ok().map(|token| self.tokens.mark(session, token));
        let sign_in = sign_in.as_ref().map_or(&[][..], |sign_in| sign_in);
        let inputs = made_of(sign_in, access.as_bytes(), self.tokens.path(session));
        let hindrance = match &found {
            Ok(token) => portal::hindrance(token, now),
            Err(denial) => Some(denial.clone()),
        };
        (inputs, hindrance)
    }

    /// The data for lists of profiles, including the token's error.
    fn about(&self, chain: Result<&Chain, &Denial>, of_token: Option<Denial>) -> About {
        let read = chain.ok();
        let source = match read.map(Chain::source).filter(|source| !source.is_empty()) {
            _ if self.role.is_some() => "assume role",
            Some(source) => source,
            None if self.default_chain => "default chain",
            None => "",
        };
        let hindrance = match chain {
            Ok(chain) => chain.hindrance(&self.aws_profile, self.must_exist).or(of_token),
            Err(denial) => Some(denial.clone()),
        };
        let traceable = read.and_then(|chain| chain.traceable(self.role.is_some()));
        let named = read.map(|chain| chain.account_and_role(self.role.as_deref()));
        let (account, role) = named.unwrap_or_default();
        let region = self.region(read).cloned();
        About { region, source, hindrance, account, role, traceable }
    }
}
