//! AWS isn't reached, doesn't answer, or its names aren't resolved: the profiles that need it say so, the others go on,
//! and once it is back everything works again, without a restart.

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

/// The address of an [`Aws`], and the variables that send a process to `there` in its place.
fn elsewhere(aws: &Aws, there: &str) -> (SocketAddr, Vec<(String, String)>) {
    let environment = aws.environment();
    let own = environment[0].1.trim_start_matches("http://").parse().unwrap();
    (own, environment.into_iter().map(|(name, _)| (name, format!("http://{there}"))).collect())
}

const OF_ROLE: &str = r#"{"aws_profile":"role"}"#;

/// Calls as the role until that is signed.
async fn comes_back(client: &mut StdioClient) {
    let back = async {
        loop {
            let called = client.call("whoami", OF_ROLE).await;
            if called["result"].is_object() && called["result"]["isError"] != true {
                return text(&called).to_owned();
            }
        }
    };
    let identity = deadline::within_long(back, || "the role never comes back".to_owned()).await;
    assert_names(&identity, &["assumed-role/Away"]);
}

#[tokio::test]
async fn aws_away_is_said_for_those_who_need_it_and_is_over_when_it_is_back() {
    let home = home();
    let aws = Aws::start(home.keys()).await;
    let world = World::at_home(home, |builder| builder).await;
    let relay = Relay::to(None).await;
    let (sts, environment) = elsewhere(&aws, &relay.address.to_string());
    let mut command = world.private_proxy(&["dev", "role"], &["--tool-timeout", "60"]);
    command.envs(environment);
    let mut client = StdioClient::start(command);
    client.initialize().await;

    let id = client.start_request("tools/call", &processes::call("write_note", OF_ROLE)).await;
    assert_eq!(text(&client.call("whoami", "{}").await), world.home.identity("dev"));
    let refused = client.response(&id).await;
    assert_names(failure(&refused), &["\"role\"", "sts:AssumeRole"]);
    assert!(world.upstream.requests().iter().all(|it| !it.calls("write_note")));

    relay.lead_to(Some(sts));
    comes_back(&mut client).await;
}

/// A client starts while AWS is away, and its only profile needs it: it has a server that says so, and gets its tools when
/// AWS is back, whether somebody asks or not.
#[tokio::test]
async fn a_client_that_starts_without_aws_has_a_server_and_later_its_tools() {
    for asks in [true, false] {
        let home = home();
        let aws = Aws::start(home.keys()).await;
        let world = World::at_home(home, |builder| builder).await;
        let relay = Relay::to(None).await;
        let (sts, environment) = elsewhere(&aws, &relay.address.to_string());
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
        // Nothing that acts went unsigned.
        assert!(world.upstream.requests_of("tools/call").is_empty());

        relay.lead_to(Some(sts));
        if asks {
            let back = async {
                while client.call("sigward_sign_in", "{}").await["result"]["isError"] == true {}
            };
            deadline::within_long(back, || "the profile never signs".to_owned()).await;
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

/// It takes a connection and a request, and says nothing.
#[tokio::test]
async fn aws_that_says_nothing_holds_up_those_alone_who_need_it() {
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
    comes_back(&mut client).await;
    assert!(world.upstream.requests().iter().all(|it| !it.calls("write_note")));
}

/// A proxy and its private broker in a mount namespace in which `names` resolves.
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
async fn names_that_are_not_resolved_are_said_and_all_works_when_they_are() {
    if own_uid() != 0 {
        return; // Only root has another resolv.conf, and port 53.
    }
    for fault in [Server::Silent, Server::Fails] {
        let authority = Authority::new(&["h2"]);
        let home = home();
        let aws = Aws::start(home.keys()).await;
        let world = World::at_home(home, |builder| builder.vouched_for_by(&authority)).await;
        let bundle = world.write("authorities.pem", &authority.pem);
        let names = Names::start().await;
        let url = world.upstream.url().replace("127.0.0.1", HOST);
        let (sts, _) = elsewhere(&aws, "");
        let host = format!("{}:{}", names::OF_STS, sts.port());
        let (_, environment) = elsewhere(&aws, &host);
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

        // The connection to the server stands; the role needs a name that nobody has asked for.
        names.serve(fault);
        let refused = client.call("write_note", OF_ROLE).await;
        assert_names(failure(&refused), &["\"role\"", "sts:AssumeRole"]);
        assert_eq!(text(&client.call("whoami", "{}").await), world.home.identity("dev"));
        names.serve(Server::Answers);
        comes_back(&mut client).await;
        assert!(world.upstream.requests().iter().all(|it| !it.calls("write_note")));
        assert!(names.was_asked_for(HOST) && names.was_asked_for(names::OF_STS), "the control");
    }
}
