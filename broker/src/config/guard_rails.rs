//! `access` and `only_via_mcp` of a profile: limits of its credentials, as session policies of the
//! role that the broker assumes. The role itself isn't changed.
//!
//! They rely on these rules of IAM: a session has the permissions that its role and its session
//! policies both allow; several session policies add up; an action that one of them denies is
//! denied.

use serde_json::{Value, json};

use super::reader::Table;
use crate::endpoint::Endpoint;

/// The maximum size of inline and managed session policies together in STS, in characters.
const MAX_POLICIES: usize = 2048;
/// A long partition name for that check: the role's partition isn't known before the AWS files are
/// read.
const LONGEST_PARTITION: &str = "aws-us-gov";

/// The limits of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardRails {
    read_only: bool,
    only_via_mcp: bool,
    /// Whether the configuration has managed session policies of its own, which define the permissions.
    has_managed: bool,
    /// The actions that calls to its endpoints themselves need.
    actions: Vec<&'static str>,
}

/// The session policies for the limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPolicies {
    /// The inline policy, in JSON.
    pub policy: Option<String>,
    /// The ARNs of managed policies.
    pub arns: Vec<String>,
}

impl GuardRails {
    /// The policies for a role of a partition (`aws`, `aws-cn`).
    #[must_use]
    pub fn policies(&self, partition: &str) -> SessionPolicies {
        let mut statements = Vec::new();
        if !self.read_only && !self.has_managed {
            statements.push(json!({"Effect": "Allow", "Action": "*", "Resource": "*"}));
        } else if !self.actions.is_empty() {
            statements.push(json!({"Effect": "Allow", "Action": self.actions, "Resource": "*"}));
        }
        if self.only_via_mcp {
            // `IfExists`: a call that isn't made by the server doesn't have the key.
            let (key, actions): (_, Value) = match self.actions.as_slice() {
                [] => ("Action", "*".into()),
                actions => ("NotAction", actions.into()),
            };
            statements.push(json!({
                "Effect": "Deny",
                key: actions,
                "Resource": "*",
                "Condition": {"BoolIfExists": {"aws:ViaAWSMCPService": "false"}},
            }));
        }
        let policy = (!statements.is_empty())
            .then(|| json!({"Version": "2012-10-17", "Statement": statements}).to_string());
        let managed = format!("arn:{partition}:iam::aws:policy/ReadOnlyAccess");
        SessionPolicies { policy, arns: self.read_only.then_some(managed).into_iter().collect() }
    }
}

/// The partition of an ARN; `aws` if it isn't one.
#[must_use]
pub fn partition(arn: &str) -> &str {
    arn.split(':').nth(1).filter(|partition| partition.starts_with("aws")).unwrap_or("aws")
}

/// The limits in the table of a profile; `endpoints` are those of the profile.
pub(super) fn guard_rails<'e>(
    table: &Table<'_>,
    endpoints: impl Iterator<Item = &'e Endpoint>,
) -> Option<GuardRails> {
    let access = table.text("access").and_then(|text| {
        text.parse(|access| match access {
            "read-only" => Ok(()),
            _ => Err("must be \"read-only\"; for more, leave it out".to_owned()),
        })
    });
    let only_via_mcp = table.flag("only_via_mcp").is_some_and(|only| only.value);
    let read_only = access.is_some();
    if !read_only && !only_via_mcp {
        return None;
    }
    let key = if read_only { "access" } else { "only_via_mcp" };
    if table.has("session_policy") {
        table.fault(key, "can't be used with session_policy: write what it means into that policy");
    }
    if read_only && table.has("session_policy_arns") {
        table.fault(key, "can't stand beside session_policy_arns: session policies add up, so they would permit more");
    }
    let mut actions = Vec::new();
    for endpoint in endpoints {
        match of_service(endpoint.scope.service.as_str(), read_only) {
            Some(known) => actions.extend(known),
            None => table.fault(
                key,
                &format!(
                    "isn't known for the service {} of the endpoint {}, whose calls take IAM actions of their own: write a \
                     session_policy",
                    endpoint.scope.service.as_str(),
                    endpoint.name
                ),
            ),
        }
    }
    actions.sort_unstable();
    actions.dedup();
    let managed = table.texts("session_policy_arns").unwrap_or_default();
    let rails = GuardRails { read_only, only_via_mcp, has_managed: !managed.is_empty(), actions };
    let policies = rails.policies(LONGEST_PARTITION);
    let given: usize = managed.iter().map(|arn| arn.value.len()).sum();
    let own: usize = policies.arns.iter().chain(&policies.policy).map(String::len).sum();
    if given + own > MAX_POLICIES {
        table.fault(
            key,
            &format!(
                "makes session policies of {} characters, and STS takes {MAX_POLICIES}",
                given + own
            ),
        );
    }
    Some(rails)
}

/// The IAM actions that a signed request to an endpoint of the service needs; `None` if they aren't
/// known.
fn of_service(service: &str, read_only: bool) -> Option<Vec<&'static str>> {
    let actions: &[&str] = match (service, read_only) {
        // Its own actions have had no effect since 2026.
        ("aws-mcp", _) => &[],
        ("eks-mcp", true) => &["eks-mcp:CallReadOnlyTool", "eks-mcp:InvokeMcp"],
        ("eks-mcp", false) => {
            &["eks-mcp:CallPrivilegedTool", "eks-mcp:CallReadOnlyTool", "eks-mcp:InvokeMcp"]
        }
        ("ecs-mcp", _) => &["ecs-mcp:CallReadOnlyTool", "ecs-mcp:InvokeMcp"],
        ("bedrock-agentcore", _) => {
            &["bedrock-agentcore:InvokeAgentRuntime", "bedrock-agentcore:InvokeGateway"]
        }
        ("execute-api", _) => &["execute-api:Invoke"],
        ("lambda", _) => &["lambda:InvokeFunction", "lambda:InvokeFunctionUrl"],
        _ => return None,
    };
    Some(actions.to_vec())
}

#[cfg(test)]
mod tests;
