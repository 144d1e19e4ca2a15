//! The profiles: their credentials, and the state of these.
//!
//! Invariant: credentials leave this module only for a [`Grant`]. `source` loads them, from the
//! beginning each time; an `actor` for each profile keeps them fresh, and its state is read without
//! locks and files.

mod actor;
mod agents;
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
mod traceable;
mod values;
mod view;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::SystemTime;

use aws_types::SdkConfig;

use self::actor::Actor;
use self::agents::AgentActor;
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
pub use self::view::View;
use self::watch::Watch;
use crate::clock::Clock;
use crate::config::{Agent, AwsFiles, Config, ProfileName};
use crate::error::{Denial, Reason};
use crate::policy::{Grant, LoginGrant};
use crate::secret::Credentials;

/// All profiles, in the order of the configuration.
#[derive(Debug)]
pub struct Profiles {
    profiles: Vec<Arc<Entry>>,
    by_name: HashMap<ProfileName, usize>,
    /// The configured AWS files.
    given: AwsFiles,
    home: Arc<Home>,
    survey: OnceLock<Survey>,
    tokens: Arc<Tokens>,
    logins: Arc<Logins>,
    changes: tokio::sync::watch::Sender<()>,
    observer: Arc<dyn Observer>,
    watch: OnceLock<Watch>,
}

/// A sign-in that can be started.
#[derive(Debug)]
pub struct SignIn {
    session: Session,
    config: SdkConfig,
    home: Arc<Home>,
    logins: Arc<Logins>,
    /// All profiles; some of them use the same session.
    all: Vec<(Weak<Source>, Vec<Weak<Actor>>)>,
}

impl SignIn {
    /// Starts the sign-in, or joins the one in progress for the same session. Afterwards all
    /// profiles of the session are reloaded.
    #[must_use]
    pub fn begin(self) -> Arc<Login> {
        let Self { session, config, home, logins, all } = self;
        let key = session.key().to_owned();
        logins.join(session, &config, async move {
            let snapshot = home.read().await;
            for (source, actors) in &all {
                let Some(source) = source.upgrade() else { continue };
                if source.session_of(&snapshot).is_ok_and(|session| session.key() == key) {
                    actors.iter().filter_map(Weak::upgrade).for_each(|it| it.change(Change::Token));
                }
            }
        })
    }
}

impl Profiles {
    /// The profiles of a configuration. Nothing is loaded; `observer` is called after each load.
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

    /// The profiles of the next configuration. A profile keeps its credentials if their source
    /// hasn't changed.
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
            let before = before.filter(|before| before.source.is_like(&source));
            let source = before.map_or_else(|| Arc::new(source), |it| Arc::clone(&it.source));
            let load = Observed {
                source: Arc::clone(&source),
                agent: None,
                name: profile.name.clone(),
                observer: Arc::clone(&self.observer),
            };
            let is_shared = agents::is_shared(&profile.name, &config.rules);
            let agents = agents::agents(&profile.name, &config.rules).into_iter().map(|agent| {
                let known = before.and_then(|before| before.agent(&agent));
                let new = || Arc::new(AgentActor::new(agent, load.clone(), changes.clone()));
                known.cloned().unwrap_or_else(new)
            });
            let agents = agents.collect();
            // Keys that no one may use any more aren't kept.
            let known = before.filter(|before| is_shared || !before.is_shared);
            let actor = known.map_or_else(
                || Arc::new(Actor::new(Arc::new(load), changes, Clock::system())),
                |known| Arc::clone(&known.actor),
            );
            let (name, description) = (profile.name.clone(), profile.description.clone());
            let role_account = profile.role.as_ref().and_then(|role| account_of(&role.arn));
            let preload = profile.preload;
            Arc::new(Entry {
                name,
                description,
                preload,
                role_account,
                source,
                actor,
                is_shared,
                agents,
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

    /// Replaces the profiles of the previous configuration: drops keys that no one may use any
    /// more, and loads those that replace used ones.
    pub fn succeed(&self, before: &Self) {
        for old in &before.profiles {
            let new = self.find(&old.name).ok();
            let replaced = |old: &Arc<Actor>, new: Option<&Arc<Actor>>| {
                // Keys that replace used ones are loaded in advance.
                if let Some(new) = new.filter(|_| old.is_touched()) {
                    new.start();
                }
            };
            if !new.is_some_and(|new| Arc::ptr_eq(&new.actor, &old.actor)) {
                let new = new.filter(|new| new.is_shared);
                replaced(&old.actor, new.map(|new| &new.actor));
                old.actor.end();
            }
            for agent in &old.agents {
                let successor = new.and_then(|new| new.agent(&agent.agent));
                if successor.is_some_and(|successor| Arc::ptr_eq(successor, agent)) {
                    continue;
                }
                if let Some(used) = agent.made() {
                    replaced(used, successor.map(|successor| successor.actor()));
                }
                agent.end();
            }
        }
        if before.watch.get().is_some() {
            self.watch();
            self.preload();
        }
        self.announce();
    }

    /// Wakes all that wait for changes.
    pub fn announce(&self) {
        self.changes.send_replace(());
    }

    /// Valid credentials of the grant's profile.
    ///
    /// # Errors
    /// The reason why there are none.
    pub async fn credentials(
        &self,
        grant: &Grant<'_>,
        now: SystemTime,
    ) -> Result<Arc<Credentials>, Denial> {
        self.actor(grant.profile(), grant.agent())?.credentials(now).await
    }

    /// Records that upstream refused a signature of this generation of an agent's credentials, and
    /// reloads them once.
    ///
    /// # Errors
    /// The reason why the load failed.
    pub async fn reject(
        &self,
        name: &ProfileName,
        agent: Option<&Agent>,
        generation: u64,
    ) -> Result<u64, Denial> {
        self.actor(name, agent)?.reject(generation).await
    }

    /// A sign-in for the grant's profile. AWS isn't called before it is started.
    ///
    /// # Errors
    /// NOT_A_LOGIN_PROFILE, or the error of the profile.
    pub async fn sign_in(&self, grant: &LoginGrant) -> Result<SignIn, Denial> {
        let profile = self.find(grant.profile())?;
        let session = profile.source.session().await?;
        let config = profile.source.client().await?;
        let (home, logins) = (Arc::clone(&self.home), Arc::clone(&self.logins));
        let all = self.profiles.iter();
        let all = all.map(|it| {
            let actors = it.actors().map(Arc::downgrade).collect();
            (Arc::downgrade(&it.source), actors)
        });
        let all = all.collect();
        Ok(SignIn { session, config, home, logins, all })
    }

    /// Starts to load the first profile, which a private broker will need first.
    pub fn prefetch(&self) {
        if let Some(profile) = self.profiles.first() {
            profile.actor.start();
        }
    }

    /// Starts to load the profiles that are configured to be loaded on start.
    pub fn preload(&self) {
        for profile in self.profiles.iter().filter(|profile| profile.preload) {
            if profile.is_shared {
                profile.actor.start();
            }
            profile.agents.iter().for_each(|agent| agent.actor().start());
        }
    }

    /// Starts to watch the AWS files and the SSO cache for changes.
    pub fn watch(&self) {
        self.survey();
        self.watch.get_or_init(|| {
            let home = Arc::clone(&self.home);
            Watch::start(home, self.profiles.clone(), self.changes.clone())
        });
    }

    /// Reads the files once, for all profiles that they haven't been read for.
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

    /// The name of the profile, if it exists.
    pub(crate) fn name<'n>(&self, name: &'n str) -> Option<&'n str> {
        self.by_name.contains_key(name).then_some(name)
    }

    /// The current state of a profile, or of an agent's credentials with it, from memory. The first
    /// calls wait until the files are read, but not for a hanging disk.
    ///
    /// # Errors
    /// There is no such profile or agent.
    pub async fn view(
        &self,
        name: &ProfileName,
        agent: Option<&Agent>,
        now: SystemTime,
    ) -> Result<View, Denial> {
        let profile = self.find(name)?;
        let holder = agent.map(|agent| profile.agent(agent).ok_or_else(changed)).transpose()?;
        self.survey().wait().await;
        Ok(View::of(profile, holder.map(AsRef::as_ref), now))
    }

    /// The same for the profile's credentials in use with the worst state.
    ///
    /// # Errors
    /// There is no such profile.
    pub async fn worst(&self, name: &ProfileName, now: SystemTime) -> Result<View, Denial> {
        let profile = self.find(name)?;
        self.survey().wait().await;
        let in_use = profile.agents.iter().filter(|agent| agent.made().is_some());
        let of_agents = in_use.map(|agent| View::of(profile, Some(agent), now));
        let own = View::of(profile, None, now);
        Ok(of_agents.fold(own, |worst, view| if view.is_worse(&worst) { view } else { worst }))
    }

    /// The key of the quotas of a profile's calls: the account, if it is known; else the access key
    /// if it never changes, or the profile.
    #[must_use]
    pub fn account(&self, name: &ProfileName) -> String {
        let of_profile = || format!("profile {name}");
        let Ok(profile) = self.find(name) else { return of_profile() };
        let known = profile.actor.account().or_else(|| profile.role_account.clone());
        known.or_else(|| profile.actor.lasting_key()).unwrap_or_else(of_profile)
    }

    /// The agents of a profile, in the order of the rules; `None` stands for the profile's own
    /// credentials.
    ///
    /// # Errors
    /// There is no such profile.
    pub fn agents(&self, name: &ProfileName) -> Result<Vec<Option<&Agent>>, Denial> {
        let profile = self.find(name)?;
        let own = profile.is_shared.then_some(None);
        let agents = profile.agents.iter().map(|agent| Some(agent.agent.as_ref()));
        Ok(own.into_iter().chain(agents).collect())
    }

    /// The identity of the credentials, by `sts:GetCallerIdentity`.
    ///
    /// # Errors
    /// The credentials can't be loaded, or AWS doesn't accept them.
    pub async fn identity(
        &self,
        name: &ProfileName,
        agent: Option<&Agent>,
        now: SystemTime,
    ) -> Result<Identity, Denial> {
        let credentials = self.actor(name, agent)?.credentials(now).await?;
        let keys = credentials.expose_keys().clone();
        identity::ask(self.find(name)?.source.client().await?, keys).await
    }

    /// A receiver that is notified of each change of any profile's state.
    #[must_use]
    pub fn changes(&self) -> tokio::sync::watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// The actor for an agent's credentials with a profile, or for the profile's own.
    fn actor(&self, name: &ProfileName, agent: Option<&Agent>) -> Result<&Arc<Actor>, Denial> {
        let profile = self.find(name)?;
        match agent {
            None => Ok(&profile.actor),
            Some(agent) => Ok(profile.agent(agent).ok_or_else(changed)?.actor()),
        }
    }

    fn find(&self, name: &ProfileName) -> Result<&Entry, Denial> {
        let unknown = || Denial::new(Reason::ProfileNotAllowed, "no such profile");
        self.find_shared(name).map(Arc::as_ref).ok_or_else(unknown)
    }

    fn find_shared(&self, name: &ProfileName) -> Option<&Arc<Entry>> {
        self.by_name.get(name).and_then(|index| self.profiles.get(*index))
    }
}

/// The error for an unknown agent of the profile.
fn changed() -> Denial {
    Denial::new(Reason::CredentialsUnavailable, "the rules have just changed")
}

#[cfg(test)]
mod tests;
