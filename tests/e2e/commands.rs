//! The commands for users: `check`, `status`, and faulty configurations and options.

mod obstacles;

use std::process::Output;

use serde_json::Value;
use sigward_tests::aws::Aws;
use sigward_tests::keys::KeyTable;
use sigward_tests::processes::assert_no_canary;
use tokio::process::Command;

use crate::setup::{THREE, World, assert_names, own_uid, text};

/// Runs a command; returns whether it succeeded, standard output and standard error.
pub(crate) async fn run(mut command: Command) -> (bool, String, String) {
    command.stdin(std::process::Stdio::null());
    let ended = sigward_tests::deadline::within(command.output(), || format!("{command:?} hangs"));
    let Output { status, stdout, stderr } = ended.await.unwrap();
    let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert_no_canary("standard output", &stdout);
    assert_no_canary("standard error", &stderr);
    (status.success(), stdout, stderr)
}

fn rule(profiles: &[&str]) -> String {
    format!(
        "[[rule]]\npeer = {{ uid = {} }}\nprofiles = {profiles:?}\nendpoints = [\"upstream\"]\n",
        own_uid()
    )
}

#[tokio::test]
async fn check_shows_the_identity_of_each_profile() {
    let world = World::new().await;
    let aws = Aws::start(world.home.keys()).await;
    let config = world.write("good.toml", &world.configuration(&rule(&THREE)));
    let mut command = world.broker_command(&["check", "--config", config.to_str().unwrap()]);
    command.envs(aws.environment());
    let (good, output, errors) = run(command).await;
    assert!(good, "{output}{errors}");
    for profile in THREE {
        let line = output.lines().find(|line| line.starts_with(profile));
        let line = line.unwrap_or_else(|| panic!("{profile} is missing: {output}"));
        assert_names(line, &[world.home.identity(profile), &world.home.key(profile).account]);
    }
}

#[tokio::test]
async fn check_fails_for_one_profile_and_shows_the_others() {
    let world = World::new().await;
    let aws = Aws::start(world.home.keys()).await;
    let more =
        "[[profile]]\nname = \"misspelt\"\nendpoints = [\"upstream\"]\n".to_owned() + &rule(&THREE);
    let config = world.write("config.toml", &world.configuration(&more));
    let mut command = world.broker_command(&["check", "--config", config.to_str().unwrap()]);
    command.envs(aws.environment());
    let (good, output, errors) = run(command).await;
    assert!(!good);
    let all = output + &errors;
    assert_names(&all, &["misspelt", world.home.identity("dev"), world.home.identity("prod")]);
}

#[tokio::test]
async fn check_reports_a_key_that_sts_refuses() {
    let world = World::new().await;
    let aws = Aws::start(KeyTable::default()).await;
    let config = world.write("config.toml", &world.configuration(&rule(&["dev"])));
    let mut command = world.broker_command(&["check", "--config", config.to_str().unwrap()]);
    command.envs(aws.environment());
    let (good, output, errors) = run(command).await;
    assert!(!good, "{output}{errors}");
    assert_names(&(output + &errors), &["dev"]);
}

#[tokio::test]
async fn each_error_of_a_configuration_is_reported() {
    let world = World::new().await;
    let faulty = r#"
[listen]
unix = "relative.sock"
mode = "rw"

[[endpoint]]
name = "upstream"
url = "http://example.com/mcp"

[[profile]]
name = "dev"
endpoints = ["no-such-endpoint"]
colour = "blue"

[[rule]]
peer = { uid = "nobody" }
profiles = ["no-such-profile"]
"#;
    let config = world.write("faulty.toml", faulty);
    for command in ["serve", "check"] {
        let command = world.broker_command(&[command, "--config", config.to_str().unwrap()]);
        let (good, output, errors) = run(command).await;
        assert!(!good);
        let all = output + &errors;
        assert_names(&all, &["faulty.toml"]);
        for (line, keys) in [
            (4, vec!["mode"]),
            (8, vec!["url", "https"]),
            (12, vec!["endpoints", "no-such-endpoint"]),
            (13, vec!["colour"]),
            (16, vec!["uid"]),
            (17, vec!["profiles", "no-such-profile"]),
        ] {
            let report =
                all.lines().find(|text| text.contains(&line.to_string()) && text.contains(keys[0]));
            let report =
                report.unwrap_or_else(|| panic!("line {line} {keys:?} is missing in:\n{all}"));
            assert_names(report, &keys);
        }
        assert!(!world.socket().exists(), "no socket was opened");
    }
}

#[tokio::test]
async fn an_unreadable_configuration_is_reported_with_its_path() {
    let world = World::new().await;
    let broken = world.write("broken.toml", "[listen\nunix = ");
    for (path, words) in [
        (broken.to_str().unwrap(), vec!["broken.toml"]),
        ("/nonexistent/config.toml", vec!["/nonexistent/config.toml"]),
    ] {
        let (good, output, errors) = run(world.broker_command(&["serve", "--config", path])).await;
        assert!(!good);
        assert_names(&(output + &errors), &words);
    }
}

#[tokio::test]
async fn status_shows_the_caller_its_profiles() {
    let world = World::new().await;
    let _broker = world.broker(&world.configuration(&rule(&["dev", "staging"]))).await;
    let socket = format!("unix:{}", world.socket().display());
    let status = |more: &[&str]| {
        let mut command = world.broker_command(&["status", "--broker", &socket]);
        command.args(more);
        command
    };
    let (good, output, errors) = run(status(&["--json"])).await;
    assert!(good, "{errors}");
    let before: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(names(&before), ["dev", "staging"]);
    let (good, output, errors) = run(status(&["--json", "--all"])).await;
    assert!(good, "{errors}");
    let all: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(names(&all), ["dev", "staging", "prod"], "all profiles, for the user of the broker");
    assert_eq!(before["profiles"][0]["state"], "unloaded");

    let mut client = world.client_of(&world.socket(), &["dev", "staging"]).await;
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), world.home.identity("dev"));
    let (_, output, _) = run(status(&["--json"])).await;
    let after: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(after["profiles"][0]["state"], "fresh");
    assert_eq!(after["profiles"][1]["state"], "unloaded");

    let (good, table, _) = run(status(&[])).await;
    assert!(good);
    assert_names(&table, &["dev", "staging", "fresh", "unloaded", "us-west-2"]);
    assert!(!table.contains("prod"), "{table}");
    assert!(!table.contains('\u{1b}'), "no colours without a terminal");
}

#[tokio::test]
async fn status_without_a_broker_names_the_socket() {
    let world = World::new().await;
    let (good, output, errors) =
        run(world.broker_command(&["status", "--broker", "unix:/nonexistent"])).await;
    assert!(!good);
    assert_names(&(output + &errors), &["/nonexistent"]);
}

#[tokio::test]
async fn errors_name_the_invalid_option() {
    let world = World::new().await;
    let proxy = |arguments: &[&str]| {
        let mut command =
            sigward_tests::processes::command(&sigward_tests::processes::binaries().proxy);
        command.envs(world.home.environment()).args(arguments);
        command
    };
    let local = &["serve", "--profile", "a", "--endpoint", "http://127.0.0.1:1/mcp"][..];
    let good = "https://aws-mcp.us-east-1.api.aws/mcp";
    for (command, words) in [
        (proxy(&[]), vec!["endpoint"]),
        (proxy(&["not-a-url"]), vec!["not-a-url"]),
        (proxy(&["http://example.com/mcp"]), vec!["http://example.com/mcp", "https"]),
        (proxy(&["ftp://example.com/"]), vec!["ftp"]),
        (proxy(&[good, "--retries", "99"]), vec!["--retries"]),
        (proxy(&[good, "--log-level", "LOUD"]), vec!["--log-level"]),
        (proxy(&[good, "--header", "authorization=x"]), vec!["--header"]),
        (proxy(&[good, "--header", "no-value"]), vec!["--header"]),
        (proxy(&[good, "--timeout", "-5"]), vec!["--timeout"]),
        (proxy(&[good, "--no-such-option"]), vec!["--no-such-option"]),
        (world.broker_command(&["serve", "--profile", "a"]), vec!["endpoint"]),
        (
            world.broker_command(&[
                "serve",
                "--region",
                "us-east-1",
                "--endpoint",
                "https://10.0.0.1/mcp",
            ]),
            vec!["--service"],
        ),
        (world.broker_command(&[local, &["--service", "aws-mcp"]].concat()), vec!["--region"]),
    ] {
        let shown = format!("{command:?}");
        let (good, output, errors) = run(command).await;
        assert!(!good, "{shown}");
        assert_eq!(output, "", "{shown}: standard output is for MCP");
        let errors = errors.to_lowercase();
        for word in words {
            assert_names(&errors, &[&word.to_lowercase()]);
        }
    }
    for program in [proxy(&["--version"]), world.broker_command(&["--version"])] {
        let (good, output, _) = run(program).await;
        assert!(good);
        assert_names(&output, &["sigward-", env!("CARGO_PKG_VERSION")]);
    }
    let (good, help, _) = run(proxy(&["--help"])).await;
    assert!(good);
    assert_names(
        &help,
        &[
            "--service",
            "--region",
            "--metadata",
            "--header",
            "--read-only",
            "--retries",
            "--log-level",
            "--timeout",
            "--connect-timeout",
            "--read-timeout",
            "--write-timeout",
            "--tool-timeout",
            "--skip-auth",
            "--disable-telemetry",
            "--profile",
            "--broker",
            "--profile-argument",
            "--profile-tools",
            "--tools-allow",
            "--tools-deny",
        ],
    );
}

fn names(status: &Value) -> Vec<&str> {
    let profiles = status["profiles"].as_array().unwrap();
    profiles.iter().map(|profile| profile["name"].as_str().unwrap()).collect()
}

/// `explain` gives the decision of the broker.
#[tokio::test]
async fn explain_names_the_rule_that_decides() {
    let world = World::new().await;
    let rules = "[[rule]]\nname = \"agents\"\npeer = { uid = 7 }\nprofiles = [\"dev\"]\n\
                 tools = { allow = [\"aws_*\"], deny = [\"aws_run\"] }\n\
                 arguments = [{ path = \"/region\", in = [\"eu-west-1\"] }]\n\
                 [[rule]]\npeer = { uid = 8 }\nprofiles = [\"*\"]\n";
    let config = world.write("config.toml", &world.configuration(rules));
    let eu = r#"{"region":"eu-west-1"}"#;
    let twice = r#"{"region":"eu-west-1","region":"us-east-1"}"#;
    let cases: [(&[&str], bool, &[&str]); 9] = [
        (
            &["--tool", "aws_call", "--arguments", eu],
            true,
            &["Permitted by \"agents\"", "rule 2", "doesn't match the caller"],
        ),
        (&["--tool", "aws_call"], false, &["TOOL_NOT_ALLOWED", "/region"]),
        (
            &["--tool", "aws_call", "--arguments", twice],
            false,
            &["AMBIGUOUS_JSON", "more than once"],
        ),
        (&["--tool", "aws_run", "--arguments", eu], false, &["Denied by \"agents\"", "tools.deny"]),
        (&["--tool", "other"], false, &["TOOL_NOT_ALLOWED"]),
        (&["--resource", "docs://x"], false, &["METHOD_NOT_ALLOWED"]),
        (&["--method", "initialize"], true, &["Permitted by \"agents\""]),
        (&["--method", "no/such"], false, &["METHOD_NOT_ALLOWED"]),
        (&[], false, &["depends on the call", "--tool"]),
    ];
    let path = config.to_str().unwrap();
    for (call, permitted, words) in cases {
        let arguments =
            [&["explain", "--config", path, "--uid", "7", "--profile", "dev"], call].concat();
        let (good, output, errors) = run(world.broker_command(&arguments)).await;
        assert_eq!(good, permitted, "{call:?}: {output}{errors}");
        assert_names(&output, words);
    }
    let anyone = ["explain", "--config", path, "--uid", "9", "--profile", "dev"];
    let (good, output, _) = run(world.broker_command(&anyone)).await;
    assert!(!good);
    assert_names(&output, &["PEER_NOT_ALLOWED"]);
    let all = ["explain", "--config", path, "--uid", "8", "--profile", "dev"];
    let (good, output, _) = run(world.broker_command(&all)).await;
    assert!(good, "{output}");
    assert_names(&output, &["Permitted by \"rule 2\""]);
}
