//! AWS can't be reached, doesn't answer, or its names can't be resolved: the profiles that need it report that, the
//! others work, and once AWS is back everything works again without a restart.

mod names;

use std::net::SocketAddr;
use std::process::Stdio;

use sigward_tests::authority::{Authority, HOST};
use sigward_tests::aws::Aws;
use sigward_tests::aws_home::AwsHome;
use sigward_tests::deadline;
use sigward_tests::processes::{self, StdioClient};
use sigward_tests::upstream::{REGION, SERVICE};

use self::names::{Names, Server};
use super::relay::Relay;
use crate::setup::{World, assert_names, failure, own_uid, text};

const ROLE: &str = "arn:aws:iam::123456789012:role/Away";

fn home() -> AwsHome {
    let home = AwsHome::new();
    home.role("role", "dev", ROLE);
    home
}

/// The address of an [`Aws`], and the variables that make a process use `there` instead.
fn redirected(aws: &Aws, there: &str) -> (SocketAddr, Vec<(String, String)>) {
    let environment = aws.environment();
    let own = environment[0].1.trim_start_matches("http://").parse().unwrap();
    (own, environment.into_iter().map(|(name, _)| (name, format!("http://{there}"))).collect())
}

const OF_ROLE: &str = r#"{"aws_profile":"role"}"#;

/// Calls as the role until that is signed.
async fn assert_recovers(client: &mut StdioClient) {
    let back = async {
        loop {
            let called = client.call("whoami", OF_ROLE).await;
            if called["result"].is_object() && called["result"]["isError"] != true {
                return text(&called).to_owned();
            }
        }
    };
    let identity = deadline::within_long(back, || "the role doesn't recover".to_owned()).await;
    assert_names(&identity, &["assumed-role/Away"]);
}

#[tokio::test]
async fn an_outage_of_aws_affects_only_roles_and_needs_no_restart() {
    let home = home();
    let aws = Aws::start(home.keys()).await;
    let world = World::at_home(home, |builder| builder).await;
    let relay = Relay::to(None).await;
    let (sts, environment) = redirected(&aws, &relay.address.to_string());
    let mut command = world.private_proxy(&["dev", "role"], &["--tool-timeout", "60"]);
    command.envs(environment);
    let mut client = StdioClient::start(command);
    client.initialize().await;

    let id = client.start_request("tools/call", &processes::call("write_note", OF_ROLE)).await;
    assert_eq!(text(&client.call("whoami", "{}").await), world.home.identity("dev"));
    let refused = client.response(&id).await;
    assert_names(failure(&refused), &["\"role\"", "sts:AssumeRole"]);
    assert!(world.upstream.requests().iter().all(|it| !it.calls("write_note")));

    relay.set_target(Some(sts));
    assert_recovers(&mut client).await;
}

/// A client starts during an outage of AWS, and its only profile needs it: the proxy answers as a server that reports
/// this, and offers the tools when AWS is back, whether the client tries again or not.
#[tokio::test]
async fn a_client_started_without_aws_gets_its_tools_later() {
    for asks in [true, false] {
        let home = home();
        let aws = Aws::start(home.keys()).await;
        let world = World::at_home(home, |builder| builder).await;
        let relay = Relay::to(None).await;
        let (sts, environment) = redirected(&aws, &relay.address.to_string());
        let mut command = world.private_proxy(&["role"], &[]);
        command.envs(environment);
        let mut client = StdioClient::start(command);
        let what = ["\"role\"", "no credentials", "sts:AssumeRole"];
        let begun = client.initialize().await;
        assert_eq!(begun["serverInfo"]["name"], "sigward-proxy");
        assert_names(begun["instructions"].as_str().unwrap(), &what);
        let list = client.request("tools/list", "{}").await;
        let tools = list["result"]["tools"].as_array().unwrap();
        assert_eq!((tools.len(), &tools[0]["name"]), (1, &"sigward_sign_in".into()), "{list}");
        assert_eq!(tools[0]["title"], "Try AWS again");
        for tool in ["whoami", "sigward_sign_in"] {
            assert_names(failure(&client.call(tool, "{}").await), &what);
        }
        // No tool call was sent.
        assert!(world.upstream.requests_of("tools/call").is_empty());

        relay.set_target(Some(sts));
        if asks {
            let back = async {
                while client.call("sigward_sign_in", "{}").await["result"]["isError"] == true {}
            };
            deadline::within_long(back, || "the profile doesn't recover".to_owned()).await;
        }
        let is_changed =
            |it: &serde_json::Value| it["method"] == "notifications/tools/list_changed";
        client.expect("the change", is_changed).await;
        let list = client.request("tools/list", "{}").await.to_string();
        assert!(list.contains("\"whoami\"") && !list.contains("sigward_sign_in"), "{list}");
        assert_names(text(&client.call("whoami", "{}").await), &["assumed-role/Away"]);
        let opened = world.upstream.requests_of("initialize");
        assert_eq!(opened.iter().filter(|it| it.signature.is_ok()).count(), 1);
    }
}

/// AWS accepts a connection and a request, and doesn't answer.
#[tokio::test]
async fn a_silent_aws_delays_only_profiles_that_need_it() {
    let home = home();
    let aws = Aws::start(home.keys()).await;
    let world = World::at_home(home, |builder| builder).await;
    let mut command = world.private_proxy(&["dev", "role"], &["--tool-timeout", "2"]);
    command.envs(aws.environment());
    let mut client = StdioClient::start(command);
    client.initialize().await;
    aws.hold();
    let id = client.start_request("tools/call", &processes::call("write_note", OF_ROLE)).await;
    aws.held().await;
    assert_eq!(text(&client.call("whoami", "{}").await), world.home.identity("dev"));
    let late = client.response(&id).await;
    assert_names(failure(&late), &["--tool-timeout", "nothing was sent"]);
    aws.release();
    assert_recovers(&mut client).await;
    assert!(world.upstream.requests().iter().all(|it| !it.calls("write_note")));
}

/// A proxy and its private broker in a mount namespace in which `names` resolves host names.
fn with_names(world: &World, names: &Names, arguments: &[&str]) -> tokio::process::Command {
    let resolv = world.write("resolv.conf", &names.resolv_conf());
    let script = "mount --bind \"$1\" /etc/resolv.conf; shift; exec \"$@\"";
    let mut command = processes::command("unshare".as_ref());
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").envs(world.home.environment());
    command.env("XDG_RUNTIME_DIR", world.directory.path());
    command.args(["--mount", "--propagation", "private", "sh", "-ec", script, "sh"]).arg(resolv);
    command.arg(&processes::binaries().proxy).args(arguments);
    command.stdin(Stdio::piped());
    command
}

#[tokio::test]
async fn unresolved_names_are_reported_and_need_no_restart() {
    if own_uid() != 0 {
        return; // Only root can mount a resolv.conf and bind port 53.
    }
    for fault in [Server::Silent, Server::Fails] {
        let authority = Authority::new(&["h2"]);
        let home = home();
        let aws = Aws::start(home.keys()).await;
        let world = World::at_home(home, |builder| builder.vouched_for_by(&authority)).await;
        let bundle = world.write("authorities.pem", &authority.pem);
        let names = Names::start().await;
        let url = world.upstream.url().replace("127.0.0.1", HOST);
        let (sts, _) = redirected(&aws, "");
        let host = format!("{}:{}", names::OF_STS, sts.port());
        let (_, environment) = redirected(&aws, &host);
        let bundle = bundle.to_str().unwrap();
        let arguments = [
            &url,
            "--service",
            SERVICE,
            "--region",
            REGION,
            "--broker",
            "private",
            "--ca-bundle",
            bundle,
            "--profile",
            "dev",
            "role",
        ];
        let mut command = with_names(&world, &names, &arguments);
        command.envs(environment);
        names.serve(fault);
        let mut client = StdioClient::start(command);
        let refused = client.request("initialize", crate::tls::scene::INITIALIZE).await;
        assert_names(failure(&refused), &[HOST]);

        names.serve(Server::Answers);
        let (mut answer, begun) = (refused, std::time::Instant::now());
        while answer["result"].is_null() && begun.elapsed() < deadline::DEADLINE {
            answer = client.request("initialize", crate::tls::scene::INITIALIZE).await;
        }
        assert!(answer["result"].is_object(), "{fault:?}: {answer}");
        client.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        assert_eq!(text(&client.call("whoami", "{}").await), world.home.identity("dev"));

        // The connection to the server stays open; the role needs a name that wasn't resolved before.
        names.serve(fault);
        let refused = client.call("write_note", OF_ROLE).await;
        assert_names(failure(&refused), &["\"role\"", "sts:AssumeRole"]);
        assert_eq!(text(&client.call("whoami", "{}").await), world.home.identity("dev"));
        names.serve(Server::Answers);
        assert_recovers(&mut client).await;
        assert!(world.upstream.requests().iter().all(|it| !it.calls("write_note")));
        assert!(
            names.was_asked_for(HOST) && names.was_asked_for(names::OF_STS),
            "control: both were asked for"
        );
    }
}
