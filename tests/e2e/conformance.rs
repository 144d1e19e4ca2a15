//! The official conformance suite: what a server passes alone, it passes behind the proxy.
//!
//! A revision's requirements are counted, so that a run of nothing isn't a success. The suite runs more than it scores;
//! of that too, nothing may be lost. What was reached is written where a captured output doesn't swallow it.

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
async fn the_server_alone() {
    alone(SESSIONS).await;
    alone(STATELESS).await;
}

#[tokio::test]
async fn the_listening_proxy_with_one_profile() {
    behind_the_listening_proxy(&["dev"], "one profile").await;
}

#[tokio::test]
async fn the_listening_proxy_with_two_profiles() {
    behind_the_listening_proxy(&["dev", "prod"], "two profiles").await;
}

#[tokio::test]
async fn stdio() {
    let world = World::new().await;
    let server = Server::verifying(world.home.keys()).await;
    let url = server.url();
    let bridge = Bridge::start(move || proxy(&world, &url, &["dev", "prod"])).await;
    // What the bridge answers for itself, and lines have no words for: how streams of HTTP are resumed, and headers.
    let of_http = ["server-sse-polling: ", "http-header-validation: "];
    for revision in [SESSIONS, STATELESS] {
        let report = conformance::server(revision, &bridge.url()).await;
        let mut lost = compare(revision, "through stdio with two profiles", &report).await;
        lost.retain(|check| !of_http.iter().any(|scenario| check.starts_with(scenario)));
        assert!(lost.is_empty(), "{lost:#?}\n{}", report.text());
    }
}

#[tokio::test]
async fn a_client_over_stdio() {
    client(&[], "over stdio").await;
}

#[tokio::test]
async fn a_client_of_the_listening_proxy() {
    client(&["--listen", "127.0.0.1:0"], "through the listening proxy").await;
}

/// The official TypeScript client, in every scenario that isn't about OAuth, with a proxy that has these arguments.
async fn client(arguments: &[&str], title: &str) {
    let world = World::new().await;
    // The suite has a server of its own for each scenario; the client puts its URL in.
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
        reached(&format!("{revision} client scenarios {title}"), &report, &scenarios);
        // Not scored, but it shows that a schema arrives whole.
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

/// Fails unless all that counts passed. Answers the checks, scored or not, that the server passes alone and not here.
async fn compare(revision: &str, title: &str, report: &Report) -> Vec<String> {
    let (scored, alone) = alone(revision).await;
    reached(&format!("{revision} {title}"), report, scored);
    report.lost(alone)
}

/// What counts for a server, and the report of the suite's server without a proxy: made once, and complete.
async fn alone(revision: &str) -> &'static (Vec<String>, Report) {
    static REPORTS: [OnceCell<(Vec<String>, Report)>; 2] =
        [OnceCell::const_new(), OnceCell::const_new()];
    let [sessions, stateless] = &REPORTS;
    let (cell, count) = if revision == SESSIONS { (sessions, 30) } else { (stateless, 37) };
    let make = async {
        let scored = conformance::required(revision).await.server;
        assert_eq!(scored.len(), count, "{scored:?}");
        let server = Server::start(0).await;
        let report = conformance::server(revision, &server.url()).await;
        reached(&format!("{revision} without a proxy"), &report, &scored);
        (scored, report)
    };
    cell.get_or_init(|| make).await
}

/// Fails unless every one of `scenarios` passed; says how many did.
fn reached(title: &str, report: &Report, scenarios: &[String]) {
    let passed = report.passed(scenarios);
    // Not `println!`, which only a failed test shows.
    let line = format!("conformance: {title}: {} of {}\n", passed.len(), scenarios.len());
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    let failed: Vec<_> =
        scenarios.iter().filter(|scenario| !passed.contains(&scenario.as_str())).collect();
    assert!(failed.is_empty(), "{title}: {failed:?} failed\n{}", report.text());
}
