//! Commands and brokers whose peer has stopped or is gone: they end, and commands report it.

use std::process::Stdio;
use std::time::Instant;

use http_body_util::{BodyExt as _, Full};
use rustix::process::Signal;
use sigward_proto::v1::broker_client::BrokerClient;
use sigward_proto::v1::{ListProfilesRequest, SignRequest};
use sigward_tests::frames::Connection;
use sigward_tests::processes::{self, Process};
use sigward_tests::{broker, deadline};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;
use tower::{Service as _, ServiceExt as _};

use crate::metrics;
use crate::setup::{World, assert_names, connect, own_uid};

fn rule() -> String {
    let uid = own_uid();
    format!(
        "[[rule]]\npeer = {{ uid = {uid} }}\nprofiles = [\"dev\"]\nendpoints = [\"upstream\"]\nlogin = true\n"
    )
}

#[tokio::test]
async fn login_at_a_stopped_broker_reports_it() {
    let world = World::new().await;
    let broker = world.broker(&world.configuration(&rule())).await;
    broker.signal(Signal::STOP);
    let address = format!("unix:{}", world.socket().display());
    let mut login = Process::start(world.broker_command(&["login", "dev", "--broker", &address]));
    let (status, errors) = login.ended().await;
    broker.signal(Signal::CONT);
    assert!(!status.success());
    assert_names(&errors, &["the broker doesn't answer: is it stopped?"]);
}

/// `status --watch | head -1`: nothing changes, so that no write fails.
#[tokio::test]
async fn status_ends_when_its_reader_is_gone() {
    let world = World::new().await;
    let _broker = world.broker(&world.configuration(&rule())).await;
    let address = format!("unix:{}", world.socket().display());
    let mut command = world.broker_command(&["status", "--watch", "--broker", &address]);
    let mut status = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(status.stdout.take().unwrap()).lines();
    let first = deadline::within(lines.next_line(), || "no line".to_owned()).await.unwrap();
    assert_names(&first.unwrap(), &["PROFILE"]);
    drop(lines);
    let ended = deadline::within(status.wait(), || "status doesn't end".to_owned()).await;
    assert!(ended.unwrap().success());
}

/// A broker with metrics, and a call that doesn't end by itself, as its answer isn't read. A drain waits for such a
/// call longer than for anything else.
async fn busy_broker(world: &World) -> (Process, String, Connection) {
    let metrics = "[metrics]\nlisten = \"127.0.0.1:0\"\n";
    let broker = world.broker(&world.configuration(&format!("{metrics}{}", rule()))).await;
    let line = broker.logged("serving metrics").await;
    let address = line.split("address=").nth(1).unwrap().trim().to_owned();
    let mut caller = Connection::open_deaf(&world.socket()).unwrap();
    caller.accept_settings().unwrap();
    caller.request(LIST, &[], false).unwrap();
    caller.send(&[0; 5], true).unwrap();
    in_progress(&address, 1).await;
    (broker, address, caller)
}

const LIST: &str = "/sigward.broker.v1.Broker/ListProfiles";
const SIGN: &str = "/sigward.broker.v1.Broker/Sign";

/// Waits until the broker counts this number of calls.
async fn in_progress(address: &str, calls: usize) {
    let line = format!("\nsigward_calls {calls}\n");
    let begun = async { while !metrics::get(address, "/metrics").await.contains(&line) {} };
    deadline::within(begun, || "the calls don't begin".to_owned()).await;
}

/// Callers that send only a part of their message are refused when the broker ends, and don't delay the end.
#[tokio::test]
async fn an_incomplete_message_does_not_delay_the_drain() {
    let world = World::new().await;
    let metrics = "[metrics]\nlisten = \"127.0.0.1:0\"\n";
    let mut broker = world.broker(&world.configuration(&format!("{metrics}{}", rule()))).await;
    let line = broker.logged("serving metrics").await;
    let address = line.split("address=").nth(1).unwrap().trim().to_owned();
    let mut caller = Connection::open(&world.socket()).unwrap();
    caller.accept_settings().unwrap();
    // The first five bytes are the length of the message. The part of a signature request has a permitted profile.
    let parts: [(&str, &[u8]); 4] =
        [(SIGN, b""), (SIGN, b"\0\0\0\0\x40\x0a\x03dev"), (LIST, b""), (LIST, b"\0\0\0\0\x40\x0a")];
    for (path, part) in parts {
        caller.request(path, &[], false).unwrap();
        caller.send(part, false).unwrap();
    }
    in_progress(&address, parts.len()).await;
    let signalled = Instant::now();
    broker.signal(Signal::TERM);
    // Each call gets an answer or a reset.
    drop(caller.wait(|seen| seen.answered + seen.reset >= parts.len()).expect("an answer to each"));
    broker.ended().await;
    // The contract allows 2 s; a drain that waited would take 10.
    assert!(signalled.elapsed().as_secs() < 5, "it took {:?}", signalled.elapsed());
}

/// The first signal waits for a call in flight, the second doesn't.
#[tokio::test]
async fn a_second_signal_ends_a_draining_broker() {
    let world = World::new().await;
    let (mut broker, address, _caller) = busy_broker(&world).await;
    let health = metrics::get(&address, "/healthz").await;
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    broker.signal(Signal::TERM);
    broker.logged("draining").await;
    // Load balancers see that the broker is about to end.
    let draining =
        async { while !metrics::get(&address, "/healthz").await.starts_with("HTTP/1.1 503") {} };
    deadline::within(draining, || "the health check doesn't report the drain".to_owned()).await;
    let second = Instant::now();
    processes::signal(broker.pid(), Signal::TERM);
    broker.ended().await;
    // A drain would take 10 s.
    assert!(second.elapsed().as_secs() < 5, "it took {:?}", second.elapsed());
}

/// `grpc.health.v1`, over a connection from before and over a new one; and nothing is signed any more.
#[tokio::test]
async fn a_draining_broker_is_not_serving() {
    const SERVING: u8 = 1;
    const NOT_SERVING: u8 = 2;
    let world = World::new().await;
    let (mut broker, address, mut caller) = busy_broker(&world).await;
    let before = broker::channel(&world.socket()).await;
    for service in ["", "sigward.broker.v1.Broker"] {
        assert_eq!(health(&before, service).await, SERVING, "{service:?}");
    }
    broker.signal(Signal::TERM);
    let draining =
        async { while !metrics::get(&address, "/healthz").await.starts_with("HTTP/1.1 503") {} };
    deadline::within(draining, || "the health check doesn't report the drain".to_owned()).await;
    let meanwhile = broker::channel(&world.socket()).await;
    for channel in [&before, &meanwhile] {
        for service in ["", "sigward.broker.v1.Broker"] {
            assert_eq!(health(channel, service).await, NOT_SERVING, "{service:?}");
        }
        let request = ListProfilesRequest {};
        let refused = BrokerClient::new(channel.clone()).list_profiles(request).await;
        assert_eq!(refused.expect_err("the broker is about to end").code(), Code::Unavailable);
    }
    // It ends with the last call; this caller answers no PING of the GOAWAY (RFC 9113, 6.8), which must not delay that.
    caller.allow(1 << 16).unwrap();
    let last = Instant::now();
    broker.ended().await;
    assert!(last.elapsed().as_secs() < 5, "it took {:?}", last.elapsed());
}

/// The health status of a service: `HealthCheckResponse` is one number.
async fn health(channel: &Channel, service: &str) -> u8 {
    // gRPC over HTTP/2, "Length-Prefixed-Message", with a string in field 1.
    let mut message = match service.len() {
        0 => Vec::new(),
        length => [&[10, u8::try_from(length).unwrap()], service.as_bytes()].concat(),
    };
    let length = u8::try_from(message.len()).unwrap();
    message.splice(0..0, [0, 0, 0, 0, length]);
    let request = http::Request::post("http://broker.invalid/grpc.health.v1.Health/Check")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(Full::from(message)))
        .unwrap();
    let answer = async {
        let mut channel = channel.clone();
        let response = channel.ready().await.unwrap().call(request).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    };
    let answer = deadline::within(answer, || "no answer".to_owned()).await;
    // The number is field 1.
    let [_, _, _, _, 2, 8, status] = answer[..] else { panic!("{answer:?}") };
    status
}

/// A home on a disk that hangs, for which a terminal without input stands. Loaded profiles are still signed for, the
/// list is answered, and the broker ends in time.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_hanging_home_delays_no_other_profile() {
    let world = World::new().await;
    // If a profile names a file, a confined broker may open those next to it.
    world.home.config(
        "[profile tool]\nrole_arn = arn:aws:iam::123456789012:role/X\nweb_identity_token_file = /dev/null\n",
    );
    let rule = rule().replace("[\"dev\"]", "[\"dev\", \"staging\"]");
    let tool = "[[profile]]\nname = \"tool\"\nendpoints = [\"upstream\"]\n";
    let mut broker = world.broker(&world.configuration(&format!("{tool}{rule}"))).await;
    let client = connect(&world.socket()).await;
    let sign = |profile: &str| {
        let mut client = client.clone();
        let request = SignRequest {
            profile: profile.to_owned(),
            method: "GET".to_owned(),
            uri: world.upstream.url(),
            ..Default::default()
        };
        async move { client.sign(request).await }
    };
    sign("dev").await.unwrap();

    let credentials = world.home.credentials_file();
    std::fs::remove_file(&credentials).unwrap();
    std::os::unix::fs::symlink("/dev/ptmx", &credentials).unwrap();
    // This has to read the file, like the watch, which sees the change.
    let hangs = tokio::spawn(sign("staging"));
    for _ in 0..100 {
        deadline::within(sign("dev"), || "nothing is signed".to_owned()).await.unwrap();
    }
    let mut other = connect(&world.socket()).await;
    let listed = other.list_profiles(ListProfilesRequest {});
    let listed = deadline::within(listed, || "no list".to_owned()).await.unwrap().into_inner();
    assert_eq!(listed.profiles.len(), 2);
    assert!(!hangs.is_finished(), "the home doesn't hang: {}", broker.errors());

    // The waiting call is told to retry, and doesn't delay the end.
    let signalled = Instant::now();
    broker.signal(Signal::TERM);
    broker.ended().await;
    // The contract allows 2 s; a drain that waited would take 10.
    assert!(signalled.elapsed().as_secs() < 5, "it took {:?}", signalled.elapsed());
    let status = hangs.await.unwrap().expect_err("nothing was loaded");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "BROKER_ENDING");
    assert!(details.retry_info().is_some());
}
