//! Tests of the output of `status`.

use std::time::SystemTime;

use sigward_proto::v1::{self, Caller, Profile, ProfileState};

use super::answer::Answer;
use super::json::json;
use super::text::table;

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
fn operators_see_the_callers_and_others_do_not() {
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
fn a_table_shows_problems_and_next_steps() {
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
        ("degraded", "AWS or its credential_process doesn't answer")
    );
    let without = table(&own(&[profile("dev")], false), SystemTime::UNIX_EPOCH);
    assert!(!without.contains("ACCOUNT"), "{without}");
}

/// There is a row for each agent, and one for the profile's own credentials only if the caller may
/// use them.
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
    let agents = vec![agent("bot", ProfileState::Fresh), agent("tester", ProfileState::Expired)];
    let mut dev = Profile { agents, ..profile("dev") };
    let rows = |profile: &Profile| -> Vec<Vec<String>> {
        let text = table(&own(std::slice::from_ref(profile), false), SystemTime::UNIX_EPOCH);
        let cells = |line: &str| line.split("  ").map(str::trim).map(str::to_owned).collect();
        let rows = text.lines().map(cells);
        rows.map(|row: Vec<String>| row.into_iter().filter(|it| !it.is_empty()).collect()).collect()
    };
    let all = rows(&dev);
    assert_eq!(all[0][..4], ["PROFILE", "AGENT", "SOURCE", "STATE"]);
    assert_eq!(all[1][..4], ["dev", "-", "sso", "fresh"]);
    assert_eq!(all[2][..4], ["dev", "bot", "sso", "fresh"]);
    assert_eq!(all[3][..4], ["dev", "tester", "sso", "expired"]);
    assert!(all[3].contains(&"assumed-role/R/sigward-dev-tester".to_owned()), "{all:?}");
    dev.agent = "bot".to_owned();
    assert_eq!(rows(&dev).len(), 3);
    let json: serde_json::Value = serde_json::from_str(&json(&own(&[dev], false))).expect("JSON");
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
fn a_rejected_configuration_is_reported_first() {
    let rejected = own(&[profile("dev")], true);
    let text = table(&rejected, SystemTime::UNIX_EPOCH);
    assert!(text.starts_with("The configuration file has changed and has errors"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&json(&rejected)).expect("JSON");
    assert_eq!(json["config_rejected"], true);
    assert_eq!(json["profiles"][0]["identity_arn"], "");
}
