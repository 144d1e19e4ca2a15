//! The profiles as callers see them: each caller its own, an operator all.

use std::time::SystemTime;

use sigward_proto::v1;

use super::current::State;
use crate::config::{Agent, ProfileName};
use crate::endpoint::Endpoint;
use crate::pace::Lane;
use crate::peer::Peer;
use crate::profile::View;

impl State {
    /// The profiles that the peer may use, each as the agent of the first matching rule.
    pub(super) async fn visible_profiles(&self, peer: &Peer, now: SystemTime) -> Vec<v1::Profile> {
        let mut visible = Vec::new();
        for name in self.profiles.names() {
            let allowed = self.policy.endpoints_of(peer, name);
            if allowed.is_empty() {
                continue;
            }
            let mut agents = self.policy.agents_of(peer, name);
            let first = agents.first().copied().flatten();
            if peer.is_own_user() {
                agents = self.profiles.agents(name).unwrap_or_default();
            }
            let endpoints = self.endpoints_where(|name| allowed.contains(&name));
            if let Some(mut profile) = self.message(name, first, agents, endpoints, now).await {
                profile.needs_body = self.policy.needs_body(peer, name);
                visible.push(profile);
            }
        }
        visible
    }

    /// All profiles, with all agents, for any peer.
    pub(super) async fn all_profiles(&self, now: SystemTime) -> Vec<v1::Profile> {
        let mut all = Vec::new();
        for name in self.profiles.names() {
            let allowed = self.policy.endpoints_configured(name);
            let agents = self.profiles.agents(name).unwrap_or_default();
            let first = agents.first().copied().flatten();
            let endpoints = self.endpoints_where(|name| allowed.iter().any(|it| it == name));
            all.extend(self.message(name, first, agents, endpoints, now).await);
        }
        all
    }

    /// A profile with the state of `first`, and the state of each of `agents`.
    async fn message(
        &self,
        name: &ProfileName,
        first: Option<&Agent>,
        agents: Vec<Option<&Agent>>,
        endpoints: Vec<v1::Endpoint>,
        now: SystemTime,
    ) -> Option<v1::Profile> {
        let mut profile = message(self.profiles.view(name, first, now).await.ok()?, endpoints);
        profile.agent = first.map_or("", Agent::name).to_owned();
        for agent in agents.into_iter().flatten() {
            if let Ok(view) = self.profiles.view(name, Some(agent), now).await {
                profile.agents.push(message_of_agent(agent, view));
            }
        }
        Some(profile)
    }

    fn endpoints_where(&self, is_allowed: impl Fn(&str) -> bool) -> Vec<v1::Endpoint> {
        let endpoints = self.endpoints.iter().zip(&self.lanes);
        let allowed = endpoints.filter(|(it, _)| is_allowed(&it.name));
        allowed.map(|(it, lane)| endpoint(it, lane)).collect()
    }
}

/// The reason why the profile can't sign now, and the reason why its last load failed, as names in
/// the contract.
fn reasons(view: &View) -> (String, String) {
    use v1::ProfileState::{Degraded, Fresh, Refreshing};
    // The first reason is set only for profiles that can't sign; these states can.
    let signs = matches!(view.state, Fresh | Refreshing | Degraded);
    let last_error = view.failure.as_ref().map_or("", |denial| denial.reason().name());
    let reason = if signs { "" } else { last_error };
    (reason.to_owned(), last_error.to_owned())
}

fn message(view: View, endpoints: Vec<v1::Endpoint>) -> v1::Profile {
    let (reason, last_error) = reasons(&view);
    v1::Profile {
        name: view.name.to_string(),
        description: view.description,
        region: view.region.unwrap_or_default(),
        state: view.state.into(),
        reason,
        last_error,
        credential_expiry: view.expiry.map(Into::into),
        endpoints,
        identity_arn: view.identity_arn,
        account: view.account,
        role: view.role,
        source: view.source.to_owned(),
        credential_generation: view.generation,
        ..v1::Profile::default()
    }
}

fn message_of_agent(agent: &Agent, view: View) -> v1::Agent {
    let (reason, last_error) = reasons(&view);
    v1::Agent {
        name: agent.name().to_owned(),
        session_name: agent.session_name(&view.name),
        state: view.state.into(),
        reason,
        credential_expiry: view.expiry.map(Into::into),
        identity_arn: view.identity_arn,
        credential_generation: view.generation,
        last_error,
    }
}

fn endpoint(endpoint: &Endpoint, lane: &Lane) -> v1::Endpoint {
    let view = lane.view();
    let pace = view.is_paced.then(|| v1::EndpointPace {
        per_second: view.per_second.unwrap_or_default(),
        waiting: u32::try_from(view.waiting).unwrap_or(u32::MAX),
        in_flight: view.in_flight,
    });
    v1::Endpoint {
        pace,
        name: endpoint.name.clone(),
        url: endpoint.url.to_string(),
        service: endpoint.scope.service.as_str().to_owned(),
        region: endpoint.scope.regions.as_str().to_owned(),
    }
}
