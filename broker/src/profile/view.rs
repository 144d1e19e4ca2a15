//! What is shown of a profile: never a key.

use std::time::SystemTime;

use sigward_proto::v1::ProfileState;

use super::agents::AgentActor;
use super::entry::Entry;
use super::identity::account_and_role;
use crate::config::ProfileName;
use crate::error::{Denial, Reason};

/// A profile as it is now, or an agent's credentials with it.
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
    /// The account that they are of, where AWS or the files say it; else empty.
    pub account: String,
    /// The role, likewise.
    pub role: String,
}

impl View {
    pub(super) fn of(profile: &Entry, agent: Option<&AgentActor>, now: SystemTime) -> Self {
        let of_profile = profile.actor.view(now);
        // What the files say is read for the profile; nobody may have needed the agent's credentials yet.
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
            // AWS knows better.
            let (account, role) = account_and_role(&view.identity_arn);
            (view.account, view.role) = (account.to_owned(), role.to_owned());
        }
        // Before anyone has asked, the files may tell already that it will fail.
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

    /// Whether a person would rather hear of this one.
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
