//! The answer as text for people: a table of the profiles, a line for each paced endpoint, and a
//! table of the callers.

use std::time::SystemTime;

use sigward_proto::v1::{Caller, Profile, Reason};

use super::answer::Answer;
use super::state;
use crate::cli::table::{Table, or_dash, time_left};

pub(super) fn table(answer: &Answer, now: SystemTime) -> String {
    let callers = match &answer.callers {
        Some((callers, others)) => format!("\n{}", callers_table(callers, *others)),
        None => String::new(),
    };
    profiles_table(answer, now) + &paced(&answer.profiles) + &callers
}

fn callers_table(callers: &[Caller], others: u32) -> String {
    let mut table = Table::new(&["CALLER", "CONNECTIONS", "CALLS"]);
    for Caller { name, connections, calls } in callers {
        table.row(vec![name.clone(), connections.to_string(), calls.to_string()]);
    }
    let others = if others == 0 { String::new() } else { format!("and {others} more callers\n") };
    table.render() + &others
}

fn profiles_table(answer: &Answer, now: SystemTime) -> String {
    let Answer { profiles, config_rejected, .. } = answer;
    let rejected = "The configuration file has changed and has errors: the previous configuration stays in effect. To \
                    list the errors: sigward-broker check --config FILE\n\n";
    let rejected = if *config_rejected { rejected } else { "" };
    if profiles.is_empty() {
        let none = "No rule of this broker gives you a profile.\n";
        let none = if answer.callers.is_some() { "This broker has no profile.\n" } else { none };
        return format!("{rejected}{none}");
    }
    let identities = profiles.iter().any(|profile| !profile.identity_arn.is_empty())
        || profiles.iter().flat_map(|it| &it.agents).any(|agent| !agent.identity_arn.is_empty());
    let agents = profiles.iter().any(|profile| !profile.agents.is_empty());
    let mut heading = vec!["PROFILE"];
    if agents {
        heading.push("AGENT");
    }
    heading.extend(["SOURCE", "STATE", "TIME LEFT", "REGION"]);
    if identities {
        heading.extend(["ACCOUNT", "IDENTITY"]);
    }
    heading.push("LAST ERROR");
    let mut table = Table::new(&heading);
    for profile in profiles.iter().flat_map(holders) {
        let left = match (profile.credential_generation, profile.credential_expiry) {
            (0, _) => String::new(),
            (_, expiry) => time_left(expiry.and_then(|expiry| expiry.try_into().ok()), now),
        };
        let mut row = vec![profile.name.clone()];
        if agents {
            row.push(or_dash(&profile.agent));
        }
        row.extend([
            or_dash(&profile.source),
            state::label(profile.state()).to_owned(),
            or_dash(&left),
            or_dash(&profile.region),
        ]);
        if identities {
            let (account, identity) = account_and_name(&profile.identity_arn);
            row.extend([or_dash(account), or_dash(identity)]);
        }
        row.push(or_dash(&describe(&profile)));
        table.row(row);
    }
    format!("{rejected}{}", table.render())
}

/// A line for each endpoint whose signatures are paced.
fn paced(profiles: &[Profile]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for endpoint in profiles.iter().flat_map(|profile| &profile.endpoints) {
        let Some(pace) = &endpoint.pace else { continue };
        let mut line = format!("Endpoint {} is paced:", endpoint.name);
        if pace.per_second > 0.0 {
            line.push_str(&format!(" {:.1} signatures a second,", pace.per_second));
        }
        if pace.in_flight > 0 {
            line.push_str(&format!(" {} in flight,", pace.in_flight));
        }
        line.push_str(&format!(" {} waiting.\n", pace.waiting));
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    if lines.is_empty() { String::new() } else { format!("\n{}", lines.concat()) }
}

/// The profile, and each of its other agents in the form of a profile.
fn holders(profile: &Profile) -> Vec<Profile> {
    let others = profile.agents.iter().filter(|agent| agent.name != profile.agent);
    let others = others.map(|agent| Profile {
        agent: agent.name.clone(),
        state: agent.state,
        reason: agent.reason.clone(),
        last_error: agent.last_error.clone(),
        credential_expiry: agent.credential_expiry,
        identity_arn: agent.identity_arn.clone(),
        credential_generation: agent.credential_generation,
        ..profile.clone()
    });
    std::iter::once(profile.clone()).chain(others).collect()
}

/// The account and the name in an ARN: `123456789012` and `assumed-role/Name/session` for
/// `arn:aws:sts::123456789012:assumed-role/Name/session`.
fn account_and_name(arn: &str) -> (&str, &str) {
    let mut parts = arn.splitn(6, ':').skip(4);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// The problem of a profile, and what to do about it.
fn describe(profile: &Profile) -> String {
    let name = &profile.name;
    match Reason::from_name(&profile.last_error) {
        None => profile.last_error.clone(),
        Some(Reason::LoginRequired) if profile.source == "login session" => {
            "needs a sign-in: aws login".to_owned()
        }
        Some(Reason::LoginRequired) => format!("needs a sign-in: sigward-broker login {name}"),
        Some(Reason::MfaRequired) => {
            "has mfa_serial, and the code can't be entered here".to_owned()
        }
        Some(Reason::ProfileMisconfigured) => "is misconfigured: sigward-broker check".to_owned(),
        Some(Reason::UnsupportedProfileSetting) => {
            "has an unsupported setting: sigward-broker check".to_owned()
        }
        Some(Reason::CredentialsUnavailable) => {
            "AWS or its credential_process doesn't answer".to_owned()
        }
        Some(other) => other.name().to_owned(),
    }
}
