//! Sessions end with their client, even if they are still being opened.

use sigward_tests::upstream::{Gate, Received, Reply};

use crate::agent::{Agent, SESSIONS, Side};
use crate::setup::{THREE, World, failure, text};

/// The client ends while the session of another profile is being opened: that session is deleted, and not used.
#[tokio::test]
async fn a_session_opened_while_its_client_ends_is_deleted() {
    let world = World::new().await;
    let arguments = ["--log-level", "INFO"];
    let mut agent = Agent::start(&world, Side::Listening, SESSIONS, &THREE, &arguments).await;
    text(&agent.call_as("whoami", "dev").await);
    // The list of tools is known, so that the next request of this profile is the handshake.
    agent.request("tools/list", "{}").await;
    let open = Gate::default();
    world.upstream.next("initialize", Reply::Usual.held(&open));
    agent.call_later("write_note", "prod").await;
    let of_prod = |it: &Received| it.identity() == world.home.identity("prod");
    world.upstream.expect("the handshake", |it| it.method() == "initialize" && of_prod(it)).await;
    let (listening, session) = agent.http();
    let ended = listening.request("DELETE", "/mcp", &session, "").await;
    assert_eq!(ended.status, 200);
    // Ending the client waits for its calls and sessions, and gives up after a while.
    agent.process().logged("gave up waiting for sessions to end").await;
    open.open();
    let end =
        world.upstream.expect("the delete", |it| it.http_method == "DELETE" && of_prod(it)).await;
    let id = end.header("mcp-session-id").unwrap().to_owned();
    let requests = world.upstream.requests();
    let used = requests.iter().filter(|it| it.header("mcp-session-id") == Some(&id));
    let used: Vec<_> = used.map(|it| (it.http_method.clone(), it.method().to_owned())).collect();
    assert_eq!(
        used,
        [("DELETE".to_owned(), String::new())],
        "the session was used for nothing else"
    );
}

/// A session of the first handshake that is lost during a call isn't renewed after the second handshake.
#[tokio::test]
async fn a_second_handshake_ends_the_sessions_of_the_first() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    let call = |profile: &str| format!(r#"{{"aws_profile":"{profile}"}}"#);
    text(&client.call("whoami", &call("prod")).await);
    let answer = Gate::default();
    let gone = Reply::Http(404, Vec::new(), String::new());
    world.upstream.next("tools/call", gone.held(&answer));
    let params = sigward_tests::processes::call("write_note", &call("prod"));
    let late = client.start_request("tools/call", &params).await;
    world.upstream.expect("the call", |it| it.calls("write_note")).await;
    client.initialize().await;
    answer.open();
    assert!(failure(&client.response(&late).await).contains("session"));
    let of_prod = |it: &&Received| it.identity() == world.home.identity("prod");
    let opened = world.upstream.requests_of("initialize");
    assert_eq!(
        opened.iter().filter(of_prod).count(),
        1,
        "no session was opened for the first handshake"
    );
    text(&client.call("whoami", &call("prod")).await);
}

/// Fifty calls wait for a broker that can't start: they fail together, not one after the other.
#[tokio::test]
async fn calls_waiting_for_a_broker_that_cannot_start_fail_together() {
    use std::os::unix::fs::PermissionsExt;

    let world = World::new().await;
    let directory = world.directory.path();
    let (starts, broker) = (directory.join("starts"), directory.join("sigward-broker"));
    let script = format!(
        "#!/bin/sh\necho x >>'{}'\necho 'sigward-broker: no' >&2\nexit 1\n",
        starts.display()
    );
    std::fs::write(&broker, script).unwrap();
    std::fs::set_permissions(&broker, PermissionsExt::from_mode(0o700)).unwrap();
    let proxy = directory.join("sigward-proxy");
    crate::setup::copy_program(&sigward_tests::processes::binaries().proxy, &proxy);
    let mut command = sigward_tests::processes::command(&proxy);
    command.env("HOME", directory).args([&world.upstream.url(), "--broker", "private"]);
    command.args(["--service", "aws-mcp", "--region", "us-east-1", "--profile", "dev"]);
    let mut client = sigward_tests::processes::StdioClient::start(command);
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(client.start_request("tools/list", "{}").await);
    }
    for id in &ids {
        failure(&client.response(id).await);
    }
    let started = std::fs::read_to_string(&starts).unwrap().lines().count();
    assert!(started < 20, "{started} processes for {} calls", ids.len());
}
