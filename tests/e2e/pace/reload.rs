//! A configuration that is reloaded while callers wait for their turn: they keep their place in the queue, get their
//! signature at once, or are refused at once. None hangs.

use rustix::process::Signal;
use sigward_proto::v1::broker_client::BrokerClient;
use sigward_proto::v1::{ReportExchangeRequest, SignResponse};
use sigward_tests::deadline;
use sigward_tests::processes::Process;
use sigward_tests::upstream::REGION;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::broker::{metrics_address, reason, report, sign, until_waiting};
use crate::metrics::get;
use crate::setup::{World, assert_names, connect, own_uid, ping};

const ONE_AT_A_TIME: &str = "pace = { in_flight = 1, wait = \"2m\" }";

/// The endpoint with this `pace`; two profiles with the keys of one account, of which a rule allows `allowed`.
fn configuration(world: &World, pace: &str, allowed: &[&str]) -> String {
    let more = format!(
        "[metrics]\nlisten = \"127.0.0.1:0\"\n\
         [[profile]]\nname = \"again\"\naws_profile = \"dev\"\nendpoints = [\"upstream\"]\n\
         [[rule]]\nname = \"agents\"\npeer = {{ uid = {} }}\nprofiles = {allowed:?}\nendpoints = [\"upstream\"]\n",
        own_uid()
    );
    let region = format!("region = \"{REGION}\"\n");
    world.configuration(&more).replacen(&region, &format!("{region}{pace}\n"), 1)
}

/// A broker whose only place is taken, and waiting callers.
struct Queue {
    world: World,
    broker: Process,
    client: BrokerClient<Channel>,
    metrics: String,
    holder: SignResponse,
    waiting: Vec<Waiting>,
}

/// A waiting caller, with a connection of its own.
struct Waiting {
    client: BrokerClient<Channel>,
    signed: JoinHandle<Result<SignResponse, Status>>,
}

impl Waiting {
    async fn over(self) -> Result<SignResponse, Status> {
        let over = deadline::within(self.signed, || "a caller hangs".to_owned()).await;
        over.expect("a task")
    }
}

impl Queue {
    /// Callers with these profiles, in this order.
    async fn of(pace: &str, profiles: &[&str]) -> Self {
        let world = World::new().await;
        let broker = world.broker(&configuration(&world, pace, &["dev", "again"])).await;
        let client = connect(&world.socket()).await;
        let metrics = metrics_address(&broker).await;
        // From here on the broker knows that both profiles have one account.
        let holder = sign(&world, &client).await.expect("a place");
        let mut queue = Self { world, broker, client, metrics, holder, waiting: Vec::new() };
        for (number, profile) in profiles.iter().enumerate() {
            let client = connect(&queue.world.socket()).await;
            let (request, mut asking) = (ping(&queue.world, profile), client.clone());
            let signed =
                tokio::spawn(async move { asking.sign(request).await.map(|it| it.into_inner()) });
            queue.waiting.push(Waiting { client, signed });
            until_waiting(&queue.metrics, number + 1).await;
        }
        queue
    }

    async fn reload(&self, text: &str) {
        self.world.write("broker.toml", text);
        self.broker.signal(Signal::HUP);
        self.broker.logged("the configuration was reloaded").await;
    }

    async fn ends(&self, audit_id: &str) {
        let ended = ReportExchangeRequest { ended: true, ..report(&self.world, "dev", audit_id) };
        self.client.clone().report_exchange(ended).await.expect("it is accepted");
    }
}

#[tokio::test]
async fn waiting_callers_keep_their_order() {
    let mut queue = Queue::of(ONE_AT_A_TIME, &["dev", "dev", "dev"]).await;
    let two =
        configuration(&queue.world, "pace = { in_flight = 2, wait = \"2m\" }", &["dev", "again"]);
    queue.reload(&two).await;
    let first = queue.waiting.remove(0);
    let keeps = first.client.clone();
    let first = first.over().await.expect("the second place");
    until_waiting(&queue.metrics, 2).await;
    queue.ends(&queue.holder.audit_id).await;
    let second = queue.waiting.remove(0);
    let keeps = (keeps, second.client.clone());
    second.over().await.expect("the place that was reported");
    until_waiting(&queue.metrics, 1).await;
    queue.ends(&first.audit_id).await;
    queue.waiting.remove(0).over().await.expect("the next place");
    drop(keeps);
}

#[tokio::test]
async fn removing_a_pace_releases_all_waiting_callers_at_once() {
    let pace = "pace = { per_second = 0.01, burst = 1, in_flight = 1, wait = \"5m\" }";
    let queue = Queue::of(pace, &["dev", "again", "dev"]).await;
    queue.reload(&configuration(&queue.world, "", &["dev", "again"])).await;
    for waiting in queue.waiting {
        waiting.over().await.expect("there is no pace");
    }
    let signed = sign(&queue.world, &queue.client).await.expect("a signature");
    assert_eq!(signed.pacing, None);
    assert_names(
        &get(&queue.metrics, "/metrics").await,
        &[
            "sigward_endpoint_paced{endpoint=\"upstream\"} 0",
            "sigward_endpoint_waiting{endpoint=\"upstream\"} 0",
            "sigward_endpoint_in_flight{endpoint=\"upstream\"} 0",
        ],
    );
}

/// The attack: a rule is removed while signatures wait for their turn.
#[tokio::test]
async fn a_caller_without_its_rule_is_refused_at_once_and_others_keep_their_place() {
    let mut queue = Queue::of(ONE_AT_A_TIME, &["dev", "again", "dev"]).await;
    queue.reload(&configuration(&queue.world, ONE_AT_A_TIME, &["dev"])).await;
    let refused = queue.waiting.remove(1).over().await.expect_err("its rule is gone");
    assert_eq!(reason(&refused), (Code::PermissionDenied, "PROFILE_NOT_ALLOWED".to_owned()));
    // The reload neither took nor gave another caller's turn.
    until_waiting(&queue.metrics, 2).await;
    queue.ends(&queue.holder.audit_id).await;
    let first = queue.waiting.remove(0);
    let keeps = first.client.clone();
    first.over().await.expect("the place");
    until_waiting(&queue.metrics, 1).await;
    drop(keeps);
    queue.waiting.remove(0).over().await.expect("the place of a connection that ended");
}

/// The profile or the endpoint may be removed, or have changed.
#[tokio::test]
async fn a_caller_that_waits_for_a_removed_profile_or_endpoint_is_refused() {
    let change = |queue: &Queue, name: &str| {
        let text = configuration(&queue.world, ONE_AT_A_TIME, &["dev"]);
        match name {
            // Another region: the signature would differ from the requested one.
            "the endpoint" => text.replace(REGION, "eu-central-1"),
            _ => text.replace("[[profile]]\nname = \"again\"", "[[profile]]\nname = \"other\""),
        }
    };
    for (what, expected) in
        [("the profile", "PROFILE_NOT_ALLOWED"), ("the endpoint", "ENDPOINT_NOT_ALLOWED")]
    {
        let profile = if what == "the profile" { "again" } else { "dev" };
        let mut queue = Queue::of(ONE_AT_A_TIME, &[profile]).await;
        queue.reload(&change(&queue, what)).await;
        let refused = queue.waiting.remove(0).over().await.expect_err(what);
        assert_eq!(reason(&refused), (Code::PermissionDenied, expected.to_owned()), "{what}");
    }
}

#[tokio::test]
async fn a_rejected_file_changes_no_caller_s_turn() {
    let mut queue = Queue::of(ONE_AT_A_TIME, &["dev"]).await;
    queue.world.write("broker.toml", "[[rule]]\n");
    queue.broker.signal(Signal::HUP);
    queue.broker.logged("is rejected").await;
    until_waiting(&queue.metrics, 1).await;
    queue.ends(&queue.holder.audit_id).await;
    queue.waiting.remove(0).over().await.expect("the place");
}
