//! How a broker treats signatures that wait, for callers that use its API directly.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use sigward_proto::v1::broker_client::BrokerClient;
use sigward_proto::v1::{ReportExchangeRequest, SignResponse};
use sigward_tests::deadline;
use sigward_tests::processes::Process;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::metrics::get;
use crate::setup::{World, assert_names, connect, own_uid, ping};

/// A configuration whose endpoint has this `pace`.
pub(crate) fn configuration(world: &World, pace: &str) -> String {
    let rule = format!(
        "[metrics]\nlisten = \"127.0.0.1:0\"\n[[rule]]\nname = \"agents\"\npeer = {{ uid = {} }}\nprofiles = [\"dev\", \"staging\"]\n",
        own_uid()
    );
    let region = format!("region = \"{}\"\n", sigward_tests::upstream::REGION);
    world.configuration(&rule).replacen(&region, &format!("{region}{pace}\n"), 1)
}

pub(super) async fn broker(world: &World, pace: &str) -> (Process, BrokerClient<Channel>) {
    let broker = world.broker(&configuration(world, pace)).await;
    (broker, connect(&world.socket()).await)
}

pub(super) async fn sign(
    world: &World,
    client: &BrokerClient<Channel>,
) -> Result<SignResponse, Status> {
    let signed = client.clone().sign(ping(world, "dev")).await;
    signed.map(tonic::Response::into_inner)
}

pub(super) fn reason(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info().expect("a reason");
    (status.code(), info.reason)
}

pub(crate) fn report(world: &World, profile: &str, audit_id: &str) -> ReportExchangeRequest {
    ReportExchangeRequest {
        profile: profile.to_owned(),
        uri: world.upstream.url(),
        audit_id: audit_id.to_owned(),
        throttled: false,
        ended: false,
    }
}

async fn waiting(address: &str) -> String {
    let metrics = get(address, "/metrics").await;
    let line = metrics.lines().find(|line| line.starts_with("sigward_endpoint_waiting{"));
    line.unwrap_or_default().to_owned()
}

pub(crate) async fn metrics_address(broker: &Process) -> String {
    let line = broker.logged("serving metrics").await;
    line.split("address=").nth(1).expect("an address").trim().to_owned()
}

/// Waits until `count` signatures wait for their turn.
pub(crate) async fn until_waiting(address: &str, count: usize) {
    let all = async {
        while !waiting(address).await.ends_with(&format!(" {count}")) {
            tokio::task::yield_now().await;
        }
    };
    deadline::within(all, || format!("there are never {count} waiting signatures")).await;
}

#[tokio::test]
async fn a_signature_waits_for_its_turn_and_is_then_refused() {
    let world = World::new().await;
    let pace = "pace = { per_second = 0.05, burst = 2, wait = \"1s\" }";
    let (broker, client) = broker(&world, pace).await;
    for _ in 0..2 {
        let signed = sign(&world, &client).await.expect("the burst");
        assert_eq!(signed.pacing.map(|pacing| pacing.report_end), Some(false));
    }
    let begun = Instant::now();
    let refused = sign(&world, &client).await.expect_err("no turn");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(reason(&refused), (Code::ResourceExhausted, "RATE_LIMITED".to_owned()));
    let retry = refused.get_details_retry_info().and_then(|it| it.retry_delay).expect("a delay");
    assert!(retry > Duration::from_secs(10) && retry <= Duration::from_secs(20), "{retry:?}");
    let address = metrics_address(&broker).await;
    let metrics = get(&address, "/metrics").await;
    assert_names(
        &metrics,
        &[
            "sigward_endpoint_paced{endpoint=\"upstream\"} 1",
            "sigward_endpoint_signatures_per_second{endpoint=\"upstream\"} 0.05",
            "sigward_endpoint_waits_total{endpoint=\"upstream\"} 1",
            "sigward_endpoint_throttled_total{endpoint=\"upstream\"} 0",
        ],
    );
    // Each account has its own quota.
    client.clone().sign(ping(&world, "staging")).await.expect("another account");
    let mut status = world.broker_command(&[
        "status",
        "--broker",
        &format!("unix:{}", world.socket().display()),
    ]);
    let status = status.output().await.expect("it runs");
    let shown = String::from_utf8(status.stdout).expect("text");
    assert_names(&shown, &["Endpoint upstream is paced: 0.1 signatures a second, 0 waiting."]);
}

#[tokio::test]
async fn places_become_free_with_reports_and_when_a_connection_ends() {
    let world = World::new().await;
    let (broker, client) = broker(&world, "pace = { in_flight = 2, wait = \"2m\" }").await;
    let address = metrics_address(&broker).await;
    let first = sign(&world, &client).await.expect("a place");
    assert_eq!(first.pacing.map(|pacing| pacing.report_end), Some(true));
    let dying = connect(&world.socket()).await;
    sign(&world, &dying).await.expect("a place");
    let third = tokio::spawn({
        let (request, mut client) = (ping(&world, "dev"), client.clone());
        async move { client.sign(request).await }
    });
    until_waiting(&address, 1).await;
    // The attack: freeing places of signatures that another caller was given, or that never existed.
    let mut ended = report(&world, "dev", "no such record");
    ended.ended = true;
    client.clone().report_exchange(ended).await.expect("it is accepted, and changes nothing");
    assert!(waiting(&address).await.ends_with(" 1"));
    let ended = ReportExchangeRequest { ended: true, ..report(&world, "dev", &first.audit_id) };
    client.clone().report_exchange(ended).await.expect("it is accepted");
    third.await.expect("a task").expect("the place that was reported");
    let fourth = tokio::spawn({
        let (request, mut client) = (ping(&world, "dev"), client.clone());
        async move { client.sign(request).await }
    });
    until_waiting(&address, 1).await;
    drop(dying);
    fourth.await.expect("a task").expect("the place of the connection that ended");
    // A caller that goes away loses its turn.
    let gone = tokio::spawn({
        let (request, mut client) = (ping(&world, "dev"), client.clone());
        async move { client.sign(request).await }
    });
    until_waiting(&address, 1).await;
    gone.abort();
    until_waiting(&address, 0).await;
}

#[tokio::test]
async fn sigterm_ends_the_wait() {
    let world = World::new().await;
    let (mut broker, client) = broker(&world, "pace = { in_flight = 1, wait = \"2m\" }").await;
    let address = metrics_address(&broker).await;
    sign(&world, &client).await.expect("a place");
    let waits = tokio::spawn({
        let (request, mut client) = (ping(&world, "dev"), client.clone());
        async move { client.sign(request).await }
    });
    until_waiting(&address, 1).await;
    broker.signal(Signal::TERM);
    let refused = waits.await.expect("a task").expect_err("the broker ends");
    assert_eq!(reason(&refused), (Code::Unavailable, "BROKER_ENDING".to_owned()));
    assert!(broker.ended().await.0.success());
}

/// The attacks: throttling reported for an account that the caller may have nothing signed for, and for signatures that
/// it wasn't given.
#[tokio::test]
async fn a_false_report_slows_down_only_its_own_account_and_never_to_a_stop() {
    let world = World::new().await;
    let (broker, client) = broker(&world, "").await;
    let address = metrics_address(&broker).await;
    let throttled = |profile: &str, id: &str| ReportExchangeRequest {
        throttled: true,
        ..report(&world, profile, id)
    };
    let refused = client.clone().report_exchange(throttled("prod", "x")).await;
    let refused = refused.expect_err("no rule allows it");
    assert_eq!(reason(&refused), (Code::PermissionDenied, "PROFILE_NOT_ALLOWED".to_owned()));
    let elsewhere = ReportExchangeRequest {
        uri: "https://example.org/mcp".to_owned(),
        ..throttled("dev", "x")
    };
    let refused = client.clone().report_exchange(elsewhere).await.expect_err("no endpoint");
    assert_eq!(reason(&refused), (Code::PermissionDenied, "ENDPOINT_NOT_ALLOWED".to_owned()));
    assert_names(
        &get(&address, "/metrics").await,
        &["sigward_endpoint_paced{endpoint=\"upstream\"} 0"],
    );
    let signed = sign(&world, &client).await.expect("a signature");
    assert_eq!(signed.pacing, None, "nothing is paced");
    client.clone().report_exchange(throttled("dev", &signed.audit_id)).await.expect("it counts");
    // False reports about signatures that it wasn't given: the next signature isn't delayed.
    for number in 0..20 {
        let lie = throttled("dev", &format!("lie {number}"));
        client.clone().report_exchange(lie).await.expect("it is accepted");
    }
    assert_names(
        &get(&address, "/metrics").await,
        &["sigward_endpoint_throttled_total{endpoint=\"upstream\"} 1"],
    );
    // False reports about each signature that it is given.
    for _ in 0..3 {
        let signed = sign(&world, &client).await.expect("a signature");
        assert!(signed.pacing.is_some());
        let lie = throttled("dev", &signed.audit_id);
        client.clone().report_exchange(lie).await.expect("it is accepted");
    }
    // Another account isn't slowed down.
    let other = client.clone().sign(ping(&world, "staging")).await.expect("a signature");
    assert_eq!(other.into_inner().pacing, None);
    // Nor is this account stopped: one signature in two seconds is always given.
    sign(&world, &client).await.expect("a signature");
    assert_names(&broker.errors(), &["the server throttles"]);
}
