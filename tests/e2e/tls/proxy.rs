//! A proxy whose broker is reached over TLS: restarts and rotations lose no call, and errors name their option.

use std::time::Duration;

use sigward_tests::processes::{StdioClient, assert_no_canary};
use sigward_tests::workloads::{self, BROKER, Workloads, uri};

use super::scene::{AGENT, INITIALIZE, Scene, rule};
use crate::setup::{assert_names, failure, text};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn calls_survive_a_restart_of_the_broker() {
    let mut scene = Scene::new(&rule("spiffe_id", AGENT)).await;
    let agent = scene.authority.workload(AGENT);
    let mut client = scene.agent(&agent, &["dev"]).await;
    for _ in 0..3 {
        assert_eq!(text(&client.call("whoami", "{}").await), scene.world.home.identity("dev"));
        scene.restart().await;
    }
    assert_eq!(text(&client.call("whoami", "{}").await), scene.world.home.identity("dev"));
}

/// The proxy's certificate is replaced before it expires: calls continue beyond its expiry, and none fails.
#[tokio::test]
async fn calls_survive_a_rotation_of_the_proxy_s_certificate() {
    let scene = Scene::new(&rule("spiffe_id", AGENT)).await;
    let now = workloads::now();
    let end = now + Duration::from_secs(8);
    let short = scene.authority.issue_between(&[uri(AGENT)], now - HOUR, end);
    let mut client = scene.agent(&short, &["dev"]).await;
    text(&client.call("whoami", "{}").await);
    scene.write_agent(&scene.authority.workload(AGENT));
    while workloads::now() < end + Duration::from_secs(2) {
        assert_eq!(text(&client.call("whoami", "{}").await), scene.world.home.identity("dev"));
    }
}

/// The certificate is replaced too late: the error says so, and the next call uses the new one.
#[tokio::test]
async fn an_expired_certificate_is_reported_and_a_new_one_is_used() {
    let scene = Scene::new(&rule("spiffe_id", AGENT)).await;
    let now = workloads::now();
    let old = scene.authority.issue_between(&[uri(AGENT)], now - 2 * HOUR, now - HOUR);
    scene.write_agent(&old);
    let mut client = StdioClient::start(scene.proxy(&["dev"], &["--broker-name", BROKER]));
    let refused = client.request("initialize", INITIALIZE).await;
    let expected =
        ["--broker-cert", scene.path("agent.cert").to_str().unwrap().to_owned().leak(), "expired"];
    assert_names(failure(&refused), &expected);
    scene.write_agent(&scene.authority.workload(AGENT));
    client.initialize().await;
    text(&client.call("whoami", "{}").await);
}

#[tokio::test]
async fn errors_name_the_wrong_option() {
    let scene = Scene::new(&rule("spiffe_id", AGENT)).await;
    let agent = scene.authority.workload(AGENT);
    let first = async |more: &[&str]| {
        let mut client = StdioClient::start(scene.proxy(&["dev"], more));
        let answer = client.request("initialize", INITIALIZE).await;
        let (_, _, errors) = client.close().await;
        scene.assert_no_secret(&errors);
        assert_no_canary("the log", &errors);
        scene.assert_no_secret(&answer.to_string());
        answer
    };
    scene.write_agent(&agent);
    for name in [BROKER, "broker.test", "127.0.0.1"] {
        assert!(first(&["--broker-name", name]).await["result"].is_object(), "{name}");
    }
    assert!(first(&[]).await["result"].is_object(), "the host's own name");
    for name in ["spiffe://test.example/other", "other.test"] {
        let refused = first(&["--broker-name", name]).await;
        assert_names(failure(&refused), &["--broker-name", name]);
    }
    let other = Workloads::new();
    let spoil = [
        ("agent.ca", other.pem(), "--broker-ca"),
        ("agent.ca", "nothing".to_owned(), "--broker-ca"),
        ("agent.key", other.workload(AGENT).key, "--broker-key"),
        ("agent.key", agent.key[..100].to_owned(), "--broker-key"),
        ("agent.cert", agent.key.clone(), "--broker-cert"),
    ];
    for (name, text, option) in spoil {
        scene.write(name, &text);
        let refused = first(&[]).await;
        assert_names(failure(&refused), &[option, scene.path(name).to_str().unwrap()]);
        scene.write_agent(&agent);
    }
    std::fs::remove_file(scene.path("agent.cert")).unwrap();
    assert_names(failure(&first(&[]).await), &["--broker-cert", "No such file"]);
    // The broker doesn't trust the issuer.
    scene.write_agent(&other.workload(AGENT));
    assert_names(failure(&first(&[]).await), &["--broker-cert", "client_ca"]);
}
