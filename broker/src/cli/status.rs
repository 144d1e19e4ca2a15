//! `status`: what a running broker says about its profiles.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use serde::Serialize;
use sigward_proto::v1::{ListProfilesRequest, Profile, ProfileState, WatchProfilesRequest};

use super::connection::{connect, in_time, refused};
use super::table::{Table, or_dash, print, time_left};
use crate::clock;
use crate::error::Error;

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
    let show = |profiles: &[Profile]| {
        let text = if options.json { json(profiles) } else { table(profiles, clock::now()) };
        // Home, and clear to the end: no flicker.
        print(&if redraws { format!("\x1b[H\x1b[J{text}") } else { text });
    };
    if !options.watch {
        let answer = in_time(broker.list_profiles(ListProfilesRequest {})).await?;
        show(&answer.into_inner().profiles);
        return Ok(ExitCode::SUCCESS);
    }
    let changes = in_time(broker.watch_profiles(WatchProfilesRequest {})).await?;
    let mut changes = changes.into_inner();
    while let Some(change) = changes.message().await.map_err(refused)? {
        show(&change.profiles);
    }
    Ok(ExitCode::SUCCESS)
}

fn table(profiles: &[Profile], now: SystemTime) -> String {
    if profiles.is_empty() {
        return "No rule of this broker gives you a profile.\n".to_owned();
    }
    let mut table =
        Table::new(&["PROFILE", "SOURCE", "STATE", "TIME LEFT", "REGION", "LAST ERROR"]);
    for profile in profiles {
        let left = match (profile.credential_generation, profile.credential_expiry) {
            (0, _) => String::new(),
            (_, expiry) => time_left(expiry.and_then(|expiry| expiry.try_into().ok()), now),
        };
        table.row(vec![
            profile.name.clone(),
            or_dash(&profile.source),
            state(profile).to_owned(),
            or_dash(&left),
            or_dash(&profile.region),
            or_dash(&profile.reason),
        ]);
    }
    table.render()
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
fn json(profiles: &[Profile]) -> String {
    #[derive(Serialize)]
    struct Row<'a> {
        name: &'a str,
        description: &'a str,
        source: &'a str,
        state: String,
        reason: &'a str,
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
        region: &profile.region,
        credential_expiry: profile
            .credential_expiry
            .and_then(|expiry| SystemTime::try_from(expiry).ok())
            .map(|expiry| crate::log::timestamp(expiry, "T") + "Z"),
        credential_generation: profile.credential_generation,
        endpoints: profile.endpoints.iter().map(|endpoint| endpoint.url.as_str()).collect(),
    });
    let rows: Vec<Row<'_>> = rows.collect();
    serde_json::to_string(&serde_json::json!({ "profiles": rows })).unwrap_or_default() + "\n"
}
