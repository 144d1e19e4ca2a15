//! A broker over TLS: which certificate gets which access, and how a proxy uses it. The attacks run against the real
//! binary, each beside a caller that has access.

mod attacks;
mod handshakes;
mod login;
mod pace;
mod proxy;
mod reload;
pub(crate) mod scene;

use sigward_proto::v1::ListProfilesRequest;
use sigward_tests::workloads::{dns, uri};
use tonic::Code;

use self::scene::{AGENT, Scene, reason, rule};
use crate::metrics::get;
use crate::setup::{assert_names, connect, failure, own_uid, ping, text};

#[tokio::test]
async fn a_workload_is_identified_by_its_id_in_metrics_log_and_audit() {
    let metrics = "[metrics]\nlisten = \"127.0.0.1:0\"\n";
    let scene = Scene::new(&format!(
        "{metrics}{}",
        rule("spiffe_id", "spiffe://test.example/ns/*/sa/agent")
    ))
    .await;
    let line = scene.broker.logged("serving metrics").await;
    let metrics = line.split("address=").nth(1).unwrap().trim().to_owned();
    let agent = scene.authority.workload(AGENT);
    let mut client = scene.agent(&agent, &["dev", "prod"]).await;
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), scene.world.home.identity("dev"));
    let refused = client.call("whoami", r#"{"aws_profile":"prod"}"#).await;
    assert_names(failure(&refused), &["prod", "rule"]);
    let counted = get(&metrics, "/metrics").await;
    let series = format!("sigward_peer_connections{{peer=\"{AGENT}\"}} 1");
    assert_names(&counted, &[&series, "sigward_tls_handshakes_total{outcome=\"done\"}"]);
    assert_names(
        &counted,
        &["\nsigward_tls_files_rejected 0\n", "sigward_tls_certificate_expiry_timestamp_seconds "],
    );

    // Its neighbour has a valid certificate too, but no rule.
    let other = scene.authority.workload("spiffe://test.example/ns/x/sa/other");
    let refused = scene.initialize(&other, &["dev"]).await;
    assert_names(failure(&refused), &["[[rule]]", "spiffe_id"]);
    let log = format!("peer={}", "spiffe://test.example/ns/x/sa/other");
    scene.broker.logged(&log).await;
    let records = scene.audit();
    let of = |id: &str| records.iter().filter(|it| it["spiffe_id"] == id).collect::<Vec<_>>();
    assert!(
        of(AGENT).iter().any(|it| it["decision"] == "allow" && it["profile"] == "dev"),
        "{records:?}"
    );
    assert!(
        of("spiffe://test.example/ns/x/sa/other")
            .iter()
            .all(|it| it["reason"] == "PEER_NOT_ALLOWED")
    );
    assert!(records.iter().all(|it| it["spiffe_id"].is_null() || it["uid"].is_null()));
}

#[tokio::test]
async fn a_machine_is_identified_by_its_dns_name() {
    let scene = Scene::new(&rule("dns", "agent.test.example")).await;
    let machine = scene.authority.issue(&[dns("other.test.example"), dns("Agent.test.example")]);
    let mut client = scene.client(&machine).await.unwrap();
    client.sign(ping(&scene.world, "dev")).await.unwrap();
    // Another name; a wildcard that covers it; and a workload that has that name in addition to its id.
    for names in [
        vec![dns("agent2.test.example")],
        vec![dns("x.agent.test.example"), dns("*.test.example")],
        vec![uri(AGENT), dns("agent.test.example")],
    ] {
        let mut client = scene.client(&scene.authority.issue(&names)).await.unwrap();
        let refused = client.sign(ping(&scene.world, "dev")).await.unwrap_err();
        assert_eq!(reason(&refused), "PEER_NOT_ALLOWED", "{names:?}");
    }
    let records = scene.audit();
    let names = serde_json::json!(["agent.test.example", "other.test.example"]);
    assert!(
        records.iter().any(|it| it["dns"] == names && it["decision"] == "allow"),
        "{records:?}"
    );
}

/// A peer that is permitted over TLS isn't over the socket, and vice versa.
#[tokio::test]
async fn a_rule_applies_to_one_kind_of_peer() {
    let of_user = format!("[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"dev\"]\n", own_uid());
    for (rules, over_unix, over_tls) in [
        (rule("spiffe_id", AGENT), false, true),
        (of_user, true, false),
        // Without any rule: the broker's own user, who has no certificate.
        (String::new(), true, false),
    ] {
        let scene = Scene::new(&rules).await;
        let mut by_certificate = scene.client(&scene.authority.workload(AGENT)).await.unwrap();
        let mut by_socket = connect(&scene.world.socket()).await;
        for (client, allowed) in [(&mut by_certificate, over_tls), (&mut by_socket, over_unix)] {
            match client.sign(ping(&scene.world, "dev")).await {
                Ok(_) => assert!(allowed, "{rules}"),
                Err(refused) => {
                    assert!(!allowed, "{rules}: {refused}");
                    assert_eq!(
                        (refused.code(), reason(&refused).as_str()),
                        (Code::PermissionDenied, "PEER_NOT_ALLOWED")
                    );
                }
            }
        }
    }
}

/// A peer with a certificate but without a rule gets an error even for the list of profiles, and is disconnected.
#[tokio::test]
async fn a_peer_without_a_rule_is_disconnected_soon() {
    let scene = Scene::new(&rule("spiffe_id", AGENT)).await;
    let stranger = scene.authority.workload("spiffe://test.example/stranger");
    let mut client = scene.client(&stranger).await.unwrap();
    let refused = client.list_profiles(ListProfilesRequest {}).await.unwrap_err();
    assert_eq!(reason(&refused), "PEER_NOT_ALLOWED");
    let closed = async {
        while client.list_profiles(ListProfilesRequest {}).await.unwrap_err().code()
            == Code::PermissionDenied
        {}
    };
    sigward_tests::deadline::within(closed, || "the peer stays connected".to_owned()).await;
    // Only a few such peers may be connected, and they don't keep out a peer with a rule.
    let mut strangers = Vec::new();
    for _ in 0..40 {
        strangers.push(scene.client(&stranger).await);
    }
    let mut agent = scene.client(&scene.authority.workload(AGENT)).await.unwrap();
    agent.sign(ping(&scene.world, "dev")).await.unwrap();
}

#[tokio::test]
async fn explain_and_check_support_certificates() {
    let scene = Scene::new(&rule("spiffe_id", "spiffe://test.example/ns/*/sa/agent")).await;
    let config = scene.world.directory.path().join("broker.toml");
    let run = async |arguments: &[&str]| {
        let mut command = scene.world.broker_command(&[]);
        let output = command.args(arguments).arg("--config").arg(&config).output().await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    let (good, shown) = run(&["explain", "--spiffe-id", AGENT, "--profile", "dev"]).await;
    assert!(good, "{shown}");
    assert_names(&shown, &["Permitted by \"agents\""]);
    for caller in [
        ["--spiffe-id", "spiffe://test.example/x"],
        ["--dns", "agent.test.example"],
        ["--uid", "0"],
    ] {
        let (good, shown) = run(&[&["explain", "--profile", "dev"][..], &caller].concat()).await;
        assert!(!good, "{shown}");
        assert_names(&shown, &["PEER_NOT_ALLOWED"]);
    }
    let (good, shown) = run(&["explain", "--profile", "dev", "--uid", "0", "--dns", "a"]).await;
    assert!(!good && shown.contains("--dns"), "{shown}");
    let (good, shown) = run(&["explain", "--profile", "dev", "--spiffe-id", "spiffe://x"]).await;
    assert!(!good && shown.contains("no path"), "{shown}");
    scene.write("key", &scene.authority.broker().key);
    let (good, shown) = run(&["check"]).await;
    assert!(!good, "{shown}");
    assert_names(
        &shown,
        &["listen.tls.key", scene.path("key").to_str().unwrap(), "listen.tls.cert"],
    );
}
