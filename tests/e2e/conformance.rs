//! The official conformance suite: each check that a server passes directly, it also passes behind the proxy.
//!
//! The number of required scenarios is checked, so that an empty run isn't a success. Checks that the suite runs and
//! doesn't score may not be lost either. The counts are printed even where the output is captured.

use std::io::Write as _;
use std::path::Path;

use futures_util::future::join_all;
use sigward_tests::conformance::{self, Bridge, Report, Server};
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::setup::{World, listening};

const SESSIONS: &str = "2025-11-25";
const STATELESS: &str = "2026-07-28";

#[tokio::test]
async fn the_server_without_a_proxy_conforms() {
    without_proxy(SESSIONS).await;
    without_proxy(STATELESS).await;
}

#[tokio::test]
async fn the_listening_proxy_with_one_profile_conforms() {
    behind_the_listening_proxy(&["dev"], "one profile").await;
}

#[tokio::test]
async fn the_listening_proxy_with_two_profiles_conforms() {
    behind_the_listening_proxy(&["dev", "prod"], "two profiles").await;
}

#[tokio::test]
async fn the_stdio_proxy_conforms() {
    let world = World::new().await;
    let server = Server::verifying(world.home.keys()).await;
    let url = server.url();
    let bridge = Bridge::start(move || proxy(&world, &url, &["dev", "prod"])).await;
    // The bridge itself answers what stdio doesn't have: resuming HTTP streams, and headers.
    let of_http = ["server-sse-polling: ", "http-header-validation: "];
    for revision in [SESSIONS, STATELESS] {
        let report = conformance::server(revision, &bridge.url()).await;
        let mut lost = compare(revision, "through stdio with two profiles", &report).await;
        lost.retain(|check| !of_http.iter().any(|scenario| check.starts_with(scenario)));
        assert!(lost.is_empty(), "{lost:#?}\n{}", report.text());
    }
}

#[tokio::test]
async fn a_client_over_stdio_conforms() {
    client(&[], "over stdio").await;
}

#[tokio::test]
async fn a_client_of_the_listening_proxy_conforms() {
    client(&["--listen", "127.0.0.1:0"], "through the listening proxy").await;
}

/// Runs the official TypeScript client, in every scenario except for OAuth, with a proxy with these arguments.
async fn client(arguments: &[&str], title: &str) {
    let world = World::new().await;
    // The suite has a server for each scenario; the client replaces `URL`.
    let mut command = proxy(&world, "URL", &["dev"]);
    command.args(arguments);
    let mut words = vec![command.as_std().get_program()];
    words.extend(command.as_std().get_args());
    let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/conformance/client.cjs");
    let mut environment = world.home.environment();
    for (name, value) in [
        ("CLIENT", script.display().to_string()),
        ("SERVER_COMMAND", serde_json::to_string(&words).unwrap()),
        ("XDG_RUNTIME_DIR", world.directory.path().display().to_string()),
    ] {
        environment.push((name.to_owned(), value));
    }

    for (revision, count) in [(SESSIONS, 4), (STATELESS, 7)] {
        let mut scenarios = conformance::required(revision).await.client;
        scenarios.retain(|scenario| !scenario.starts_with("auth/"));
        assert_eq!(scenarios.len(), count, "{scenarios:?}");
        let schema = ["json-schema-2020-12-preservation".to_owned()];
        let runs = scenarios.iter().chain(&schema).map(|scenario| {
            conformance::client(revision, scenario, r#""$NODE" "$CLIENT""#, &environment)
        });
        let report = join_all(runs).await.into_iter().fold(Report::default(), Report::and);
        assert_passed(&format!("{revision} client scenarios {title}"), &report, &scenarios);
        // It isn't scored, but shows that schemas arrive unchanged.
        assert_eq!(report.passed(&schema), schema, "{}", report.text());
    }
}

async fn behind_the_listening_proxy(profiles: &[&str], title: &str) {
    let world = World::new().await;
    let server = Server::verifying(world.home.keys()).await;
    let (_proxy, url) = listening(proxy(&world, &server.url(), profiles)).await;
    for revision in [SESSIONS, STATELESS] {
        let report = conformance::server(revision, &url).await;
        let title = format!("through the listening proxy with {title}");
        let lost = compare(revision, &title, &report).await;
        assert!(lost.is_empty(), "{lost:#?}\n{}", report.text());
    }
}

fn proxy(world: &World, url: &str, profiles: &[&str]) -> Command {
    let mut command = world.proxy_to(url, &["--broker", "private", "--profile"]);
    command.args(profiles);
    command
}

/// Asserts that all required scenarios passed. Returns the checks, scored or not, that pass only without a proxy.
async fn compare(revision: &str, title: &str, report: &Report) -> Vec<String> {
    let (required, without_proxy) = without_proxy(revision).await;
    assert_passed(&format!("{revision} {title}"), report, required);
    report.lost(without_proxy)
}

/// The required scenarios of a server, and the complete report without a proxy, which is made once.
async fn without_proxy(revision: &str) -> &'static (Vec<String>, Report) {
    static REPORTS: [OnceCell<(Vec<String>, Report)>; 2] =
        [OnceCell::const_new(), OnceCell::const_new()];
    let [sessions, stateless] = &REPORTS;
    let (cell, count) = if revision == SESSIONS { (sessions, 30) } else { (stateless, 37) };
    let make = async {
        let required = conformance::required(revision).await.server;
        assert_eq!(required.len(), count, "{required:?}");
        let server = Server::start(0).await;
        let report = conformance::server(revision, &server.url()).await;
        assert_passed(&format!("{revision} without a proxy"), &report, &required);
        (required, report)
    };
    cell.get_or_init(|| make).await
}

/// Asserts that all of `scenarios` passed, and prints how many did.
fn assert_passed(title: &str, report: &Report, scenarios: &[String]) {
    let passed = report.passed(scenarios);
    // Not `println!`, which is captured unless the test fails.
    let line = format!("conformance: {title}: {} of {}\n", passed.len(), scenarios.len());
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    let failed: Vec<_> =
        scenarios.iter().filter(|scenario| !passed.contains(&scenario.as_str())).collect();
    assert!(failed.is_empty(), "{title}: {failed:?} failed\n{}", report.text());
}
