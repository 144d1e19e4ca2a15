//! The private broker: one command starts it, and it is restarted when it ends.

use rustix::process::Signal;
use sigward_tests::processes::{self, StdioClient};

use crate::setup::{THREE, World, assert_names, copy_program, failure, own_uid, rpc_error, text};

#[tokio::test]
async fn a_killed_broker_is_restarted() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    let mut seen = Vec::new();
    for profile in THREE {
        let broker = processes::children(client.process().pid());
        assert_eq!(broker.len(), 1, "one broker, and no zombie");
        assert!(!seen.contains(&broker[0]), "a new broker each time");
        seen.push(broker[0]);
        processes::signal(broker[0], Signal::KILL);
        let called = client.call("whoami", &format!(r#"{{"aws_profile":"{profile}"}}"#)).await;
        assert_eq!(text(&called), world.home.identity(profile), "after a kill");
    }
}

#[tokio::test]
async fn a_killed_broker_that_had_keys_of_the_environment_is_not_restarted() {
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
        assert_names(failure(&failed), &["signal 9", "Restart the MCP server", "environment"]);
    }
    let (status, ..) = client.close().await;
    assert!(status.success());
}

/// Without any profile, the SDK's default chain signs: here `[default]` of the files.
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

/// Without `--broker`, a broker that listens in the runtime directory is used, and no private one is started.
#[tokio::test]
async fn a_broker_on_the_usual_socket_is_preferred() {
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
    assert_eq!(
        text(&called),
        world.home.identity("staging"),
        "--broker private starts a private broker"
    );
}

#[tokio::test]
async fn a_missing_broker_program_is_reported() {
    let world = World::new().await;
    let program = world.directory.path().join("sigward-proxy");
    copy_program(&processes::binaries().proxy, &program);
    let usual = world.private_proxy(&["dev"], &[]);
    let command = || {
        let mut command = processes::command(&program);
        command.env("PATH", "/nonexistent").envs(world.home.environment());
        command.args(usual.as_std().get_args());
        command
    };
    let mut alone = command();
    alone.stdin(std::process::Stdio::null());
    let ended = sigward_tests::deadline::within(alone.output(), || "it hangs".to_owned());
    let output = ended.await.unwrap();
    assert!(!output.status.success());
    assert_names(&String::from_utf8_lossy(&output.stderr), &["sigward-broker"]);
    assert!(output.stdout.is_empty());

    let mut client = StdioClient::start(command());
    let refused = client.request("initialize", INITIALIZE).await;
    assert_names(rpc_error(&refused).1, &["no sigward-broker", "install both programs"]);
    let (status, ..) = client.close().await;
    assert!(!status.success());
    // A listening proxy has no client to tell.
    let mut listening = command();
    listening.args(["--listen", "127.0.0.1:0"]);
    let (status, errors) = processes::Process::start(listening).ended().await;
    assert!(!status.success());
    assert_names(&errors, &["no sigward-broker"]);
    assert!(!errors.contains("listening"), "{errors}");
}

const INITIALIZE: &str =
    r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}"#;

/// However many calls wait, one broker is started for them. Its error is the error of each call, and is on standard
/// error once: with keys in files, and with keys in the environment, when the proxy starts the broker before it
/// re-executes itself.
#[tokio::test]
async fn the_error_of_a_broker_that_cannot_start_reaches_all_waiting_calls() {
    let world = World::new().await;
    let key = world.home.key("dev").clone();
    let error = "its host doesn't tell the region: give --region, or set AWS_REGION";
    for keys in [false, true] {
        let usual = world.proxy(&[]);
        let mut command = processes::command(usual.as_std().get_program().as_ref());
        command.env("HOME", world.directory.path()).env("XDG_RUNTIME_DIR", world.directory.path());
        command.args([&world.upstream.url(), "--broker", "private"]);
        if keys {
            command.env("AWS_ACCESS_KEY_ID", &key.access_key_id);
            command.env("AWS_SECRET_ACCESS_KEY", &key.secret);
        }
        let mut client = StdioClient::start(command);
        let mut asked = vec![client.start_request("initialize", INITIALIZE).await];
        for _ in 0..20 {
            asked.push(client.start_request("tools/list", "{}").await);
        }
        for id in asked {
            let refused = client.response(&id).await;
            let message = rpc_error(&refused).1;
            assert_names(message, &["The private broker can't start: --endpoint", error]);
            assert_eq!(message.contains("restart the MCP server"), keys, "{message}");
        }
        let (_, _, errors) = client.close().await;
        assert_eq!(errors.matches(error).count(), 1, "{errors}");
        assert_eq!(errors.matches("sigward-broker: ").count(), 1, "{errors}");
    }
    assert_eq!(world.upstream.requests().len(), 0);
}

/// Names with spaces or other letters reach the broker unchanged, from the command line and from the environment, and
/// the model can choose them.
#[tokio::test]
async fn profile_names_can_have_spaces_and_other_letters() {
    let world = World::new().await;
    for (name, key) in [("my profile", "staging"), ("Zürich", "prod")] {
        let key = world.home.key(key);
        let token = key.session_token.as_ref();
        let token = token.map(|token| format!("aws_session_token = {token}\n"));
        world.home.config(&format!(
            "[profile \"{name}\"]\nregion = us-east-2\naws_access_key_id = {}\naws_secret_access_key = {}\n{}",
            key.access_key_id,
            key.secret,
            token.unwrap_or_default()
        ));
    }
    for by_environment in [false, true] {
        let command = if by_environment {
            let mut command = world.proxy(&["--broker", "private"]);
            command.env("AWS_MCP_PROXY_PROFILES", r#""my profile" dev Zürich"#);
            command
        } else {
            world.private_proxy(&["my profile", "dev", "Zürich"], &[])
        };
        let mut client = StdioClient::start(command);
        client.initialize().await;
        let called = client.call("whoami", "{}").await;
        assert_eq!(text(&called), world.home.identity("staging"));
        for (name, identity) in [("Zürich", "prod"), ("my profile", "staging"), ("dev", "dev")] {
            let called = client.call("whoami", &format!(r#"{{"aws_profile":"{name}"}}"#)).await;
            assert_eq!(text(&called), world.home.identity(identity), "{name}");
        }
    }
}

/// A restarted broker gets the original environment, and variables left by another proxy don't keep the keys in this
/// process.
#[tokio::test]
async fn variables_left_by_another_proxy_change_nothing() {
    let world = World::new().await;
    for leftover in ["- -", "1 2 keys ", ""] {
        let mut command = world.proxy(&["--broker", "private"]);
        command.env("SIGWARD_HANDOVER", leftover).env("SIGWARD_KEPT_AWS_PROFILE", "staging");
        command.env("AWS_PROFILE", "prod").env("LISTEN_FDS", "2").env("LISTEN_PID", "1");
        let mut client = StdioClient::start(command);
        client.initialize().await;
        let called = client.call("whoami", "{}").await;
        assert_eq!(text(&called), world.home.identity("prod"), "{leftover:?}");
        let environ = format!("/proc/{}/environ", client.process().pid());
        let environ = std::fs::read(environ).unwrap();
        let mut names = environ.split(|byte| *byte == 0);
        assert!(!names.any(|name| name.starts_with(b"AWS_")), "{leftover:?}");
    }
}

/// As with mcp-proxy-for-aws: the first label of the host is the service, and AWS_REGION the region.
#[tokio::test]
async fn an_endpoint_on_this_machine_needs_no_service() {
    let world = World::new().await;
    let (_, port) =
        world.upstream.url().rsplit_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    for (host, service) in [("127.0.0.1", "127"), ("localhost", "localhost")] {
        let mut command = processes::command(&processes::binaries().proxy);
        command.envs(world.home.environment()).env("AWS_REGION", "eu-north-1");
        command.args([&format!("http://{host}:{port}"), "--broker", "private", "--profile", "dev"]);
        let mut client = StdioClient::start(command);
        // This server accepts only its own service; what matters is what was signed.
        client.request("initialize", INITIALIZE).await;
        let request = world.upstream.requests().pop().unwrap();
        let authorization = request.header("authorization").unwrap();
        assert_names(authorization, &[&format!("/eu-north-1/{service}/aws4_request")]);
    }
}
