//! The credentials of agents: each rule with an `agent` has its peers sign with credentials of that agent's own.
//!
//! Invariant: there are at most as many as the configuration has pairs of a profile and an agent, made when they are
//! first used, and dropped with the last rule that names the pair.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use super::actor::Actor;
use super::observer::Observed;
use crate::clock::Clock;
use crate::config::{Agent, ProfileName, Rule};

/// One agent's credentials with one profile.
#[derive(Debug)]
pub(super) struct AgentActor {
    pub(super) agent: Arc<Agent>,
    load: Arc<Observed>,
    changes: watch::Sender<()>,
    actor: OnceLock<Arc<Actor>>,
}

impl AgentActor {
    /// Nothing is made yet.
    pub(super) fn new(agent: Arc<Agent>, load: Observed, changes: watch::Sender<()>) -> Self {
        let load = Arc::new(Observed { agent: Some(Arc::clone(&agent)), ..load });
        Self { agent, load, changes, actor: OnceLock::new() }
    }

    /// The actor, made if need be.
    pub(super) fn actor(&self) -> &Arc<Actor> {
        self.actor.get_or_init(|| {
            let load = Arc::clone(&self.load);
            Arc::new(Actor::new(load, self.changes.clone(), Clock::system()))
        })
    }

    /// The actor, if anyone has needed it.
    pub(super) fn made(&self) -> Option<&Arc<Actor>> {
        self.actor.get()
    }

    /// Drops the keys for good. One that wasn't made is made for that: a call in flight may be about to.
    pub(super) fn end(&self) {
        self.actor().end();
    }
}

/// The agents that rules name for a profile, each once.
pub(super) fn agents(profile: &ProfileName, rules: &[Rule]) -> Vec<Arc<Agent>> {
    let mut agents = Vec::new();
    for rule in rules.iter().filter(|rule| rule.profiles.contains(profile.as_str())) {
        if let Some(agent) = &rule.agent
            && !agents.contains(agent)
        {
            agents.push(Arc::clone(agent));
        }
    }
    agents
}

/// Whether anybody may sign with the profile's own credentials: a rule without an agent says so, or no rule says
/// anything of the profile.
pub(super) fn is_shared(profile: &ProfileName, rules: &[Rule]) -> bool {
    let mut about = rules.iter().filter(|rule| rule.profiles.contains(profile.as_str())).peekable();
    about.peek().is_none() || about.any(|rule| rule.agent.is_none())
}
