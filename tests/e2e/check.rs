//! `sigward-proxy check`: tries the whole path of a request, and reports each kind of failure with its own message.

mod network;

use serde_json::{Value, json};
use sigward_tests::authority::Authority;
use sigward_tests::aws::Aws;
use sigward_tests::aws_home::AwsHome;
use sigward_tests::processes;
use sigward_tests::upstream::{Answers, Era, Gate, REGION, Received, Reply, SERVICE};
use tokio::process::Command;

use crate::commands::run;
use crate::setup::{World, assert_names, copy_program, own_uid};

/// `sigward-proxy check URL …` in the environment of `world`.
fn command(world: &World, url: &str, arguments: &[&str]) -> Command {
    let mut command = processes::command(&processes::binaries().proxy);
    command.envs(world.home.environment()).env("XDG_RUNTIME_DIR", world.directory.path());
    command.args(["check", url, "--service", SERVICE, "--region", REGION]).args(arguments);
    command
}

fn private<'a>(profiles: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [&["--broker", "private", "--profile"], profiles, more].concat()
}

/// Runs a check; returns whether it passed, and its document.
async fn checked(mut command: Command) -> (bool, Value) {
    command.arg("--json");
    let (good, output, errors) = run(command).await;
    let document: Value =
        serde_json::from_str(&output).unwrap_or_else(|_| panic!("{output}{errors}"));
    assert_eq!(document["ok"], good, "{document}");
    (good, document)
}

/// Asserts that the first problem is in this step, with these words in its message.
async fn assert_problem(command: Command, step: &str, words: &[&str]) {
    let (good, document) = checked(command).await;
    let problem = &document["problem"];
    assert!(!good && problem["step"] == step, "not {step}: {document:#}");
    let said = format!("{} {}", problem["detail"], problem["advice"]);
    assert_names(&said, words);
}

#[tokio::test]
async fn a_successful_check_shows_each_step() {
    for answers in [Answers::Json, Answers::Events] {
        let home = AwsHome::new();
        home.role("role", "dev", "arn:aws:iam::123456789012:role/Checked");
        let aws = Aws::start(home.keys()).await;
        let world = World::at_home(home, |builder| builder.answers(answers)).await;
        let arguments = private(&["dev", "staging"], &["--tools-deny", "write_*"]);
        let mut command = command(&world, &world.upstream.url(), &arguments);
        command.envs(aws.environment());
        let (good, output, errors) = run(command).await;
        assert!(good, "{output}{errors}");
        for step in ["broker", "name resolution", "connection", "TLS"] {
            assert!(output.lines().any(|line| line.starts_with(step)), "{step}: {output}");
        }
        for profile in ["dev", "staging"] {
            for step in ["credentials", "clock", "signature", "initialize", "tools/list"] {
                let line =
                    output.lines().find(|line| line.starts_with(&format!("{profile}: {step}")));
                assert!(line.is_some_and(|line| line.contains("  ok")), "{step}: {output}");
            }
            assert_names(&output, &[world.home.identity(profile)]);
            // Every session that was opened is deleted.
            assert_eq!(world.upstream.sessions_of(world.home.identity(profile)), [""; 0]);
        }
        assert_names(
            &output,
            &["2025-11-25", "verifying-upstream", "whoami", "5 tools", "Everything works"],
        );
        assert!(!output.contains("write_note"), "hidden tools aren't shown: {output}");
        for request in world.upstream.requests() {
            assert!(request.signature.is_ok(), "{request:?}");
        }
        let deleted =
            world.upstream.requests().iter().filter(|it| it.http_method == "DELETE").count();
        assert_eq!(deleted, 2);
    }
}

#[tokio::test]
async fn json_output_has_steps_profiles_and_tools() {
    let world = World::new().await;
    let (good, document) =
        checked(command(&world, &world.upstream.url(), &private(&["dev"], &[]))).await;
    assert!(good, "{document:#}");
    let profile = &document["profiles"][0];
    assert_eq!(profile["name"], "dev");
    assert_eq!(profile["protocol"], "2025-11-25");
    assert_eq!(profile["access_key_id"], json!(world.home.key("dev").access_key_id));
    assert_eq!(profile["tools"].as_array().unwrap().len(), 6);
    let steps = document["steps"].as_array().unwrap();
    let names: Vec<_> = steps.iter().map(|step| step["step"].as_str().unwrap()).collect();
    let expected = [
        "broker",
        "name resolution",
        "connection",
        "TLS",
        "credentials",
        "clock",
        "signature",
        "initialize",
        "tools/list",
    ];
    assert_eq!(names, expected);
    assert_eq!(document["problem"], Value::Null);
    let timed = steps.iter().filter(|step| step["ms"].is_number()).count();
    assert!(timed >= 7, "{document:#}");
}

#[tokio::test]
async fn a_server_without_sessions_is_checked_without_them() {
    let world = World::with(|builder| builder.era(Era::Stateless)).await;
    let (good, document) =
        checked(command(&world, &world.upstream.url(), &private(&["dev"], &[]))).await;
    assert!(good, "{document:#}");
    assert_eq!(document["profiles"][0]["protocol"], "2026-07-28");
    assert_eq!(document["profiles"][0]["server"], "verifying-upstream 1.0");
    assert_eq!(document["profiles"][0]["tools"].as_array().unwrap().len(), 6);
    assert!(
        world.upstream.requests().iter().all(|it| it.http_method == "POST"),
        "there is no session to delete"
    );
}

#[tokio::test]
async fn the_expiry_of_the_tls_certificate_is_shown() {
    let authority = Authority::new(&["h2", "http/1.1"]);
    let world = World::with(|builder| builder.vouched_for_by(&authority)).await;
    let bundle = world.write("authorities.pem", &authority.pem);
    let arguments = private(&["dev"], &["--ca-bundle", bundle.to_str().unwrap()]);
    let (good, document) = checked(command(&world, &world.upstream.url(), &arguments)).await;
    assert!(good, "{document:#}");
    let tls = &document["steps"][3];
    assert_eq!((&tls["step"], &tls["result"]), (&json!("TLS"), &json!("passed")));
    assert_names(tls["detail"].as_str().unwrap(), &["valid until", "GMT"]);
}

#[tokio::test]
async fn each_tls_failure_has_its_own_message() {
    let past = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    };
    let other = |params: &mut rcgen::CertificateParams| {
        params.subject_alt_names =
            vec![rcgen::SanType::DnsName("other.example".try_into().unwrap())];
    };
    let protocols = ["h2", "http/1.1"];
    for (authority, is_trusted, words) in [
        (Authority::new(&protocols), false, &["UnknownIssuer", "--ca-bundle"][..]),
        (Authority::shaped(&protocols, past), true, &["expired", "renew"]),
        (Authority::shaped(&protocols, other), true, &["another host"]),
    ] {
        let world = World::with(|builder| builder.vouched_for_by(&authority)).await;
        let bundle = world.write("authorities.pem", &authority.pem);
        let trust = ["--ca-bundle", bundle.to_str().unwrap()];
        let trust = if is_trusted { &trust[..] } else { &[] };
        let checking = command(&world, &world.upstream.url(), &private(&["dev"], trust));
        assert_problem(checking, "TLS", words).await;
        assert!(world.upstream.requests().is_empty(), "nothing is sent");
    }
    let world = World::new().await;
    let arguments = private(&["dev"], &["--ca-bundle", "/nonexistent.pem"]);
    let checking = command(&world, "https://127.0.0.1:1/mcp", &arguments);
    assert_problem(checking, "TLS", &["--ca-bundle /nonexistent.pem"]).await;
    // The server there doesn't speak TLS.
    let plain = world.upstream.url().replace("http://", "https://");
    let checking = command(&world, &plain, &private(&["dev"], &[]));
    assert_problem(checking, "TLS", &["doesn't speak TLS"]).await;
}

#[tokio::test]
async fn each_connection_failure_has_its_own_message() {
    let world = World::new().await;
    let dev = private(&["dev"], &[]);
    let checking = command(&world, "https://nowhere.invalid/mcp", &dev);
    assert_problem(checking, "name resolution", &["nowhere.invalid", "DNS"]).await;
    let checking = command(&world, "https://127.0.0.1:1/mcp", &dev);
    assert_problem(checking, "connection", &["127.0.0.1:1", "refused", "firewall"]).await;
    let mut checking = command(&world, "https://mcp.example.com/mcp", &dev);
    checking.env("HTTPS_PROXY", "http://me:SgwCanaryToken@127.0.0.1:1");
    assert_problem(checking, "connection", &["HTTP proxy http://127.0.0.1:1", "NO_PROXY"]).await;
    let mut checking = command(&world, "https://mcp.example.com/mcp", &dev);
    let through = world.upstream.url().replace("/mcp", "");
    checking.env("HTTPS_PROXY", &through);
    assert_problem(checking, "TLS", &["HTTP proxy", &through]).await;
}

/// The answers of the server to `initialize`, with the step and the words that are reported.
#[tokio::test]
async fn each_refusal_of_the_server_has_its_own_message() {
    let http = |status, body: &str| Reply::Http(status, vec![], body.to_owned());
    let html = vec![("content-type", "text/html".to_owned())];
    let old = vec![("date", "Wed, 25 Nov 2020 12:00:00 GMT".to_owned())];
    for (reply, step, words) in [
        (
            http(
                403,
                r#"{"message":"User: arn:aws:iam::1:user/dev is not authorized to perform: aws-mcp:InvokeMcp"}"#,
            ),
            "signature",
            &["not authorized to perform", "IAM policy"][..],
        ),
        (
            http(
                403,
                r#"{"message":"The request signature we calculated does not match the signature you provided."}"#,
            ),
            "signature",
            &["does not match", "secret key"],
        ),
        (
            http(403, r#"{"message":"Credential should be scoped to a valid region."}"#),
            "signature",
            &["--region"],
        ),
        (
            Reply::Http(
                403,
                old,
                r#"{"message":"Signature not yet current: 20261125T120000Z"}"#.to_owned(),
            ),
            "clock",
            &["ahead of the server's", "timedatectl"],
        ),
        (http(404, ""), "initialize", &["404", "path"]),
        (
            Reply::Http(200, html.clone(), "<html>".to_owned()),
            "initialize",
            &["isn't an MCP server", "sign-in in a browser"],
        ),
        (Reply::Http(502, html, "<html>".to_owned()), "initialize", &["502", "gateway"]),
        (
            Reply::Http(
                302,
                vec![("location", "https://elsewhere.example/".to_owned())],
                String::new(),
            ),
            "initialize",
            &["302", "https://elsewhere.example/"],
        ),
        (Reply::Error(-32603, "out of order".to_owned()), "initialize", &["out of order"]),
        (Reply::Result(r#"{"odd":true}"#.to_owned()), "initialize", &["protocolVersion"]),
        (Reply::HangUp, "initialize", &["closes the connection"]),
    ] {
        let world = World::new().await;
        let all = reply.clone();
        world.upstream.hook(move |_| Some(all.clone()));
        let checking = command(&world, &world.upstream.url(), &private(&["dev"], &[]));
        assert_problem(checking, step, words).await;
    }
}

#[tokio::test]
async fn a_failed_tools_list_still_ends_the_session() {
    let world = World::new().await;
    world.upstream.next("tools/list", Reply::Error(-32603, "no list today".to_owned()));
    let checking = command(&world, &world.upstream.url(), &private(&["dev"], &[]));
    assert_problem(checking, "tools/list", &["no list today"]).await;
    assert_eq!(world.upstream.sessions_of(world.home.identity("dev")), [""; 0]);
}

#[tokio::test]
async fn a_server_that_never_answers_times_out() {
    let world = World::new().await;
    let never = Gate::default();
    world.upstream.hook(move |_: &Received| Some(Reply::Usual.held(&never)));
    let arguments = private(&["dev"], &["--read-timeout", "0.3", "--connect-timeout", "0.3"]);
    let checking = command(&world, &world.upstream.url(), &arguments);
    assert_problem(checking, "initialize", &["--read-timeout", "doesn't answer"]).await;
}

#[tokio::test]
async fn each_broker_failure_has_its_own_message() {
    let world = World::new().await;
    let url = world.upstream.url();
    let missing = ["--broker", "unix:/nonexistent/broker.sock", "--profile", "dev"];
    assert_problem(
        command(&world, &url, &missing),
        "broker",
        &["/nonexistent/broker.sock", "serve"],
    )
    .await;

    let misspelt = command(&world, &url, &private(&["dvelopment"], &[]));
    assert_problem(misspelt, "credentials", &["dvelopment"]).await;

    let rule = format!(
        "[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"staging\"]\nendpoints = [\"upstream\"]\n",
        own_uid()
    );
    let _broker = world.broker(&world.configuration(&rule)).await;
    let socket = format!("unix:{}", world.socket().display());
    let denied = command(&world, &url, &["--broker", &socket, "--profile", "staging", "dev"]);
    let uid = format!("--uid {}", own_uid());
    let (good, document) = checked(denied).await;
    assert!(!good);
    assert_eq!(
        (&document["problem"]["step"], &document["problem"]["profile"]),
        (&json!("broker"), &json!("dev"))
    );
    let advice = document["problem"]["advice"].as_str().unwrap();
    assert_names(advice, &["sigward-broker explain", &uid, "--profile dev"]);
    assert_eq!(
        document["profiles"][0]["tools"].as_array().unwrap().len(),
        6,
        "the other profile works"
    );

    // Without a broker next to the proxy.
    let program = world.directory.path().join("sigward-proxy");
    copy_program(&processes::binaries().proxy, &program);
    let mut alone = processes::command(&program);
    alone.env("PATH", "/nonexistent").envs(world.home.environment());
    alone.args(["check", &url, "--broker", "private", "--profile", "dev"]);
    assert_problem(alone, "broker", &["no sigward-broker beside"]).await;
}

#[tokio::test]
async fn a_required_sign_in_is_reported_with_its_command() {
    let world = World::new().await;
    world.home.config(
        "[profile portal]\nsso_session = s\nsso_account_id = 123456789012\nsso_role_name = R\n[sso-session s]\nsso_start_url = https://example.com/start\nsso_region = eu-west-1\n",
    );
    let checking = command(&world, &world.upstream.url(), &private(&["portal"], &[]));
    assert_problem(checking, "credentials", &["aws sso login --profile portal"]).await;
}

#[tokio::test]
async fn an_invalid_command_line_has_its_own_exit_code() {
    let world = World::new().await;
    for (arguments, word) in [
        (&["check"][..], "endpoint is missing"),
        (&["check", "http://example.com/mcp"], "https://"),
        (&["check", "https://h/mcp", "--no-such-option"], "--no-such-option"),
    ] {
        let mut command = processes::command(&processes::binaries().proxy);
        command.envs(world.home.environment()).args(arguments).stdin(std::process::Stdio::null());
        let output = command.output().await.unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert_names(&String::from_utf8_lossy(&output.stderr), &[word]);
    }
}

/// Keys of the environment go to the private broker, as when the proxy serves.
#[tokio::test]
async fn keys_of_the_environment_are_checked() {
    let world = World::new().await;
    let key = world.home.key("staging").clone();
    let mut checking = command(&world, &world.upstream.url(), &["--broker", "private"]);
    checking.env("AWS_ACCESS_KEY_ID", &key.access_key_id).env("AWS_SECRET_ACCESS_KEY", &key.secret);
    checking.env("AWS_SESSION_TOKEN", key.session_token.as_ref().unwrap());
    let (good, document) = checked(checking).await;
    assert!(good, "{document:#}");
    assert_eq!(document["profiles"][0]["access_key_id"], json!(key.access_key_id));
    assert_eq!(world.upstream.requests()[0].identity(), key.identity);
}

/// The attack: control characters in the server's text forge lines of the output.
#[tokio::test]
async fn control_characters_of_the_server_are_removed() {
    let world = World::new().await;
    let hostile = "Forbidden\u{1b}[2K\nEverything works.";
    let body = json!({ "message": hostile }).to_string();
    world.upstream.hook(move |_| Some(Reply::Http(403, vec![], body.clone())));
    let checking = command(&world, &world.upstream.url(), &private(&["dev"], &[]));
    let (good, output, _) = run(checking).await;
    assert!(!good);
    assert!(
        !output.contains('\u{1b}') && !output.lines().any(|line| line == "Everything works."),
        "{output}"
    );
}
