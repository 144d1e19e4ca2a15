//! Runs the official conformance suite as published, and parses its results.
//!
//! A revision's requirements are a frozen list of scenarios, and a scenario is a number of checks. A scenario has
//! passed if it has checks and each of them succeeded: no failure, no warning.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use tokio::process::Command;

use crate::{deadline, processes, tools};

/// The length of `-2026-07-28T00-00-00-000Z`, which the suite appends to the name of a scenario.
const TIME_STAMP: usize = 25;

/// The scenarios that a revision of the protocol requires.
#[derive(Debug)]
pub struct Requirements {
    /// Scenarios that test a server.
    pub server: Vec<String>,
    /// Scenarios that test a client.
    pub client: Vec<String>,
}

/// The results of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The checks of every scenario that ran.
    scenarios: BTreeMap<String, Vec<Check>>,
    /// The output of the suite.
    text: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Check {
    id: String,
    name: String,
    status: String,
    error_message: Option<String>,
}

impl Report {
    /// The scenarios of `scenarios` that passed.
    #[must_use]
    pub fn passed<'a>(&self, scenarios: &'a [String]) -> Vec<&'a str> {
        let passed = scenarios.iter().filter(|&scenario| {
            let checks = self.scenarios.get(scenario);
            checks.is_some_and(|checks| !checks.is_empty() && checks.iter().all(Check::holds))
        });
        passed.map(String::as_str).collect()
    }

    /// The checks of all scenarios that succeeded in `other` and not here.
    #[must_use]
    pub fn lost(&self, other: &Self) -> Vec<String> {
        let here: Vec<_> = self.succeeded().collect();
        let mut lost: Vec<_> = other.succeeded().filter(|check| !here.contains(check)).collect();
        lost.dedup();
        lost
    }

    fn succeeded(&self) -> impl Iterator<Item = String> + '_ {
        self.scenarios.iter().flat_map(|(scenario, checks)| {
            let succeeded = checks.iter().filter(|check| check.status == "SUCCESS");
            succeeded.map(move |check| format!("{scenario}: {} ({})", check.id, check.name))
        })
    }

    /// The failed checks and the output of the suite: for the message of a failed test.
    #[must_use]
    pub fn text(&self) -> String {
        let failed = self.scenarios.iter().flat_map(|(scenario, checks)| {
            let failed = checks.iter().filter(|check| !check.holds());
            failed.map(move |Check { id, status, error_message, .. }| {
                let why = error_message.as_deref().unwrap_or_default();
                format!("{scenario}: {status} of {id}: {why}\n")
            })
        });
        failed.collect::<String>() + &self.text
    }

    /// The results of both runs.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.scenarios.extend(other.scenarios);
        self.text += &other.text;
        self
    }

    /// Reads the results of a run in `directory`. Its directories are named `prefix`, scenario, and time.
    fn read(directory: &Path, prefix: &str, text: String) -> Self {
        let mut report = Self { scenarios: BTreeMap::new(), text };
        for entry in fs::read_dir(directory).expect("the directory of the results") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let scenario = name.strip_prefix(prefix).and_then(|name| {
                let end = name.len().checked_sub(TIME_STAMP)?;
                name.get(..end)
            });
            // Scenarios with a slash in their name have nested directories; none is required here.
            let Some(scenario) = scenario else { continue };
            let Ok(checks) = fs::read(path.join("checks.json")) else { continue };
            let checks = serde_json::from_slice(&checks)
                .unwrap_or_else(|error| panic!("the checks of {scenario}: {error}"));
            report.scenarios.insert(scenario.to_owned(), checks);
        }
        report
    }
}

impl Check {
    /// Informational checks don't fail a scenario.
    fn holds(&self) -> bool {
        matches!(self.status.as_str(), "SUCCESS" | "INFO" | "SKIPPED")
    }
}

/// The scenarios that a revision requires.
///
/// # Panics
/// If the suite doesn't list them.
pub async fn required(revision: &str) -> Requirements {
    let (_, text) = run(conformance(&["list", "--requirements", revision])).await;
    let names = |heading: &str| -> Vec<String> {
        let lines = text.lines().skip_while(|line| !line.starts_with(heading)).skip(1);
        let names = lines.map_while(|line| line.strip_prefix("  - "));
        names.map(str::to_owned).collect()
    };
    let requirements =
        Requirements { server: names("Server scenarios"), client: names("Client scenarios") };
    assert!(!requirements.server.is_empty() && !requirements.client.is_empty(), "{text}");
    requirements
}

/// Tests the server at `url` with all scenarios that a revision requires, and those that the suite runs in addition.
///
/// # Panics
/// If the suite doesn't end.
pub async fn server(revision: &str, url: &str) -> Report {
    let results = tempfile::tempdir().expect("a temporary directory");
    let mut command = conformance(&["server", "--url", url, "--requirements", revision]);
    command.arg("--output-dir").arg(results.path());
    let (_, text) = run(command).await;
    Report::read(results.path(), "server-", text)
}

/// Tests a client in one scenario. `client` is a shell command, to which the suite appends a URL; it has Node in
/// `$NODE`, its packages, and `environment`.
///
/// # Panics
/// If the suite doesn't end.
pub async fn client(
    revision: &str,
    scenario: &str,
    client: &str,
    environment: &[(String, String)],
) -> Report {
    let results = tempfile::tempdir().expect("a temporary directory");
    let mut command = conformance(&["client", "--spec-version", revision]);
    command.args(["--scenario", scenario, "--command", client]);
    command.arg("--output-dir").arg(results.path());
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.env("NODE", &tools::node().program).env("NODE_PATH", &tools::node().packages);
    let (success, text) = run(command).await;
    let report = Report::read(results.path(), "", text);
    // A client that fails after its last check has failed.
    if success { report } else { Report { scenarios: BTreeMap::new(), ..report } }
}

fn conformance(arguments: &[&str]) -> Command {
    let node = tools::node();
    let mut command = processes::command(&node.program);
    command.arg(node.conformance()).args(arguments);
    command
}

/// Runs the suite to its end: whether it succeeded, and its output.
async fn run(mut command: Command) -> (bool, String) {
    command.kill_on_drop(true);
    let shown = format!("{command:?}");
    let output = deadline::within_long(command.output(), || format!("{shown} doesn't end"));
    let output = output.await.unwrap_or_else(|error| panic!("{shown}: {error}"));
    let written = [output.stdout, output.stderr].concat();
    let text = format!("{shown}\n{}", String::from_utf8_lossy(&written));
    processes::assert_no_canary("the output of the suite", &text);
    (output.status.success(), text)
}
