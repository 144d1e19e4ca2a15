//! The visible state of a profile, which contains no key.

use std::time::SystemTime;

use sigward_proto::v1::ProfileState;

use super::agents::AgentActor;
use super::entry::Entry;
use super::identity::account_and_role;
use crate::config::ProfileName;
use crate::error::{Denial, Reason};

/// The current state of a profile, or of an agent's credentials with it.
#[derive(Debug)]
pub struct View {
    /// The name for callers.
    pub name: ProfileName,
    /// The description for people and models.
    pub description: String,
    /// The region, if one is configured.
    pub region: Option<String>,
    /// The source of its credentials.
    pub source: &'static str,
    /// The state of its credentials.
    pub state: ProfileState,
    /// The reason why it can't sign, or why its last load failed.
    pub failure: Option<Denial>,
    /// The expiry of its credentials.
    pub expiry: Option<SystemTime>,
    /// The time of the last load.
    pub loaded: Option<SystemTime>,
    /// The generation of the credentials; 0 if there are none yet.
    pub generation: u64,
    /// The identity of the credentials, if the configuration asks for it; else empty.
    pub identity_arn: String,
    /// The account of the credentials, if AWS or the files name it; else empty.
    pub account: String,
    /// The role, likewise.
    pub role: String,
}

impl View {
    pub(super) fn of(profile: &Entry, agent: Option<&AgentActor>, now: SystemTime) -> Self {
        let of_profile = profile.actor.view(now);
        // The data of the files is read for the profile; the agent's credentials may never have
        // been used.
        let about = of_profile.about.clone();
        let status = match agent {
            None => Some(of_profile),
            Some(agent) => agent.made().map(|actor| actor.view(now)),
        };
        let mut view = Self {
            name: profile.name.clone(),
            description: profile.description.clone(),
            region: about.as_ref().and_then(|about| about.region.clone()),
            source: about.as_ref().map_or("", |about| about.source),
            state: status.as_ref().map_or(ProfileState::Unloaded, |status| status.state),
            failure: None,
            expiry: None,
            loaded: None,
            generation: 0,
            identity_arn: String::new(),
            account: about.as_ref().map_or_else(String::new, |about| about.account.clone()),
            role: about.as_ref().map_or_else(String::new, |about| about.role.clone()),
        };
        if let Some(status) = status {
            view.failure = status.failure;
            view.expiry = status.expiry;
            view.loaded = status.loaded;
            view.generation = status.generation;
            view.identity_arn = status.identity_arn;
        }
        if !view.identity_arn.is_empty() {
            // AWS's answer has priority over the files.
            let (account, role) = account_and_role(&view.identity_arn);
            (view.account, view.role) = (account.to_owned(), role.to_owned());
        }
        // Before the first load, the files may already tell that it will fail.
        let untraceable = || {
            let traceable = about.as_ref()?.traceable.as_ref()?;
            traceable.check(&agent?.agent).err()
        };
        let hindrance = about.as_ref().and_then(|about| about.hindrance.clone());
        if view.state == ProfileState::Unloaded
            && let Some(hindrance) = hindrance.or_else(untraceable)
        {
            view.state = match hindrance.reason() {
                Reason::LoginRequired => ProfileState::LoginRequired,
                Reason::CredentialsUnavailable => ProfileState::Unloaded,
                _ => ProfileState::Misconfigured,
            };
            view.failure.get_or_insert(hindrance);
        }
        view
    }

    /// Whether this state is more important for a person.
    pub(super) fn is_worse(&self, other: &Self) -> bool {
        let expiry = |view: &Self| view.expiry.map(std::cmp::Reverse);
        (severity(self.state), expiry(self)) > (severity(other.state), expiry(other))
    }
}

fn severity(state: ProfileState) -> u8 {
    match state {
        ProfileState::Unspecified | ProfileState::Unloaded => 0,
        ProfileState::Fresh => 1,
        ProfileState::Refreshing => 2,
        ProfileState::Loading => 3,
        ProfileState::Degraded => 4,
        ProfileState::Expired => 5,
        ProfileState::LoginRequired => 6,
        ProfileState::Misconfigured => 7,
    }
}
