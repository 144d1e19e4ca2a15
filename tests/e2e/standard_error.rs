//! Standard error that isn't read: by a supervisor that stalls, or by an MCP client that ignores its child's errors.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use sigward_proto::v1::broker_client::BrokerClient;
use sigward_proto::v1::sign_request::Payload;
use sigward_proto::v1::{Header, ListProfilesRequest, SignRequest};
use sigward_tests::deadline;
use sigward_tests::processes::{self, Process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr};
use tonic::Status;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use crate::metrics::get;
use crate::setup::{World, connect, own_uid};

/// The promise of the contract, doubled for a busy machine; a drain that hangs would take 10 s.
const END: Duration = Duration::from_secs(4);

/// More than a pipe holds, in lines of the log or in records; fewer than a user may have in progress.
const MANY: usize = 450;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A broker whose standard error is read as far as "listening", and no further.
async fn unread(world: &World, more: &str) -> (Child, BufReader<ChildStderr>) {
    let rule = format!(
        "[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"dev\"]\nendpoints = [\"upstream\"]\n{more}",
        own_uid()
    );
    let config = world.write("broker.toml", &world.configuration(&rule));
    let mut command = world.broker_command(&["serve", "--config", config.to_str().unwrap()]);
    command.stderr(Stdio::piped()).kill_on_drop(true);
    let mut broker = command.spawn().unwrap();
    let mut errors = BufReader::with_capacity(512, broker.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        let reading = errors.read_line(&mut line);
        let read = deadline::within(reading, || "the broker never listened".to_owned()).await;
        assert_ne!(read.unwrap(), 0, "the broker has ended");
    }
    (broker, errors)
}

fn request(world: &World, profile: &str) -> SignRequest {
    let (name, value) = ("content-type".to_owned(), "application/json".into());
    SignRequest {
        profile: profile.to_owned(),
        method: "POST".to_owned(),
        uri: world.upstream.url(),
        headers: vec![Header { name, value }],
        payload: Some(Payload::Body(b"{}".as_slice().into())),
    }
}

async fn sign(mut client: BrokerClient<Channel>, request: SignRequest) -> Result<(), String> {
    let reason = |status: Status| status.get_error_details().error_info().unwrap().reason.clone();
    client.sign(request).await.map(drop).map_err(reason)
}

async fn ends_in_time(broker: &mut Child) {
    let signalled = Instant::now();
    processes::signal(broker.id().unwrap(), Signal::TERM);
    let ended = deadline::within(broker.wait(), || "the broker doesn't end".to_owned()).await;
    assert!(ended.unwrap().success());
    assert!(signalled.elapsed() < END, "it took {:?}", signalled.elapsed());
}

#[tokio::test]
async fn an_unread_log_blocks_nothing() {
    let world = World::new().await;
    let audit = format!("[audit]\nfile = {:?}", world.directory.path().join("audit.jsonl"));
    let (mut broker, errors) = unread(&world, &audit).await;
    let client = connect(&world.socket()).await;
    for _ in 0..4 {
        // Each denial is a line of the log.
        let denied = (0..MANY).map(|_| sign(client.clone(), request(&world, "prod")));
        let denied = futures_util::future::join_all(denied);
        let denied = deadline::within(denied, || "calls aren't answered".to_owned()).await;
        assert!(denied.iter().all(Result::is_err));
    }
    let signed = sign(client.clone(), request(&world, "dev"));
    deadline::within(signed, || "nothing is signed".to_owned()).await.expect("a signature");
    ends_in_time(&mut broker).await;
    drop(errors);
}

/// With the audit records there too: nothing is signed without a record, and all else is served.
#[tokio::test]
async fn unread_audit_records_block_only_signatures() {
    let world = World::new().await;
    let (mut broker, mut errors) = unread(&world, "[metrics]\nlisten = \"127.0.0.1:0\"").await;
    let mut line = String::new();
    deadline::within(errors.read_line(&mut line), || "no address".to_owned()).await.unwrap();
    let address = line.split("address=").nth(1).expect("an address").trim().to_owned();
    let answered = Arc::new(AtomicUsize::new(0));
    let mut calls = Vec::new();
    for _ in 0..3 {
        // Fewer than one connection may have in progress.
        let client = connect(&world.socket()).await;
        calls.extend((0..MANY / 3).map(|_| {
            // A slow start doesn't limit streams, so that these calls wait only for their records.
            let stream = SignRequest {
                method: "GET".to_owned(),
                headers: Vec::new(),
                payload: None,
                ..request(&world, "dev")
            };
            let (signing, answered) = (sign(client.clone(), stream), Arc::clone(&answered));
            tokio::spawn(async move {
                let outcome = signing.await;
                answered.fetch_add(1, Ordering::SeqCst);
                outcome
            })
        }));
    }
    // All calls have arrived, more than the pipe has room for, so that some stay in progress.
    let all_came = async {
        loop {
            let metrics = get(&address, "/metrics").await;
            let calls = metrics.lines().find_map(|line| line.strip_prefix("sigward_calls "));
            let waiting: usize = calls.expect("a gauge").parse().unwrap();
            if waiting + answered.load(Ordering::SeqCst) == MANY {
                return waiting;
            }
        }
    };
    deadline::within(all_came, || "not all calls come".to_owned()).await;
    let mut other = connect(&world.socket()).await;
    let list = other.list_profiles(ListProfilesRequest {});
    let list = deadline::within(list, || "the list isn't answered".to_owned()).await.unwrap();
    assert_eq!(list.into_inner().profiles.len(), 1);
    ends_in_time(&mut broker).await;
    let mut unrecorded = 0;
    for call in calls {
        if let Err(reason) = call.await.unwrap() {
            assert_eq!(reason, "AUDIT_UNAVAILABLE");
            unrecorded += 1;
        }
    }
    assert!(unrecorded > 0, "the pipe had room for all");
    drop(errors);
}

#[tokio::test]
async fn json_log_lines_identify_their_call() {
    let world = World::new().await;
    let rule = format!(
        "[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"dev\"]\nendpoints = [\"upstream\"]\n[audit]\nfile = {:?}",
        own_uid(),
        world.directory.path().join("audit.jsonl")
    );
    let config = world.write("broker.toml", &world.configuration(&rule));
    let arguments = ["serve", "--log-format", "json", "--config", config.to_str().unwrap()];
    let mut broker = Process::start(world.broker_command(&arguments));
    broker.logged("\"message\":\"listening\"").await;
    let client = connect(&world.socket()).await;
    assert!(sign(client.clone(), request(&world, "prod")).await.is_err());
    let trace = Header { name: "traceparent".to_owned(), value: TRACE.into() };
    let mut unread = request(&world, "dev");
    unread.payload = None;
    unread.headers.push(trace);
    assert_eq!(sign(client, unread).await.unwrap_err(), "BODY_REQUIRED");
    broker.logged("BODY_REQUIRED").await;
    broker.signal(Signal::TERM);
    let (_, errors) = broker.ended().await;
    let lines: Vec<Value> =
        errors.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let denied = lines.iter().find(|line| line["message"] == "denied").unwrap();
    let peer = format!("uid:{}", own_uid());
    assert_eq!((&denied["level"], &denied["peer"]), (&"INFO".into(), &peer.into()));
    let last = lines.iter().rfind(|line| line["message"] == "denied").unwrap();
    let (first, call) = (&denied["sign"], &last["sign"]);
    assert!(first["id"].is_string() && first["profile"].is_null(), "{errors}");
    assert_eq!((&call["profile"], &call["endpoint"]), (&"dev".into(), &"upstream".into()));
    assert_eq!(call["traceparent"], TRACE, "{errors}");
    assert_eq!(lines.last().unwrap()["message"], "stopped", "the last line is missing: {errors}");
}
