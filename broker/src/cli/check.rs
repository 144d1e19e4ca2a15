//! `check`: validates the configuration, checks whether `serve` could start with it, loads each
//! profile, and shows its identity.
//!
//! It doesn't disturb a broker that runs with the same configuration.

mod agents;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use futures_util::future::join_all;

use super::table::{Table, or_dash, print, quoted, shown, time_left};
use crate::clock;
use crate::config::{Agent, Config, CredentialsFrom, Profile, partition};
use crate::endpoint::{Endpoint, scope_of_host};
use crate::error::{Denial, Reason, with_causes};
use crate::profile::{Profiles, Surroundings};
use crate::server::{self, Obstacles};

/// Checks every profile; a failure doesn't hide others. The exit code is 0 if all succeed.
pub(super) async fn run(
    config: &Config,
    surroundings: &Surroundings,
    default_socket: &Path,
) -> ExitCode {
    let profiles = Profiles::new(config, surroundings, Arc::new(()));
    let now = clock::now();
    let agents = |profile: &'_ Profile| profiles.agents(&profile.name).unwrap_or_default();
    let holders =
        config.profiles.iter().flat_map(|it| agents(it).into_iter().map(move |a| (it, a)));
    let holders: Vec<(&Profile, Option<&Agent>)> = holders.collect();
    let asked = holders.iter().map(|(it, agent)| profiles.identity(&it.name, *agent, now));
    let identities = join_all(asked).await;

    let has_agents = holders.iter().any(|(_, agent)| agent.is_some());
    let mut heading = vec!["PROFILE", "SOURCE", "STATE", "TIME LEFT", "ACCOUNT", "IDENTITY"];
    if has_agents {
        heading.insert(1, "AGENT");
    }
    let mut table = Table::new(&heading);
    let mut failures = String::new();
    for ((profile, agent), identity) in holders.iter().zip(&identities) {
        let Ok(view) = profiles.view(&profile.name, *agent, now).await else { continue };
        let (state, left, account, arn) = match identity {
            Ok(identity) => (
                "ok",
                time_left(view.expiry, now),
                identity.account.as_str(),
                identity.arn.as_str(),
            ),
            Err(denial) => {
                failures.push_str(&explain(profile, *agent, view.source, denial));
                ("failed", String::new(), "", denial.reason().name())
            }
        };
        let mut row = vec![
            profile.name.to_string(),
            or_dash(view.source),
            state.to_owned(),
            or_dash(&left),
            or_dash(account),
            or_dash(arn),
        ];
        if has_agents {
            row.insert(1, or_dash(agent.map_or("", Agent::name)));
        }
        table.row(row);
    }
    let limits: String = config.profiles.iter().filter_map(limits).collect();
    let Obstacles { certain, possible } = server::obstacles(config, default_socket).await;
    for error in &certain {
        failures.push_str(&format!("\nserve can't start: {}\n", shown(&with_causes(error))));
    }
    let mut warnings: String = config.endpoints.iter().flat_map(|it| contradictions(it)).collect();
    warnings.extend(agents::broken_sessions(config));
    for error in &possible {
        warnings.push_str(&format!(
            "Warning: unless a broker has it already, or the service manager passes it, serve can't start: {}\n",
            shown(&with_causes(error))
        ));
    }
    let (endpoints, rules) = (config.endpoints.len(), config.rules.len());
    print(&format!(
        "The configuration is valid: {} profile(s), {endpoints} endpoint(s), {rules} rule(s).\n{warnings}\n{}{failures}{limits}",
        config.profiles.len(),
        table.render(),
    ));
    if certain.is_empty() && identities.iter().all(Result::is_ok) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The session policies that `access` and `only_via_mcp` of a profile stand for.
fn limits(profile: &Profile) -> Option<String> {
    let role = profile.role.as_ref().map_or("", |role| role.arn.as_str());
    let policies = profile.guard_rails.as_ref()?.policies(partition(role));
    let lines =
        policies.arns.iter().chain(&policies.policy).map(|policy| format!("    {policy}\n"));
    Some(format!(
        "\n{}: its role is narrowed by the session policies\n{}",
        profile.name,
        lines.collect::<String>()
    ))
}

/// A line for each service or region that contradicts the host's name.
fn contradictions(endpoint: &Endpoint) -> Vec<String> {
    let Some(known) = scope_of_host(endpoint.url.host()) else { return Vec::new() };
    let (given, name) = (&endpoint.scope, &endpoint.name);
    let pairs = [
        ("service", given.service.as_str(), known.service.as_str()),
        ("region", given.regions.as_str(), known.regions.as_str()),
    ];
    let differ = pairs.into_iter().filter(|(_, given, known)| given != known);
    differ
        .map(|(key, given, known)| {
            format!(
                "Warning: the endpoint {name} has {key} {given:?}, but its host means {known:?}: AWS will probably \
                 refuse the signatures. Leave {key} out.\n"
            )
        })
        .collect()
}

/// The failure, and what to do next. The detail is shown, because the user who runs `check` could
/// read it anyway.
fn explain(profile: &Profile, agent: Option<&Agent>, source: &str, denial: &Denial) -> String {
    let name = match &profile.from {
        CredentialsFrom::AwsProfile(name) => quoted(name),
        CredentialsFrom::DefaultChain => "default".into(),
    };
    let next = match denial.reason() {
        Reason::LoginRequired if source == "login session" => {
            format!("sign in: aws login --profile {name}")
        }
        Reason::LoginRequired => format!(
            "sign in: sigward-broker login {}, where a broker runs, else aws sso login --profile {name}",
            quoted(profile.name.as_str())
        ),
        Reason::MfaRequired => format!(
            "a second factor can't be entered here: use a profile without mfa_serial, for example \
             one of IAM Identity Center (aws configure sso --profile {name})"
        ),
        Reason::UnsupportedProfileSetting => {
            "take the setting out of the profile, or use another profile".to_owned()
        }
        Reason::AccessDenied if denial.action().is_some() => {
            let action = denial.action().unwrap_or_default();
            format!(
                "let the role's trust policy allow {action} beside sts:AssumeRole, or ask for less in attribution"
            )
        }
        Reason::AccessDenied => {
            "check the trust policy of the role, and whether the identity that assumes it may call \
             sts:AssumeRole for it"
                .to_owned()
        }
        Reason::ClockSkew => "set the clock of this machine, and check again".to_owned(),
        Reason::KeysRejected => format!(
            "the keys have expired, or were deleted or deactivated: put new ones into the profile (aws configure \
             --profile {name})"
        ),
        Reason::RegionDisabled => format!(
            "enable the region for the account, or choose another: aws configure set region REGION --profile {name}"
        ),
        Reason::NoAccountAccess => format!(
            "check sso_account_id and sso_role_name, or sign in as another user: aws configure sso --profile {name}"
        ),
        _ if profile.from == CredentialsFrom::DefaultChain => {
            "name a profile (--profile NAME), or put credentials where the AWS SDKs look for them"
                .to_owned()
        }
        Reason::ProfileMisconfigured if agent.is_some() => {
            format!(
                "change the profile or the rule; the profile: aws configure list --profile {name}"
            )
        }
        Reason::ProfileMisconfigured => {
            format!("check the profile: aws configure list --profile {name}")
        }
        _ if source == "credential process" => {
            format!(
                "run its credential_process yourself, or: aws sts get-caller-identity --profile {name}"
            )
        }
        _ => "check the network and the source of the credentials, and try again".to_owned(),
    };
    let as_agent = agent.map(|agent| format!(" as {}", agent.name())).unwrap_or_default();
    format!(
        "\n{}{as_agent}: {}\n    {}\n    next: {next}\n",
        profile.name,
        denial.reason().name(),
        shown(denial.detail())
    )
}

#[cfg(test)]
mod tests;
