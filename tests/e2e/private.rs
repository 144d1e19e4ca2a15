//! The private broker: one command is enough, and its death is not the end.

use rustix::process::Signal;
use sigward_tests::processes::{self, StdioClient};

use crate::setup::{THREE, World, assert_names, copy_program, failure, own_uid, text};

#[tokio::test]
async fn a_killed_broker_is_started_again() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    let mut seen = Vec::new();
    for profile in THREE {
        let broker = processes::children(client.process().pid());
        assert_eq!(broker.len(), 1, "one broker, and no zombie");
        assert!(!seen.contains(&broker[0]), "a new one each time");
        seen.push(broker[0]);
        processes::signal(broker[0], Signal::KILL);
        let called = client.call("whoami", &format!(r#"{{"aws_profile":"{profile}"}}"#)).await;
        assert_eq!(text(&called), world.home.identity(profile), "after a kill");
    }
}

#[tokio::test]
async fn a_killed_broker_that_had_the_keys_of_the_environment_is_not() {
    let world = World::new().await;
    let key = world.home.key("dev").clone();
    let mut command = world.proxy(&["--broker", "private"]);
    command.env_remove("AWS_CONFIG_FILE").env_remove("AWS_SHARED_CREDENTIALS_FILE");
    command.env("HOME", world.directory.path());
    command.env("AWS_ACCESS_KEY_ID", &key.access_key_id);
    command.env("AWS_SECRET_ACCESS_KEY", &key.secret);
    let mut client = StdioClient::start(command);
    client.initialize().await;
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), key.identity);

    processes::signal(processes::children(client.process().pid())[0], Signal::KILL);
    for _ in 0..2 {
        let failed = client.call("whoami", "{}").await;
        assert_names(failure(&failed), &["restart", "environment"]);
    }
    let (status, ..) = client.close().await;
    assert!(status.success());
}

/// With no profile at all, the SDK's default chain signs: here `[default]` of the files.
#[tokio::test]
async fn without_profiles_the_default_chain_signs() {
    let mut home = sigward_tests::aws_home::AwsHome::new();
    home.static_keys("default", &sigward_tests::keys::Key::user("by-default"));
    let world = World::at_home(home, |builder| builder).await;
    let mut client = StdioClient::start(world.proxy(&["--broker", "private"]));
    client.initialize().await;
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), world.home.identity("default"));
    client.start_request("tools/list", "{}").await;
    let list = client.expect_line("the list", |line| line.contains("\"tools\"")).await;
    assert!(!list.contains("aws_profile"), "{list}");
}

/// Without `--broker`, one that listens in the runtime directory is asked; there is none of our own then.
#[tokio::test]
async fn a_broker_on_the_usual_socket_comes_first() {
    let world = World::new().await;
    let socket = world.directory.path().join("sigward/broker.sock");
    std::fs::create_dir(socket.parent().unwrap()).unwrap();
    let rule = format!(
        "[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"dev\", \"prod\"]\nendpoints = [\"upstream\"]",
        own_uid()
    );
    let config = world.configuration(&rule);
    let config = config.replace(world.socket().to_str().unwrap(), socket.to_str().unwrap());
    let _broker = world.broker(&config).await;

    let mut client = StdioClient::start(world.proxy(&["--profile", "dev", "staging"]));
    client.initialize().await;
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), world.home.identity("dev"));
    let refused = client.call("whoami", r#"{"aws_profile":"staging"}"#).await;
    assert_names(failure(&refused), &["staging"]);
    assert_eq!(processes::children(client.process().pid()), [0; 0]);

    let mut client = StdioClient::start(world.private_proxy(&["dev", "staging"], &[]));
    client.initialize().await;
    let called = client.call("whoami", r#"{"aws_profile":"staging"}"#).await;
    assert_eq!(text(&called), world.home.identity("staging"), "--broker private asks for our own");
}

#[tokio::test]
async fn a_missing_broker_program_is_said() {
    let world = World::new().await;
    let program = world.directory.path().join("sigward-proxy");
    copy_program(&processes::binaries().proxy, &program);
    let usual = world.private_proxy(&["dev"], &[]);
    let mut command = processes::command(&program);
    command.env("PATH", "/nonexistent").envs(world.home.environment());
    command.args(usual.as_std().get_args()).stdin(std::process::Stdio::null());
    let ended = sigward_tests::deadline::within(command.output(), || "it hangs".to_owned());
    let output = ended.await.unwrap();
    assert!(!output.status.success());
    assert_names(&String::from_utf8_lossy(&output.stderr), &["sigward-broker"]);
    assert!(output.stdout.is_empty());
}
