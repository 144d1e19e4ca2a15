//! `status`: what a running broker says about its profiles, and to an operator about its callers.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use serde::Serialize;
use sigward_proto::v1::broker_client::BrokerClient;
use sigward_proto::v1::{
    self, Caller, ListProfilesRequest, OverviewRequest, Profile, ProfileState, Reason,
    WatchProfilesRequest, WatchProfilesResponse,
};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::connection::{PATIENCE, Which, connect, in_time, late, refused};
use super::table::{Table, or_dash, print, reader_gone, time_left};
use crate::clock;
use crate::error::Error;

/// How often a table on a terminal is drawn again, for the time that is left.
const REDRAW: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    broker: Which,
    /// JSON, one object for each answer
    #[arg(long)]
    json: bool,
    /// Again after each change of a profile that you may use
    #[arg(long)]
    watch: bool,
    /// Every profile, whoever may use it: for the broker's own user and root
    #[arg(long, conflicts_with = "watch")]
    all: bool,
}

/// What the broker said.
struct Answer {
    profiles: Vec<Profile>,
    config_rejected: bool,
    /// For an operator: who has connections, and how many more there are.
    callers: Option<(Vec<Caller>, u32)>,
}

/// Prints the caller's profiles, and for an operator the callers; with `--watch` the profiles until the broker ends. An
/// operator whom no rule gives a profile sees all of them.
pub(super) async fn run(options: Options, sockets: &[PathBuf]) -> Result<ExitCode, Error> {
    let mut broker = connect(options.broker, sockets).await?;
    let redraws = options.watch && !options.json && std::io::stdout().is_terminal();
    let show = |answer: &Answer| {
        let text = if options.json { json(answer) } else { table(answer, clock::now()) };
        // Home, and clear to the end: no flicker.
        print(&if redraws { format!("\x1b[H\x1b[J{text}") } else { text })
    };
    if !options.watch {
        show(&ask(&mut broker, options.all).await?);
        return Ok(ExitCode::SUCCESS);
    }
    let changes = in_time(broker.watch_profiles(WatchProfilesRequest {})).await?;
    let mut changes = changes.into_inner();
    let mut shown: Option<Answer> = None;
    let mut gone = std::pin::pin!(reader_gone());
    loop {
        // Time goes on between two changes.
        let change = tokio::select! {
            change = tokio::time::timeout(REDRAW, changes.message()) => change,
            () = &mut gone => break,
        };
        match change {
            Ok(change) => match change.map_err(refused)? {
                Some(change) => shown = Some(change.into()),
                None => break,
            },
            Err(_) if !redraws => continue,
            Err(_) => {}
        }
        if shown.as_ref().is_some_and(|answer| !show(answer)) {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks for what an operator may see; others get their own profiles, unless that isn't what they want.
async fn ask(broker: &mut BrokerClient<Channel>, all: bool) -> Result<Answer, Error> {
    let asked = tokio::time::timeout(PATIENCE, broker.overview(OverviewRequest { all })).await;
    match asked.map_err(|_| late())? {
        Ok(overview) => {
            let overview = overview.into_inner();
            let callers = Some((overview.callers, overview.other_callers));
            let (profiles, config_rejected) = (overview.profiles, overview.config_rejected);
            Ok(Answer { profiles, config_rejected, callers })
        }
        Err(status) if !all && is_for_others(&status) => {
            let own = in_time(broker.list_profiles(ListProfilesRequest {})).await?.into_inner();
            let (profiles, config_rejected) = (own.profiles, own.config_rejected);
            Ok(Answer { profiles, config_rejected, callers: None })
        }
        Err(status) => Err(refused(status)),
    }
}

/// Whether only operators are told, or nobody by an older broker; the refusal of a caller has details.
fn is_for_others(status: &Status) -> bool {
    let has_details = status.get_details_error_info().is_some();
    status.code() == Code::Unimplemented
        || (status.code() == Code::PermissionDenied && !has_details)
}

impl From<WatchProfilesResponse> for Answer {
    fn from(change: WatchProfilesResponse) -> Self {
        let WatchProfilesResponse { profiles, config_rejected } = change;
        Self { profiles, config_rejected, callers: None }
    }
}

fn table(answer: &Answer, now: SystemTime) -> String {
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
    let fault = "The configuration file has changed and has faults: the one before is in force. See them with: \
                 sigward-broker check --config FILE\n\n";
    let fault = if *config_rejected { fault } else { "" };
    if profiles.is_empty() {
        let none = "No rule of this broker gives you a profile.\n";
        let none = if answer.callers.is_some() { "This broker has no profile.\n" } else { none };
        return format!("{fault}{none}");
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
            state(profile.state()).to_owned(),
            or_dash(&left),
            or_dash(&profile.region),
        ]);
        if identities {
            let (account, identity) = account_and_name(&profile.identity_arn);
            row.extend([or_dash(account), or_dash(identity)]);
        }
        row.push(or_dash(&in_words(&profile)));
        table.row(row);
    }
    format!("{fault}{}", table.render())
}

/// The endpoints whose signatures are given by turns: a line each.
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

/// The profile, and each of its agents that it isn't about, as if that were a profile.
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

fn state(state: ProfileState) -> &'static str {
    match state {
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
fn json(answer: &Answer) -> String {
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
        /// Those of them whose signatures are given by turns.
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
    let name = |it: ProfileState| state(it).replace(' ', "_");
    let paced = |endpoint: &'_ v1::Endpoint| {
        let pace = endpoint.pace?;
        Some((pace.per_second, pace.waiting, pace.in_flight))
    };
    let rows = answer.profiles.iter().map(|profile| Row {
        name: &profile.name,
        description: &profile.description,
        source: &profile.source,
        agent: &profile.agent,
        state: name(profile.state()),
        reason: &profile.reason,
        last_error: &profile.last_error,
        identity_arn: &profile.identity_arn,
        account: &profile.account,
        role: &profile.role,
        region: &profile.region,
        credential_expiry: time(profile.credential_expiry),
        credential_generation: profile.credential_generation,
        endpoints: profile.endpoints.iter().map(|endpoint| endpoint.url.as_str()).collect(),
        paced: profile
            .endpoints
            .iter()
            .filter_map(|endpoint| {
                let (per_second, waiting, in_flight) = paced(endpoint)?;
                Some(Paced { endpoint: &endpoint.name, per_second, waiting, in_flight })
            })
            .collect(),
        agents: profile
            .agents
            .iter()
            .map(|agent| AgentRow {
                name: &agent.name,
                session_name: &agent.session_name,
                state: name(agent.state()),
                reason: &agent.reason,
                last_error: &agent.last_error,
                identity_arn: &agent.identity_arn,
                credential_expiry: time(agent.credential_expiry),
                credential_generation: agent.credential_generation,
            })
            .collect(),
    });
    let rows: Vec<Row<'_>> = rows.collect();
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

/// As RFC 3339 writes it.
fn time(time: Option<impl TryInto<SystemTime>>) -> Option<String> {
    Some(crate::log::timestamp(time?.try_into().ok()?, "T") + "Z")
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

    fn own(profiles: &[Profile], config_rejected: bool) -> Answer {
        Answer { profiles: profiles.to_vec(), config_rejected, callers: None }
    }

    #[test]
    fn an_operator_sees_who_calls_and_others_do_not() {
        let caller =
            |name: &str, connections, calls| Caller { name: name.to_owned(), connections, calls };
        let agent = "spiffe://example.org/ns/dev/sa/agent";
        let callers = vec![caller(agent, 2, 31), caller("uid:1000\u{1b}[2J", 1, 0)];
        let mut answer = own(&[profile("dev")], false);
        assert!(!table(&answer, SystemTime::UNIX_EPOCH).contains("CALLER"));
        assert!(!json(&answer).contains("callers"));
        answer.callers = Some((callers, 7));
        let text = table(&answer, SystemTime::UNIX_EPOCH);
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[3], ["CALLER", "CONNECTIONS", "CALLS"]);
        assert_eq!(lines[4], [agent, "2", "31"]);
        assert_eq!(lines[5], ["uid:1000[2J", "1", "0"]);
        assert_eq!(lines[6], ["and", "7", "more", "callers"]);
        let json: serde_json::Value = serde_json::from_str(&json(&answer)).expect("JSON");
        assert_eq!(json["callers"][0]["name"], agent);
        assert_eq!((&json["callers"][0]["calls"], &json["other_callers"]), (&31.into(), &7.into()));
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
        let all = own(&[fresh, dead, degraded], false);
        let text = table(&all, SystemTime::UNIX_EPOCH);
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
        let without = table(&own(&[profile("dev")], false), SystemTime::UNIX_EPOCH);
        assert!(!without.contains("ACCOUNT"), "{without}");
    }

    /// A row for each agent; for the profile's own credentials only where the caller may use them.
    #[test]
    fn each_agent_has_a_row() {
        let agent = |name: &str, state: ProfileState| sigward_proto::v1::Agent {
            name: name.to_owned(),
            session_name: format!("sigward-dev-{name}"),
            state: state.into(),
            credential_generation: 1,
            identity_arn: format!("arn:aws:sts::123456789012:assumed-role/R/sigward-dev-{name}"),
            ..sigward_proto::v1::Agent::default()
        };
        let agents =
            vec![agent("bot", ProfileState::Fresh), agent("tester", ProfileState::Expired)];
        let mut dev = Profile { agents, ..profile("dev") };
        let rows = |profile: &Profile| -> Vec<Vec<String>> {
            let text = table(&own(std::slice::from_ref(profile), false), SystemTime::UNIX_EPOCH);
            let cells = |line: &str| line.split("  ").map(str::trim).map(str::to_owned).collect();
            let rows = text.lines().map(cells);
            rows.map(|row: Vec<String>| row.into_iter().filter(|it| !it.is_empty()).collect())
                .collect()
        };
        let all = rows(&dev);
        assert_eq!(all[0][..4], ["PROFILE", "AGENT", "SOURCE", "STATE"]);
        assert_eq!(all[1][..4], ["dev", "-", "sso", "fresh"]);
        assert_eq!(all[2][..4], ["dev", "bot", "sso", "fresh"]);
        assert_eq!(all[3][..4], ["dev", "tester", "sso", "expired"]);
        assert!(all[3].contains(&"assumed-role/R/sigward-dev-tester".to_owned()), "{all:?}");
        dev.agent = "bot".to_owned();
        assert_eq!(rows(&dev).len(), 3);
        let json: serde_json::Value =
            serde_json::from_str(&json(&own(&[dev], false))).expect("JSON");
        let dev = &json["profiles"][0];
        assert_eq!((&dev["agent"], &dev["agents"][1]["name"]), (&"bot".into(), &"tester".into()));
        assert_eq!(dev["agents"][1]["session_name"], "sigward-dev-tester");
        assert_eq!(dev["agents"][1]["state"], "expired");
    }

    #[test]
    fn an_endpoint_that_is_paced_is_shown() {
        let pace = v1::EndpointPace { per_second: 2.5, waiting: 7, in_flight: 20 };
        let endpoint = |name: &str, pace| v1::Endpoint {
            name: name.to_owned(),
            url: format!("https://{name}/mcp"),
            pace,
            ..v1::Endpoint::default()
        };
        let endpoints = vec![endpoint("slow", Some(pace)), endpoint("fast", None)];
        let profiles = [profile("dev"), profile("prod")]
            .map(|profile| Profile { endpoints: endpoints.clone(), ..profile });
        let answer = own(&profiles, false);
        let text = table(&answer, SystemTime::UNIX_EPOCH);
        let line = "Endpoint slow is paced: 2.5 signatures a second, 20 in flight, 7 waiting.";
        assert_eq!(text.matches(line).count(), 1, "{text}");
        assert!(!text.contains("fast"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&json(&answer)).expect("JSON");
        let paced = &json["profiles"][0]["paced"];
        assert_eq!((&paced[0]["endpoint"], &paced[0]["waiting"]), (&"slow".into(), &7.into()));
        assert_eq!(paced.as_array().map(Vec::len), Some(1));
        let none = table(&own(&[profile("dev")], false), SystemTime::UNIX_EPOCH);
        assert!(!none.contains("paced"), "{none}");
    }

    #[test]
    fn a_configuration_that_is_not_in_force_is_said_first() {
        let rejected = own(&[profile("dev")], true);
        let text = table(&rejected, SystemTime::UNIX_EPOCH);
        assert!(text.starts_with("The configuration file has changed and has faults"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&json(&rejected)).expect("JSON");
        assert_eq!(json["config_rejected"], true);
        assert_eq!(json["profiles"][0]["identity_arn"], "");
    }
}
