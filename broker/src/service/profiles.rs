//! Profiles as callers see them: each its own, an operator all of them.

use std::time::SystemTime;

use sigward_proto::v1;

use super::current::State;
use crate::endpoint::Endpoint;
use crate::pace::Lane;
use crate::peer::Peer;
use crate::profile::View;

impl State {
    /// Those that the peer may use.
    pub(super) async fn visible_profiles(&self, peer: &Peer, now: SystemTime) -> Vec<v1::Profile> {
        let mut visible = Vec::new();
        for name in self.profiles.names() {
            let allowed = self.policy.endpoints_of(peer, name);
            if allowed.is_empty() {
                continue;
            }
            if let Ok(view) = self.profiles.view(name, now).await {
                let endpoints = self.endpoints_where(|name| allowed.contains(&name));
                let needs_body = self.policy.needs_body(peer, name);
                visible.push(message(view, endpoints, needs_body));
            }
        }
        visible
    }

    /// All of them, whoever may use them.
    pub(super) async fn all_profiles(&self, now: SystemTime) -> Vec<v1::Profile> {
        let mut all = Vec::new();
        for name in self.profiles.names() {
            let allowed = self.policy.endpoints_configured(name);
            if let Ok(view) = self.profiles.view(name, now).await {
                let endpoints = self.endpoints_where(|name| allowed.iter().any(|it| it == name));
                all.push(message(view, endpoints, false));
            }
        }
        all
    }

    fn endpoints_where(&self, is_allowed: impl Fn(&str) -> bool) -> Vec<v1::Endpoint> {
        let endpoints = self.endpoints.iter().zip(&self.lanes);
        let allowed = endpoints.filter(|(it, _)| is_allowed(&it.name));
        allowed.map(|(it, lane)| endpoint(it, lane)).collect()
    }
}

fn message(view: View, endpoints: Vec<v1::Endpoint>, needs_body: bool) -> v1::Profile {
    use v1::ProfileState::{Degraded, Fresh, Refreshing};
    // The reason is why the profile can't sign; these can.
    let signs = matches!(view.state, Fresh | Refreshing | Degraded);
    let last_error = view.failure.map_or("", |denial| denial.reason().name());
    let reason = if signs { "" } else { last_error };
    v1::Profile {
        name: view.name.to_string(),
        description: view.description,
        region: view.region.unwrap_or_default(),
        state: view.state.into(),
        reason: reason.to_owned(),
        last_error: last_error.to_owned(),
        credential_expiry: view.expiry.map(Into::into),
        endpoints,
        identity_arn: view.identity_arn,
        source: view.source.to_owned(),
        credential_generation: view.generation,
        needs_body,
    }
}

fn endpoint(endpoint: &Endpoint, lane: &Lane) -> v1::Endpoint {
    let pace = lane.is_paced().then(|| lane.view()).map(|view| v1::EndpointPace {
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
