//! The credentials of agents: the peers of a rule with an `agent` sign with credentials of that agent.
//!
//! Invariant: there is at most one for each pair of a profile and an agent in the configuration; it
//! is made on first use, and dropped with the last rule that names the pair.

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
    /// The actor is made on first use.
    pub(super) fn new(agent: Arc<Agent>, load: Observed, changes: watch::Sender<()>) -> Self {
        let load = Arc::new(Observed { agent: Some(Arc::clone(&agent)), ..load });
        Self { agent, load, changes, actor: OnceLock::new() }
    }

    /// The actor; makes it if necessary.
    pub(super) fn actor(&self) -> &Arc<Actor> {
        self.actor.get_or_init(|| {
            let load = Arc::clone(&self.load);
            Arc::new(Actor::new(load, self.changes.clone(), Clock::system()))
        })
    }

    /// The actor, if it has been used.
    pub(super) fn made(&self) -> Option<&Arc<Actor>> {
        self.actor.get()
    }

    /// Drops the keys permanently. An unused actor is made first, because a call in flight may be
    /// about to use it.
    pub(super) fn end(&self) {
        self.actor().end();
    }
}

/// The agents that rules name for a profile, without duplicates.
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

/// Whether the profile's own credentials may be used: a rule without an agent allows the profile,
/// or no rule mentions it.
pub(super) fn is_shared(profile: &ProfileName, rules: &[Rule]) -> bool {
    let mut about = rules.iter().filter(|rule| rule.profiles.contains(profile.as_str())).peekable();
    about.peek().is_none() || about.any(|rule| rule.agent.is_none())
}
