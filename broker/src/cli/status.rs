//! `status`: what a running broker says about its profiles.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use serde::Serialize;
use sigward_proto::v1::{
    ListProfilesRequest, Profile, ProfileState, Reason, WatchProfilesRequest, WatchProfilesResponse,
};

use super::connection::{connect, in_time, refused};
use super::table::{Table, or_dash, print, reader_gone, time_left};
use crate::clock;
use crate::error::Error;

/// How often a table on a terminal is drawn again, for the time that is left.
const REDRAW: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The broker to ask [default: the user's own socket, then the machine's]
    #[arg(long, value_name = "unix:PATH", env = "SIGWARD_BROKER")]
    broker: Option<String>,
    /// JSON, one object for each answer
    #[arg(long)]
    json: bool,
    /// Again after each change
    #[arg(long)]
    watch: bool,
}

/// Prints the caller's profiles; with `--watch` until the broker ends.
pub(super) async fn run(options: Options, sockets: &[PathBuf]) -> Result<ExitCode, Error> {
    let mut broker = connect(options.broker.as_deref(), sockets).await?;
    let redraws = options.watch && !options.json && std::io::stdout().is_terminal();
    let show = |profiles: &[Profile], config_rejected: bool| {
        let text = if options.json {
            json(profiles, config_rejected)
        } else {
            table(profiles, config_rejected, clock::now())
        };
        // Home, and clear to the end: no flicker.
        print(&if redraws { format!("\x1b[H\x1b[J{text}") } else { text })
    };
    if !options.watch {
        let answer = in_time(broker.list_profiles(ListProfilesRequest {})).await?;
        let answer = answer.into_inner();
        show(&answer.profiles, answer.config_rejected);
        return Ok(ExitCode::SUCCESS);
    }
    let changes = in_time(broker.watch_profiles(WatchProfilesRequest {})).await?;
    let mut changes = changes.into_inner();
    let mut shown: Option<WatchProfilesResponse> = None;
    let mut gone = std::pin::pin!(reader_gone());
    loop {
        // Time goes on between two changes.
        let change = tokio::select! {
            change = tokio::time::timeout(REDRAW, changes.message()) => change,
            () = &mut gone => break,
        };
        match change {
            Ok(change) => match change.map_err(refused)? {
                Some(change) => shown = Some(change),
                None => break,
            },
            Err(_) if !redraws => continue,
            Err(_) => {}
        }
        if shown.as_ref().is_some_and(|it| !show(&it.profiles, it.config_rejected)) {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(profiles: &[Profile], config_rejected: bool, now: SystemTime) -> String {
    let fault = "The configuration file has changed and has faults: the one before is in force. See them with: \
                 sigward-broker check --config FILE\n\n";
    let fault = if config_rejected { fault } else { "" };
    if profiles.is_empty() {
        return format!("{fault}No rule of this broker gives you a profile.\n");
    }
    let identities = profiles.iter().any(|profile| !profile.identity_arn.is_empty());
    let mut heading = vec!["PROFILE", "SOURCE", "STATE", "TIME LEFT", "REGION"];
    if identities {
        heading.extend(["ACCOUNT", "IDENTITY"]);
    }
    heading.push("LAST ERROR");
    let mut table = Table::new(&heading);
    for profile in profiles {
        let left = match (profile.credential_generation, profile.credential_expiry) {
            (0, _) => String::new(),
            (_, expiry) => time_left(expiry.and_then(|expiry| expiry.try_into().ok()), now),
        };
        let mut row = vec![
            profile.name.clone(),
            or_dash(&profile.source),
            state(profile).to_owned(),
            or_dash(&left),
            or_dash(&profile.region),
        ];
        if identities {
            let (account, identity) = account_and_name(&profile.identity_arn);
            row.extend([or_dash(account), or_dash(identity)]);
        }
        row.push(or_dash(&in_words(profile)));
        table.row(row);
    }
    format!("{fault}{}", table.render())
}

/// `arn:aws:sts::123456789012:assumed-role/Name/session` as the account and `assumed-role/Name/session`.
fn account_and_name(arn: &str) -> (&str, &str) {
    let mut parts = arn.splitn(6, ':').skip(4);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// What is wrong with a profile, and what to do about it.
fn in_words(profile: &Profile) -> String {
    let name = &profile.name;
    match Reason::from_name(&profile.last_error) {
        None => profile.last_error.clone(),
        Some(Reason::LoginRequired) if profile.source == "login session" => {
            "needs a sign-in: aws login".to_owned()
        }
        Some(Reason::LoginRequired) => format!("needs a sign-in: sigward-broker login {name}"),
        Some(Reason::MfaRequired) => "has mfa_serial, and nobody is here to type a code".to_owned(),
        Some(Reason::ProfileMisconfigured) => "is set up wrongly: sigward-broker check".to_owned(),
        Some(Reason::UnsupportedProfileSetting) => {
            "has a setting that can't be honoured: sigward-broker check".to_owned()
        }
        Some(Reason::CredentialsUnavailable) => {
            "AWS or the program behind it can't be reached".to_owned()
        }
        Some(other) => other.name().to_owned(),
    }
}

fn state(profile: &Profile) -> &'static str {
    match profile.state() {
        ProfileState::Unspecified => "unknown",
        ProfileState::Unloaded => "unloaded",
        ProfileState::Loading => "loading",
        ProfileState::Fresh => "fresh",
        ProfileState::Refreshing => "refreshing",
        ProfileState::Degraded => "degraded",
        ProfileState::Expired => "expired",
        ProfileState::LoginRequired => "login required",
        ProfileState::Misconfigured => "misconfigured",
    }
}

/// The answer as JSON; names as in the proto.
fn json(profiles: &[Profile], config_rejected: bool) -> String {
    #[derive(Serialize)]
    struct Row<'a> {
        name: &'a str,
        description: &'a str,
        source: &'a str,
        state: String,
        reason: &'a str,
        last_error: &'a str,
        identity_arn: &'a str,
        region: &'a str,
        credential_expiry: Option<String>,
        credential_generation: u64,
        endpoints: Vec<&'a str>,
    }
    let rows = profiles.iter().map(|profile| Row {
        name: &profile.name,
        description: &profile.description,
        source: &profile.source,
        state: state(profile).replace(' ', "_"),
        reason: &profile.reason,
        last_error: &profile.last_error,
        identity_arn: &profile.identity_arn,
        region: &profile.region,
        credential_expiry: profile
            .credential_expiry
            .and_then(|expiry| SystemTime::try_from(expiry).ok())
            .map(|expiry| crate::log::timestamp(expiry, "T") + "Z"),
        credential_generation: profile.credential_generation,
        endpoints: profile.endpoints.iter().map(|endpoint| endpoint.url.as_str()).collect(),
    });
    let rows: Vec<Row<'_>> = rows.collect();
    serde_json::to_string(
        &serde_json::json!({ "profiles": rows, "config_rejected": config_rejected }),
    )
    .unwrap_or_default()
        + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(name: &str) -> Profile {
        Profile {
            name: name.to_owned(),
            source: "sso".to_owned(),
            state: ProfileState::Fresh.into(),
            credential_generation: 1,
            ..Profile::default()
        }
    }

    #[test]
    fn a_table_says_what_is_wrong_and_what_to_do() {
        let fresh = Profile {
            identity_arn: "arn:aws:sts::123456789012:assumed-role/Reader/me".to_owned(),
            ..profile("dev")
        };
        let dead = Profile {
            state: ProfileState::LoginRequired.into(),
            last_error: "LOGIN_REQUIRED".to_owned(),
            credential_generation: 0,
            ..profile("prod")
        };
        let degraded = Profile {
            state: ProfileState::Degraded.into(),
            last_error: "CREDENTIALS_UNAVAILABLE".to_owned(),
            ..profile("staging")
        };
        let text = table(&[fresh.clone(), dead, degraded], false, SystemTime::UNIX_EPOCH);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        assert_eq!(
            lines[1],
            ["dev", "sso", "fresh", "never", "-", "123456789012", "assumed-role/Reader/me", "-"]
        );
        assert_eq!(lines[2][2], "login required");
        assert_eq!(lines[2][7], "needs a sign-in: sigward-broker login prod");
        assert_eq!(
            (lines[3][2], lines[3][7]),
            ("degraded", "AWS or the program behind it can't be reached")
        );
        let without = table(&[profile("dev")], false, SystemTime::UNIX_EPOCH);
        assert!(!without.contains("ACCOUNT"), "{without}");
    }

    #[test]
    fn a_configuration_that_is_not_in_force_is_said_first() {
        let text = table(&[profile("dev")], true, SystemTime::UNIX_EPOCH);
        assert!(text.starts_with("The configuration file has changed and has faults"), "{text}");
        let json: serde_json::Value =
            serde_json::from_str(&json(&[profile("dev")], true)).expect("JSON");
        assert_eq!(json["config_rejected"], true);
        assert_eq!(json["profiles"][0]["identity_arn"], "");
    }
}
