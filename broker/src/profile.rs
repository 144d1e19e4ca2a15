//! The profiles: whose credentials sign, and what state they are in.
//!
//! Invariant: credentials leave this module only against a [`Grant`]. `source` makes them, anew for
//! each load; an `actor` for each profile keeps them fresh, and its state is read without a lock and without a file.

mod actor;
mod aws_files;
mod cache_file;
mod dpop;
mod entry;
mod failure;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod fuzz;
mod home;
mod identity;
mod load;
mod locks;
mod login;
mod login_token;
mod mark;
mod observer;
mod origins;
mod reading;
mod source;
mod surroundings;
mod survey;
mod time;
mod token;
mod token_error;
mod values;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::SystemTime;

use aws_types::SdkConfig;
use sigward_proto::v1::ProfileState;

use self::actor::Actor;
use self::entry::Entry;
use self::home::Home;
pub use self::identity::Identity;
use self::identity::account_of;
use self::login::Logins;
pub use self::login::{Done, Login, Prompt, Stage};
pub(crate) use self::mark::Mark;
use self::observer::Observed;
pub use self::observer::Observer;
use self::reading::Change;
use self::source::Source;
pub use self::source::listed::{Listed, listed, names};
pub use self::source::named::{Named, named};
pub use self::surroundings::Surroundings;
use self::survey::Survey;
use self::token::{Session, Tokens};
use self::watch::Watch;
use crate::clock::Clock;
use crate::config::{AwsFiles, Config, ProfileName};
use crate::error::{Denial, Reason};
use crate::policy::{Grant, LoginGrant};
use crate::secret::Credentials;

/// All profiles, in the order of the configuration.
#[derive(Debug)]
pub struct Profiles {
    profiles: Vec<Arc<Entry>>,
    by_name: HashMap<ProfileName, usize>,
    /// Which AWS files they are of.
    given: AwsFiles,
    home: Arc<Home>,
    survey: OnceLock<Survey>,
    tokens: Arc<Tokens>,
    logins: Arc<Logins>,
    changes: tokio::sync::watch::Sender<()>,
    observer: Arc<dyn Observer>,
    watch: OnceLock<Watch>,
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
    /// When they were loaded.
    pub loaded: Option<SystemTime>,
    /// Which credentials they are; 0 for none yet.
    pub generation: u64,
    /// Whose they are, where the configuration says to ask; else empty.
    pub identity_arn: String,
}

/// A sign-in that may begin.
#[derive(Debug)]
pub struct SignIn {
    session: Session,
    config: SdkConfig,
    home: Arc<Home>,
    logins: Arc<Logins>,
    /// All profiles, some of which are of the same session.
    all: Vec<(Weak<Source>, Weak<Actor>)>,
}

impl SignIn {
    /// Begins it, or joins the one of the same session that is under way. Once that is done, all profiles of the session
    /// are loaded anew.
    #[must_use]
    pub fn begin(self) -> Arc<Login> {
        let Self { session, config, home, logins, all } = self;
        let key = session.key().to_owned();
        logins.join(session, &config, async move {
            let snapshot = home.read().await;
            for (source, actor) in &all {
                let (Some(source), Some(actor)) = (source.upgrade(), actor.upgrade()) else {
                    continue;
                };
                if source.session_of(&snapshot).is_ok_and(|session| session.key() == key) {
                    actor.change(Change::Token);
                }
            }
        })
    }
}

impl Profiles {
    /// The profiles of a configuration. Nothing is loaded; `observer` hears of each load to come.
    #[must_use]
    pub fn new(config: &Config, surroundings: &Surroundings, observer: Arc<dyn Observer>) -> Self {
        let tokens = Arc::new(Tokens::new(surroundings.home.as_deref()));
        let logins = Arc::new(Logins::new(Arc::clone(&tokens)));
        let changes = tokio::sync::watch::Sender::new(());
        let empty = Self {
            profiles: Vec::new(),
            by_name: HashMap::new(),
            given: config.aws.clone(),
            home: Arc::new(Home::new(&config.aws, surroundings)),
            survey: OnceLock::new(),
            tokens,
            logins,
            changes,
            observer,
            watch: OnceLock::new(),
        };
        empty.next(config, surroundings)
    }

    /// Those of the configuration that follows. A profile whose credentials come from where they came
    /// from before keeps them.
    #[must_use]
    pub fn next(&self, config: &Config, surroundings: &Surroundings) -> Self {
        let home = if self.given == config.aws {
            Arc::clone(&self.home)
        } else {
            Arc::new(Home::new(&config.aws, surroundings))
        };
        let profiles = config.profiles.iter().map(|profile| {
            let changes = self.changes.clone();
            let tokens = Arc::clone(&self.tokens);
            let home = Arc::clone(&home);
            let source = Source::new(profile, config, surroundings, home, tokens);
            let before = self.find_shared(&profile.name);
            let (source, actor) = match before.filter(|before| before.source.is_like(&source)) {
                Some(before) => (Arc::clone(&before.source), Arc::clone(&before.actor)),
                None => {
                    let source = Arc::new(source);
                    let load = Observed {
                        source: Arc::clone(&source),
                        name: profile.name.clone(),
                        observer: Arc::clone(&self.observer),
                    };
                    let actor = Actor::new(Arc::new(load), changes, Clock::system());
                    (source, Arc::new(actor))
                }
            };
            let (name, description) = (profile.name.clone(), profile.description.clone());
            let role_account = profile.role.as_ref().and_then(|role| account_of(&role.arn));
            Arc::new(Entry {
                name,
                description,
                preload: profile.preload,
                role_account,
                source,
                actor,
            })
        });
        let profiles: Vec<_> = profiles.collect();
        let names = profiles.iter().enumerate().map(|(index, it)| (it.name.clone(), index));
        Self {
            by_name: names.collect(),
            profiles,
            given: config.aws.clone(),
            home,
            survey: OnceLock::new(),
            tokens: Arc::clone(&self.tokens),
            logins: Arc::clone(&self.logins),
            changes: self.changes.clone(),
            observer: Arc::clone(&self.observer),
            watch: OnceLock::new(),
        }
    }

    /// Takes over from the profiles of the configuration before: keys that nobody may use any more are
    /// dropped, and what was in use under the same name is loaded.
    pub fn succeed(&self, before: &Self) {
        for old in &before.profiles {
            let kept = |new: &Arc<Entry>| Arc::ptr_eq(&new.actor, &old.actor);
            if self.profiles.iter().any(kept) {
                continue;
            }
            if old.actor.is_touched()
                && let Ok(new) = self.find(&old.name)
            {
                new.actor.start();
            }
            old.actor.end();
        }
        if before.watch.get().is_some() {
            self.watch();
            self.preload();
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
        self.find(grant.profile())?.actor.credentials(now).await
    }

    /// Takes note that upstream refused a signature of this generation, and loads once.
    ///
    /// # Errors
    /// Why that load failed.
    pub async fn reject(&self, name: &ProfileName, generation: u64) -> Result<u64, Denial> {
        self.find(name)?.actor.reject(generation).await
    }

    /// A sign-in of a person for the profile that the grant is for. Until it begins, AWS isn't asked for anything.
    ///
    /// # Errors
    /// NOT_A_LOGIN_PROFILE, or what is wrong with the profile.
    pub async fn sign_in(&self, grant: &LoginGrant) -> Result<SignIn, Denial> {
        let profile = self.find(grant.profile())?;
        let session = profile.source.session().await?;
        let config = profile.source.client().await?;
        let (home, logins) = (Arc::clone(&self.home), Arc::clone(&self.logins));
        let all = self.profiles.iter();
        let all = all.map(|it| (Arc::downgrade(&it.source), Arc::downgrade(&it.actor))).collect();
        Ok(SignIn { session, config, home, logins, all })
    }

    /// Starts to load the first profile, which a private broker is about to be asked for.
    pub fn prefetch(&self) {
        if let Some(profile) = self.profiles.first() {
            profile.actor.start();
        }
    }

    /// Starts to load the profiles that the configuration says to load at the start.
    pub fn preload(&self) {
        for profile in self.profiles.iter().filter(|profile| profile.preload) {
            profile.actor.start();
        }
    }

    /// Begins to pick up changes of the AWS files and of the SSO cache.
    pub fn watch(&self) {
        self.survey();
        self.watch.get_or_init(|| {
            let home = Arc::clone(&self.home);
            Watch::start(home, self.profiles.clone(), self.changes.clone())
        });
    }

    /// Reads the files once for all profiles that nobody has read them for.
    fn survey(&self) -> &Survey {
        self.survey.get_or_init(|| {
            let home = Arc::clone(&self.home);
            Survey::start(home, self.profiles.clone(), self.changes.clone())
        })
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &ProfileName> {
        self.profiles.iter().map(|profile| &profile.name)
    }

    /// What can be told about a profile now, from memory. The first calls wait for the files to be read, for so long as
    /// a disk takes that doesn't hang.
    ///
    /// # Errors
    /// There is no such profile.
    pub async fn view(&self, name: &ProfileName, now: SystemTime) -> Result<View, Denial> {
        let profile = self.find(name)?;
        self.survey().wait().await;
        let mut status = profile.actor.view(now);
        let about = status.about;
        // Before anyone has asked, the files may tell already that it will fail.
        if status.state == ProfileState::Unloaded
            && let Some(hindrance) = about.as_ref().and_then(|about| about.hindrance.clone())
        {
            status.state = match hindrance.reason() {
                Reason::LoginRequired => ProfileState::LoginRequired,
                Reason::CredentialsUnavailable => ProfileState::Unloaded,
                _ => ProfileState::Misconfigured,
            };
            status.failure.get_or_insert(hindrance);
        }
        Ok(View {
            name: profile.name.clone(),
            description: profile.description.clone(),
            region: about.as_ref().and_then(|about| about.region.clone()),
            source: about.map_or("", |about| about.source),
            state: status.state,
            failure: status.failure,
            expiry: status.expiry,
            loaded: status.loaded,
            generation: status.generation,
            identity_arn: status.identity_arn,
        })
    }

    /// Whose quotas a profile's calls count for: the account, as far as anything tells it; else the key, where it stays
    /// the same, or the profile.
    #[must_use]
    pub fn account(&self, name: &ProfileName) -> String {
        let of_profile = || format!("profile {name}");
        let Ok(profile) = self.find(name) else { return of_profile() };
        let known = profile.actor.account().or_else(|| profile.role_account.clone());
        known.or_else(|| profile.actor.lasting_key()).unwrap_or_else(of_profile)
    }

    /// Whose identity the profile's credentials are, by `sts:GetCallerIdentity`.
    ///
    /// # Errors
    /// Why they can't be had, or AWS doesn't accept them.
    pub async fn identity(&self, name: &ProfileName, now: SystemTime) -> Result<Identity, Denial> {
        let profile = self.find(name)?;
        let credentials = profile.actor.credentials(now).await?;
        let keys = credentials.expose_keys().clone();
        identity::ask(profile.source.client().await?, keys).await
    }

    /// Wakes up after each change of any profile's state.
    #[must_use]
    pub fn changes(&self) -> tokio::sync::watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn find(&self, name: &ProfileName) -> Result<&Entry, Denial> {
        let unknown = || Denial::new(Reason::ProfileNotAllowed, "no such profile");
        self.find_shared(name).map(Arc::as_ref).ok_or_else(unknown)
    }

    fn find_shared(&self, name: &ProfileName) -> Option<&Arc<Entry>> {
        self.by_name.get(name).and_then(|index| self.profiles.get(*index))
    }
}

#[cfg(test)]
mod tests;
