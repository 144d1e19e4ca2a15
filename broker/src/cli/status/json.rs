//! The answer as JSON for programs, with the names of the proto.

use std::time::SystemTime;

use serde::Serialize;
use sigward_proto::v1::{self, Caller, Profile};

use super::answer::Answer;
use super::state;
use crate::log;

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    description: &'a str,
    source: &'a str,
    agent: &'a str,
    state: String,
    reason: &'a str,
    last_error: &'a str,
    identity_arn: &'a str,
    account: &'a str,
    role: &'a str,
    region: &'a str,
    credential_expiry: Option<String>,
    credential_generation: u64,
    endpoints: Vec<&'a str>,
    /// The endpoints whose signatures are paced.
    paced: Vec<Paced<'a>>,
    agents: Vec<AgentRow<'a>>,
}

#[derive(Serialize)]
struct Paced<'a> {
    endpoint: &'a str,
    per_second: f64,
    waiting: u32,
    in_flight: u32,
}

#[derive(Serialize)]
struct AgentRow<'a> {
    name: &'a str,
    session_name: &'a str,
    state: String,
    reason: &'a str,
    last_error: &'a str,
    identity_arn: &'a str,
    credential_expiry: Option<String>,
    credential_generation: u64,
}

impl<'a> From<&'a Profile> for Row<'a> {
    fn from(profile: &'a Profile) -> Self {
        Self {
            name: &profile.name,
            description: &profile.description,
            source: &profile.source,
            agent: &profile.agent,
            state: state::name(profile.state()),
            reason: &profile.reason,
            last_error: &profile.last_error,
            identity_arn: &profile.identity_arn,
            account: &profile.account,
            role: &profile.role,
            region: &profile.region,
            credential_expiry: time(profile.credential_expiry),
            credential_generation: profile.credential_generation,
            endpoints: profile.endpoints.iter().map(|endpoint| endpoint.url.as_str()).collect(),
            paced: profile.endpoints.iter().filter_map(paced).collect(),
            agents: profile.agents.iter().map(AgentRow::from).collect(),
        }
    }
}

impl<'a> From<&'a v1::Agent> for AgentRow<'a> {
    fn from(agent: &'a v1::Agent) -> Self {
        Self {
            name: &agent.name,
            session_name: &agent.session_name,
            state: state::name(agent.state()),
            reason: &agent.reason,
            last_error: &agent.last_error,
            identity_arn: &agent.identity_arn,
            credential_expiry: time(agent.credential_expiry),
            credential_generation: agent.credential_generation,
        }
    }
}

fn paced(endpoint: &v1::Endpoint) -> Option<Paced<'_>> {
    let v1::EndpointPace { per_second, waiting, in_flight } = endpoint.pace?;
    Some(Paced { endpoint: &endpoint.name, per_second, waiting, in_flight })
}

/// One object in one line.
pub(super) fn json(answer: &Answer) -> String {
    let rows: Vec<Row<'_>> = answer.profiles.iter().map(Row::from).collect();
    let mut text =
        serde_json::json!({ "profiles": rows, "config_rejected": answer.config_rejected });
    if let Some((callers, others)) = &answer.callers {
        let row = |it: &Caller| {
            let Caller { name, connections, calls } = it;
            serde_json::json!({ "name": name, "connections": connections, "calls": calls })
        };
        text["callers"] = callers.iter().map(row).collect();
        text["other_callers"] = (*others).into();
    }
    format!("{text}\n")
}

/// A time in the format of RFC 3339.
fn time(time: Option<impl TryInto<SystemTime>>) -> Option<String> {
    Some(log::timestamp(time?.try_into().ok()?, "T") + "Z")
}
