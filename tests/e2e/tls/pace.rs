//! Callers over TLS that share a quota: they take turns by certificate, not by connection.

use sigward_proto::v1::ReportExchangeRequest;
use sigward_tests::deadline;
use tokio::task::JoinSet;

use super::scene::{AGENT, Scene, reason, rule};
use crate::metrics::get;
use crate::pace::broker::{metrics_address, report, until_waiting};
use crate::setup::{assert_names, connect, ping, text};

const OTHER: &str = "spiffe://test.example/ns/other/sa/agent";
const METRICS: &str = "[metrics]\nlisten = \"127.0.0.1:0\"\n";

fn of_all_agents() -> String {
    format!("{METRICS}{}", rule("spiffe_id", "spiffe://test.example/ns/*/sa/agent"))
}

/// The attack: one workload asks for many signatures over many connections, and another waits behind all of them.
#[tokio::test]
async fn turns_alternate_between_certificates() {
    let scene = Scene::paced("pace = { in_flight = 1, wait = \"2m\" }", &of_all_agents()).await;
    let metrics = metrics_address(&scene.broker).await;
    let (agent, other) = (scene.authority.workload(AGENT), scene.authority.workload(OTHER));
    let mut holder = scene.client(&agent).await.unwrap();
    let place = holder.sign(ping(&scene.world, "dev")).await.unwrap().into_inner();
    assert_eq!(place.pacing.map(|pacing| pacing.report_end), Some(true));
    let mut clients = Vec::new();
    let mut waiting = JoinSet::new();
    for number in 1..=5 {
        // The last request comes from the other workload.
        let (name, issued) = if number == 5 { (OTHER, &other) } else { (AGENT, &agent) };
        let client = scene.client(issued).await.unwrap();
        let (mut asking, request) = (client.clone(), ping(&scene.world, "dev"));
        clients.push(client);
        waiting.spawn(async move { (name, asking.sign(request).await) });
        until_waiting(&metrics, number).await;
    }
    // The attack: reporting the end of another caller's place.
    let ended = |audit_id: &str| ReportExchangeRequest {
        ended: true,
        ..report(&scene.world, "dev", audit_id)
    };
    clients[4].report_exchange(ended(&place.audit_id)).await.expect("it is accepted");
    until_waiting(&metrics, 5).await;
    let mut order = Vec::new();
    let mut last = (AGENT, place.audit_id);
    for left in (0..5).rev() {
        let client = if last.0 == OTHER { &mut clients[4] } else { &mut holder };
        client.report_exchange(ended(&last.1)).await.expect("it is accepted");
        let next = deadline::within(waiting.join_next(), || "a caller hangs".to_owned()).await;
        let (name, signed) = next.expect("one is left").expect("a task");
        until_waiting(&metrics, left).await;
        last = (name, signed.expect("its turn").into_inner().audit_id);
        order.push(name);
    }
    assert_eq!(order, [AGENT, OTHER, AGENT, AGENT, AGENT]);
}

#[tokio::test]
async fn a_closed_tls_connection_frees_its_place_and_a_removed_rule_its_queue() {
    let scene = Scene::paced("pace = { in_flight = 1, wait = \"2m\" }", &of_all_agents()).await;
    let metrics = metrics_address(&scene.broker).await;
    let (agent, other) = (scene.authority.workload(AGENT), scene.authority.workload(OTHER));
    let mut holder = scene.client(&other).await.unwrap();
    holder.sign(ping(&scene.world, "dev")).await.unwrap();
    let mut proxy = None;
    let mut refused = scene.client(&other).await.unwrap();
    let waits = tokio::spawn({
        let request = ping(&scene.world, "dev");
        async move { refused.sign(request).await }
    });
    until_waiting(&metrics, 1).await;
    let starting = async { proxy = Some(scene.agent(&agent, &["dev"]).await) };
    let reloading = async {
        // The proxy's first request waits behind the other one.
        until_waiting(&metrics, 2).await;
        let text = scene.config.replace("ns/*/sa/agent", "ns/dev/sa/agent");
        scene.world.write("broker.toml", &text);
        let status = waits.await.expect("a task").expect_err("its rule is gone");
        assert_eq!(reason(&status), "PEER_NOT_ALLOWED");
        until_waiting(&metrics, 1).await;
        drop(holder);
    };
    tokio::join!(starting, reloading);
    let mut proxy = proxy.expect("it was started");
    text(&proxy.call("whoami", "{}").await);
    let counted = get(&metrics, "/metrics").await;
    assert_names(&counted, &["sigward_endpoint_waiting{endpoint=\"upstream\"} 0"]);
    // Only callers with certificates have a rule.
    let local = connect(&scene.world.socket()).await.sign(ping(&scene.world, "dev")).await;
    assert_eq!(reason(&local.expect_err("no rule names its user")), "PEER_NOT_ALLOWED");
}
