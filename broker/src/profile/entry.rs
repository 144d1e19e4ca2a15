//! One configured profile: the source of its credentials, and their state.

use std::sync::Arc;

use super::actor::Actor;
use super::agents::AgentActor;
use super::source::Source;
use crate::config::{Agent, ProfileName};

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: ProfileName,
    pub(super) description: String,
    pub(super) preload: bool,
    /// The account of the narrower role, if there is one.
    pub(super) role_account: Option<String>,
    pub(super) source: Arc<Source>,
    /// The credentials of peers without an agent.
    pub(super) actor: Arc<Actor>,
    /// Whether any rule allows peers without an agent.
    pub(super) is_shared: bool,
    pub(super) agents: Vec<Arc<AgentActor>>,
}

impl Entry {
    /// The credentials of an agent that a rule names.
    pub(super) fn agent(&self, agent: &Agent) -> Option<&Arc<AgentActor>> {
        self.agents.iter().find(|it| *it.agent == *agent)
    }

    /// All credentials that have been used.
    pub(super) fn actors(&self) -> impl Iterator<Item = &Arc<Actor>> {
        let of_agents = self.agents.iter().filter_map(|agent| agent.made());
        std::iter::once(&self.actor).chain(of_agents)
    }
}
