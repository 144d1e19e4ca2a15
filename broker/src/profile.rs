//! The profiles: whose credentials sign, and what state they are in.
//!
//! Invariant: credentials leave this module only against a [`Grant`]. `source` makes them, anew for
//! each load; `refresh` keeps them fresh.

#[cfg(test)]
pub(crate) mod fake;
mod identity;
mod login;
mod refresh;
mod source;
mod surroundings;
mod token;
mod watch;

use std::sync::{Arc, OnceLock, Weak};
use std::time::SystemTime;

use sigward_proto::v1::{ProfileState, Reason};

pub use self::identity::Identity;
use self::login::Logins;
pub use self::login::{Done, Login, Prompt, Stage};
use self::refresh::{Change, Refresh};
use self::source::Source;
pub use self::surroundings::Surroundings;
use self::token::Tokens;
use self::watch::Watch;
use crate::clock::Clock;
use crate::config::{Config, ProfileName};
use crate::error::Denial;
use crate::policy::{Grant, LoginGrant};
use crate::secret::Credentials;

/// All profiles, in the order of the configuration.
#[derive(Debug)]
pub struct Profiles {
    profiles: Vec<Arc<Profile>>,
    tokens: Arc<Tokens>,
    logins: Arc<Logins>,
    changes: tokio::sync::watch::Sender<()>,
    watch: OnceLock<Watch>,
}

#[derive(Debug)]
struct Profile {
    name: ProfileName,
    description: String,
    source: Arc<Source>,
    refresh: Arc<Refresh>,
}

/// What can be told about a profile: never a key.
#[derive(Debug)]
pub struct View {
    /// What callers call it.
    pub name: ProfileName,
    /// For people and models.
    pub description: String,
    /// The region that it works in, where its file names one.
    pub region: Option<String>,
    /// Where its credentials come from.
    pub source: &'static str,
    /// How its credentials are.
    pub state: ProfileState,
    /// Why it can't sign, or why its last load failed.
    pub failure: Option<Denial>,
    /// When its credentials end.
    pub expiry: Option<SystemTime>,
    /// Which credentials they are; 0 for none yet.
    pub generation: u64,
    /// Whose they are, where the configuration says to ask; else empty.
    pub identity_arn: String,
}

impl Profiles {
    /// The profiles of a configuration. Nothing is loaded.
    #[must_use]
    pub fn new(config: &Config, surroundings: &Surroundings) -> Self {
        let tokens = Arc::new(Tokens::new(surroundings.home.as_deref()));
        let logins = Arc::new(Logins::new(Arc::clone(&tokens)));
        let changes = tokio::sync::watch::Sender::new(());
        let empty = Self { profiles: Vec::new(), tokens, logins, changes, watch: OnceLock::new() };
        empty.next(config, surroundings)
    }

    /// Those of the configuration that follows. A profile whose credentials come from where they came
    /// from before keeps them.
    #[must_use]
    pub fn next(&self, config: &Config, surroundings: &Surroundings) -> Self {
        let profiles = config.profiles.iter().map(|profile| {
            let changes = self.changes.clone();
            let tokens = Arc::clone(&self.tokens);
            let source = Source::new(profile, config, surroundings, tokens, changes.clone());
            let same = |before: &&Arc<Profile>| before.source.is_like(&source);
            let (source, refresh) = match self.profiles.iter().find(same) {
                Some(before) => (Arc::clone(&before.source), Arc::clone(&before.refresh)),
                None => {
                    let source = Arc::new(source);
                    let load = Arc::new(Arc::clone(&source));
                    let refresh = Refresh::new(load, changes, Clock::system());
                    (source, Arc::new(refresh))
                }
            };
            let (name, description) = (profile.name.clone(), profile.description.clone());
            Arc::new(Profile { name, description, source, refresh })
        });
        Self {
            profiles: profiles.collect(),
            tokens: Arc::clone(&self.tokens),
            logins: Arc::clone(&self.logins),
            changes: self.changes.clone(),
            watch: OnceLock::new(),
        }
    }

    /// Takes over from the profiles of the configuration before: keys that nobody may use any more are
    /// dropped, and what was in use under the same name is loaded.
    pub fn succeed(&self, before: &Self) {
        for old in &before.profiles {
            let kept = |new: &Arc<Profile>| Arc::ptr_eq(&new.refresh, &old.refresh);
            if self.profiles.iter().any(kept) {
                continue;
            }
            if old.refresh.touched()
                && let Ok(new) = self.find(&old.name)
            {
                new.refresh.start();
            }
            old.refresh.end();
        }
        if before.watch.get().is_some() {
            self.watch();
        }
        self.announce();
    }

    /// Wakes up whoever waits for changes.
    pub fn announce(&self) {
        self.changes.send_replace(());
    }

    /// Fresh credentials of the profile that the grant is for.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn credentials(
        &self,
        grant: &Grant<'_>,
        now: SystemTime,
    ) -> Result<Arc<Credentials>, Denial> {
        self.find(grant.profile())?.refresh.credentials(now).await
    }

    /// Takes note that upstream refused a signature of this generation, and loads once.
    ///
    /// # Errors
    /// Why that load failed.
    pub async fn reject(&self, name: &ProfileName, generation: u64) -> Result<u64, Denial> {
        self.find(name)?.refresh.reject(generation).await
    }

    /// Signs a person in for the profile that the grant is for, or joins who does so already. Once that
    /// is done, all profiles of the same session are loaded anew.
    ///
    /// # Errors
    /// NOT_A_LOGIN_PROFILE, or what is wrong with the profile.
    pub async fn login(&self, grant: &LoginGrant) -> Result<Arc<Login>, Denial> {
        let profile = self.find(grant.profile())?;
        let session = profile.source.session().await?;
        let config = profile.source.client(None).await?;
        let others: Vec<(Weak<Source>, Weak<Refresh>)> = self
            .profiles
            .iter()
            .map(|profile| (Arc::downgrade(&profile.source), Arc::downgrade(&profile.refresh)))
            .collect();
        let key = session.key().to_owned();
        Ok(self.logins.join(session, &config, async move {
            for (source, refresh) in &others {
                let (Some(source), Some(refresh)) = (source.upgrade(), refresh.upgrade()) else {
                    continue;
                };
                if source.session().await.is_ok_and(|session| session.key() == key) {
                    refresh.reload(Change::Token);
                }
            }
        }))
    }

    /// Starts to load the first profile, which a private broker is about to be asked for.
    pub fn prefetch(&self) {
        if let Some(profile) = self.profiles.first() {
            profile.refresh.start();
        }
    }

    /// Begins to pick up changes of the AWS files and of the SSO cache.
    pub fn watch(&self) {
        self.watch.get_or_init(|| Watch::start(self.profiles.clone(), self.changes.clone()));
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &ProfileName> {
        self.profiles.iter().map(|profile| &profile.name)
    }

    /// What can be told about a profile now. Reads its files, and loads nothing.
    ///
    /// # Errors
    /// There is no such profile.
    pub async fn view(&self, name: &ProfileName, now: SystemTime) -> Result<View, Denial> {
        let profile = self.find(name)?;
        let about = profile.source.describe().await;
        let status = profile.refresh.status(now);
        Ok(View {
            name: profile.name.clone(),
            description: profile.description.clone(),
            region: about.region,
            source: about.source,
            state: status.state,
            failure: status.failure,
            expiry: status.expiry,
            generation: status.generation,
            identity_arn: profile.source.identity_arn(),
        })
    }

    /// Whose identity the profile's credentials are, by `sts:GetCallerIdentity`.
    ///
    /// # Errors
    /// Why they can't be had, or AWS doesn't accept them.
    pub async fn identity(&self, name: &ProfileName, now: SystemTime) -> Result<Identity, Denial> {
        let profile = self.find(name)?;
        let credentials = profile.refresh.credentials(now).await?;
        let keys = credentials.expose_keys().clone();
        identity::ask(profile.source.client(Some(keys)).await?).await
    }

    /// Wakes up after each change of any profile's state.
    #[must_use]
    pub fn changes(&self) -> tokio::sync::watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn find(&self, name: &ProfileName) -> Result<&Profile, Denial> {
        let unknown = || Denial::new(Reason::ProfileNotAllowed, "no such profile");
        let mut profiles = self.profiles.iter().map(Arc::as_ref);
        profiles.find(|profile| profile.name == *name).ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests;
