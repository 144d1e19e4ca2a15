//! The files of broker/deploy/monitoring: the alerts are valid and fire when they should, every metric and label in
//! them and in the dashboard exists, the README says what to do about each alert, and logrotate loses no record.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sigward_proto::v1::{ProfileState, Reason};
use sigward_tests::aws_home::AwsHome;
use sigward_tests::keys::Key;
use sigward_tests::{deadline, processes};

use crate::metrics::get;
use crate::setup::{World, own_uid, text, tool_error};
use crate::yaml::documents;

fn directory() -> PathBuf {
    processes::workspace().join("broker/deploy/monitoring")
}

fn rules() -> Vec<Value> {
    let text = fs::read_to_string(directory().join("alerts.yaml")).expect("a file");
    let all = documents(&text).remove(0);
    all["groups"][0]["rules"].as_array().expect("rules").clone()
}

/// Every query of the dashboard and of the alerts.
fn queries() -> Vec<String> {
    let dashboard = fs::read_to_string(directory().join("dashboard.json")).expect("a file");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let of_panels = targets.map(|target| target["expr"].clone());
    let all = of_panels.chain(rules().into_iter().map(|rule| rule["expr"].clone()));
    all.map(|query| query.as_str().expect("a query").to_owned()).collect()
}

/// The words of a query in PromQL.
fn words(query: &str) -> impl Iterator<Item = &str> {
    query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
}

#[test]
fn promtool_accepts_the_alerts_and_each_fires_when_it_should() {
    let run = |arguments: &[&str]| {
        let mut promtool = Command::new("promtool");
        let output = promtool.args(arguments).current_dir(directory()).output();
        let output = output.unwrap_or_else(|error| {
            panic!("promtool: {error}; apt-get install --no-install-recommends prometheus")
        });
        let shown = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&shown));
    };
    run(&["check", "rules", "alerts.yaml"]);
    run(&["test", "rules", "alerts.test.yaml"]);
    // Each alert is tested both ways: firing and quiet.
    let tests = fs::read_to_string(directory().join("alerts.test.yaml")).expect("a file");
    for rule in rules() {
        let name = rule["alert"].as_str().expect("a name");
        let fires = format!("- alertname: {name}\n        eval_time: 20m\n        exp_alerts:\n");
        let is_quiet = format!("- {{alertname: {name}, eval_time: 20m}}\n");
        assert!(tests.contains(&fires) && tests.contains(&is_quiet), "{name} isn't tested");
    }
}

/// The metrics of a broker that has signed, denied, loaded credentials and refused connections.
async fn metrics() -> String {
    let mut home = AwsHome::new();
    home.process("brief", &Key::role("Brief", "session"));
    let world = World::at_home(home, |builder| builder).await;
    let uid = own_uid();
    let more = format!(
        "[[profile]]\nname = \"brief\"\nendpoints = [\"upstream\"]\n[metrics]\nlisten = \"127.0.0.1:0\"\n[[rule]]\npeer = {{ uid = {uid} }}\nprofiles = [\"brief\"]\n"
    );
    let broker = world.broker(&world.configuration(&more)).await;
    let line = broker.logged("serving metrics").await;
    let address = line.split("address=").nth(1).expect("an address").trim().to_owned();
    let mut client = world.client_of(&world.socket(), &["brief", "prod"]).await;
    text(&client.call("whoami", "{}").await);
    tool_error(&client.call("whoami", r#"{"aws_profile":"prod"}"#).await);
    // More connections than one user may have.
    let held: Vec<_> = (0..60).map(|_| UnixStream::connect(world.socket())).collect();
    let all = async {
        loop {
            let text = get(&address, "/metrics").await;
            if text.contains("sigward_intake_refused_total{") {
                return text;
            }
        }
    };
    let text = deadline::within(all, || "no connection was refused".to_owned()).await;
    drop(held);
    text
}

#[tokio::test]
async fn every_metric_in_a_query_exists() {
    let metrics = metrics().await;
    let exists = |name: &str| {
        let ends =
            |line: &str| line.strip_prefix(name).is_some_and(|it| it.starts_with(['{', ' ']));
        metrics.lines().any(ends)
    };
    let queries = queries();
    let named: BTreeSet<&str> = queries
        .iter()
        .flat_map(|query| words(query))
        .filter(|word| word.starts_with("sigward_"))
        .collect();
    assert!(named.len() > 12, "{named:?}");
    // Metrics of TLS exist only with TLS: the module `tls` looks for them.
    for name in named.iter().filter(|name| !name.starts_with("sigward_tls_")) {
        assert!(exists(name), "{name} is not in\n{metrics}");
    }
    assert!(!exists("sigward_nothing"), "the control: this one must not exist");
    // Every metric of the broker is on the dashboard or in an alert.
    for line in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().expect("a name");
        assert!(named.iter().any(|it| it.starts_with(name)), "{name} is in no query");
    }
}

#[test]
fn every_state_and_outcome_in_a_query_exists() {
    let reasons: BTreeSet<&str> = (0..128)
        .filter_map(|number| Reason::try_from(number).ok())
        .map(|it| it.as_str_name())
        .collect();
    let is_reason = |word: &str| reasons.iter().any(|reason| reason.ends_with(word));
    let mut seen = 0;
    for query in queries() {
        for state in query.split("state=\"").skip(1) {
            let state = state.split('"').next().unwrap_or_default().to_uppercase();
            let name = format!("PROFILE_STATE_{state}");
            assert!(ProfileState::from_str_name(&name).is_some(), "{name}: {query}");
            seen += 1;
        }
        for word in words(&query).filter(|it| it.len() > 4 && it.contains('_')) {
            if word.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
                assert!(is_reason(word), "{word}: {query}");
                seen += 1;
            }
        }
    }
    assert!(seen > 8, "{seen}");
}

#[test]
fn the_readme_says_what_to_do_about_each_alert() {
    let readme = fs::read_to_string(processes::workspace().join("README.md")).expect("a file");
    let heading = "### When an alert fires";
    let part = readme.split(heading).nth(1).expect(heading).split("\n#").next().expect("a part");
    for rule in rules() {
        let name = rule["alert"].as_str().expect("a name");
        assert!(part.contains(&format!("| {name} |")), "{name} is not in the README");
        let url = rule["annotations"]["runbook_url"].as_str().expect("a URL");
        assert!(url.ends_with("#when-an-alert-fires"), "{name}: {url}");
    }
    let rows = part.lines().filter(|line| line.starts_with("| Sigward")).count();
    assert_eq!(rows, rules().len(), "the README describes an alert that doesn't exist");
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).expect("a log").lines().map(str::to_owned).collect()
}

/// The shipped file, with another path, and a signal to this broker instead of the unit.
#[tokio::test]
async fn logrotate_loses_no_record_and_the_hash_chain_continues() {
    let world = World::new().await;
    let log = world.directory.path().join("audit.jsonl");
    let config = world.configuration(&format!("[audit]\nfile = {log:?}\n"));
    let broker = world.broker(&config).await;
    let mut client = world.client_of(&world.socket(), &["dev"]).await;
    text(&client.call("whoami", "{}").await);

    let shipped = fs::read_to_string(directory().join("logrotate")).expect("a file");
    let signal = "systemctl kill --signal=HUP sigward-broker.service";
    assert!(shipped.contains("/var/log/sigward/audit.jsonl") && shipped.contains(signal));
    let rotation = shipped
        .replace("/var/log/sigward/audit.jsonl", &log.display().to_string())
        .replace("    su sigward sigward\n", "")
        .replace(signal, &format!("kill -HUP {}", broker.pid()));
    let rotation = world.write("logrotate", &rotation);
    let before = lines(&log);
    let mut logrotate = Command::new("logrotate");
    logrotate.arg("--force").arg("--state").arg(world.directory.path().join("state"));
    let output = logrotate.arg(rotation).output();
    let output = output.unwrap_or_else(|error| panic!("logrotate: {error}; apt-get install it"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The broker creates the new file.
    let made = async {
        while !log.exists() {
            tokio::task::yield_now().await;
        }
    };
    deadline::within(made, || broker.errors()).await;
    text(&client.call("whoami", "{}").await);

    let old = log.with_extension("jsonl.1");
    assert_eq!(lines(&old)[..before.len()], before, "the old file keeps its records");
    assert!(lines(&log).iter().any(|line| line.contains("whoami") || line.contains("\"sign\"")));
    let verify = async |file: &Path| {
        let mut command = processes::command(&processes::binaries().broker);
        let output = command.args(["audit", "verify"]).arg(file).output().await.expect("it runs");
        let shown = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success(), "{shown}");
        let of = |name: &str| {
            let line = shown.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{name}: {shown}")).trim().to_owned()
        };
        (of("follows "), of("head "))
    };
    let ((_, head), (follows, _)) = (verify(&old).await, verify(&log).await);
    assert_eq!(follows, head, "the new file follows the old one");
}
