//! Tests of the whole broker over real sockets, in one process.

use std::os::fd::OwnedFd;
use std::time::Instant;

use hyper_util::rt::TokioIo;
use sigward_proto::MAX_MESSAGE_BYTES;
use sigward_proto::v1;
use sigward_proto::v1::broker_client::BrokerClient;
use sigward_proto::v1::sign_request::Payload;
use tonic::transport::{Endpoint, Uri};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::*;
use crate::config;
use crate::deadline;
use crate::error::Reason;

mod flood;
mod harness;
mod login;
mod reload;

use self::harness::{Broker, SECRET, reason, request, uid};

#[tokio::test]
async fn a_signature_and_its_record() {
    let broker = Broker::start("");
    let mut client = broker.client().await;
    let answer = client.sign(request("dev")).await.expect("a signature").into_inner();
    assert_eq!(answer.access_key_id, "AKIDDEV");
    assert_eq!(answer.path_and_query, "/mcp");
    assert!(answer.credential_scope.ends_with("/us-east-1/aws-mcp/aws4_request"));
    assert_eq!(answer.credential_generation, 1);
    let names: Vec<&str> = answer.headers.iter().map(|header| header.name.as_str()).collect();
    assert_eq!(names, ["x-amz-date", "authorization", "x-amz-security-token"]);

    let status = client.sign(request("nobody")).await.expect_err("no such profile");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::PermissionDenied, "PROFILE_NOT_ALLOWED")
    );

    let records = broker.audit();
    assert_eq!(records.len(), 2);
    assert_eq!(records[0]["decision"], "allow");
    assert_eq!(records[0]["id"], answer.audit_id);
    // No rule looks at the body, so the call in it wasn't read.
    assert_eq!(records[0].get("method"), None);
    assert_eq!(records[0]["access_key_id"], "AKIDDEV");
    assert_eq!(records[0]["uid"], uid());
    assert_eq!(records[1]["decision"], "deny");
    assert_eq!(records[1]["reason"], "PROFILE_NOT_ALLOWED");
    let log = format!("{records:?}");
    assert!(!log.contains(SECRET) && !log.contains("canarytoken"));
}

#[tokio::test]
async fn a_body_of_some_megabytes_passes() {
    let broker = Broker::start("");
    let mut client = broker.client().await.max_encoding_message_size(MAX_MESSAGE_BYTES);
    let mut large = request("dev");
    large.payload = Some(Payload::Body(vec![b'x'; 8 << 20].into()));
    client.sign(large).await.expect("a signature");
}

/// Each load of credentials has a record before the signature that waited for it, even if the load
/// fails.
#[tokio::test]
async fn loads_are_recorded() {
    let broker = Broker::start("");
    let mut client = broker.client().await;
    client.sign(request("dev")).await.expect("a signature");
    client.sign(request("ghost")).await.expect_err("not in the files");
    let records = broker.records();
    let actions: Vec<_> = records.iter().map(|record| record["action"].as_str()).collect();
    assert_eq!(actions, [Some("load"), Some("sign"), Some("load"), Some("sign")], "{records:?}");
    let (good, failed) = (&records[0], &records[2]);
    assert_eq!((&good["profile"], &good["outcome"]), (&"dev".into(), &"done".into()));
    assert_eq!((&good["access_key_id"], &good["generation"]), (&"AKIDDEV".into(), &1.into()));
    assert_eq!((&failed["profile"], &failed["outcome"]), (&"ghost".into(), &"failed".into()));
    assert_eq!(failed["reason"], "PROFILE_MISCONFIGURED");
    assert!(!format!("{records:?}").contains("canary"));
}

/// The attack: one open health watch of any user prevents the broker from draining.
#[tokio::test]
async fn a_health_watch_does_not_block_draining() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    let broker = Broker::start("");
    let mut client = HealthClient::new(broker.channel().await);
    let status = client.watch(HealthCheckRequest::default()).await.expect_err("a stream");
    assert_eq!(status.code(), Code::Unimplemented);
    let stopped = Instant::now();
    broker.stop.send(()).expect("a broker");
    broker.serving.await.expect("no panic").expect("a clean end");
    assert!(stopped.elapsed() < DRAIN, "it took the whole time to drain");
}

/// The attack: answers that are never read prevent the broker from draining.
#[tokio::test]
async fn unread_answers_do_not_block_draining() {
    let broker = Broker::start("");
    // No byte of an answer may be sent.
    let deaf = Endpoint::from_static("http://broker").initial_stream_window_size(0);
    let mut client = BrokerClient::new(broker.channel_of(&deaf).await);
    let list = client.watch_profiles(v1::WatchProfilesRequest {}).await.expect("a head");
    let mut signing = client.clone();
    let answer = tokio::spawn(async move { signing.sign(request("dev")).await });
    deadline::until(|| !broker.audit().is_empty()).await;
    let stopped = Instant::now();
    broker.stop.send(()).expect("a broker");
    broker.serving.await.expect("no panic").expect("a clean end");
    let took = stopped.elapsed();
    assert!(took < Duration::from_secs(4), "it took {took:?}");
    drop((list, answer));
}

#[tokio::test]
async fn health_is_served() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    let broker = Broker::start("");
    let mut client = HealthClient::new(broker.channel().await);
    let service = "sigward.broker.v1.Broker".to_owned();
    let answer = client.check(HealthCheckRequest { service }).await.expect("an answer");
    assert_eq!(answer.into_inner().status, 1);
}

#[tokio::test]
async fn unknown_and_forbidden_profiles_look_the_same() {
    let rule = format!(
        "[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"dev\"]\nendpoints = [\"one\"]\n",
        uid()
    );
    let broker = Broker::start(&rule);
    let mut client = broker.client().await;
    let forbidden = client.sign(request("ghost")).await.expect_err("forbidden");
    let unknown = client.sign(request("nobody")).await.expect_err("unknown");
    assert_eq!(forbidden.code(), unknown.code());
    assert_eq!(forbidden.message(), unknown.message());
    let without_id = |status: &Status| {
        let info = status.get_error_details().error_info().cloned().expect("an ErrorInfo");
        assert!(info.metadata.contains_key("audit_id"));
        (info.reason, info.domain)
    };
    assert_eq!(without_id(&forbidden), without_id(&unknown));
    let report = |profile: &str| v1::ReportRejectionRequest {
        profile: profile.to_owned(),
        credential_generation: 1,
        agent: String::new(),
    };
    let forbidden = client.report_rejection(report("ghost")).await.expect_err("forbidden");
    let unknown = client.report_rejection(report("nobody")).await.expect_err("unknown");
    assert_eq!(forbidden.details(), unknown.details());
    let list = client.list_profiles(v1::ListProfilesRequest {}).await.expect("a list").into_inner();
    let names: Vec<&str> = list.profiles.iter().map(|profile| profile.name.as_str()).collect();
    assert_eq!(names, ["dev"]);
}

#[tokio::test]
async fn another_user_gets_nothing() {
    let rule = format!("[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"*\"]\n", uid() + 1);
    let broker = Broker::start(&rule);
    let mut client = broker.client().await;
    let status = client.sign(request("dev")).await.expect_err("denied");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::PermissionDenied, "PEER_NOT_ALLOWED")
    );
    let status = client.list_profiles(v1::ListProfilesRequest {}).await.expect_err("denied");
    assert_eq!(reason(&status), "PEER_NOT_ALLOWED");
    assert!(client.watch_profiles(v1::WatchProfilesRequest {}).await.is_err());
    let record = broker.audit().remove(0);
    assert_eq!((&record["action"], &record["decision"]), (&"call".into(), &"deny".into()));
    assert_eq!((&record["reason"], &record["uid"]), (&"PEER_NOT_ALLOWED".into(), &uid().into()));
}

/// Too long messages aren't read from any caller, and a stranger's messages aren't read at all.
#[tokio::test]
async fn a_stranger_s_message_is_not_read() {
    for (stranger, reason) in [(1, Some("PEER_NOT_ALLOWED")), (0, Some("INVALID_MESSAGE"))] {
        let uid = uid() + stranger;
        let rule = format!("[[rule]]\npeer = {{ uid = {uid} }}\nprofiles = [\"*\"]\n");
        let broker = Broker::start(&rule);
        let mut long = request("dev");
        long.payload = Some(Payload::Body(vec![b' '; MAX_MESSAGE_BYTES].into()));
        let status = broker.client().await.sign(long).await.expect_err("too long");
        let said = status.get_error_details();
        let said = said.error_info().map(|info| info.reason.as_str());
        assert_eq!(said, reason, "{status}");
    }
}

#[tokio::test]
async fn profiles_are_listed_and_watched() {
    let broker = Broker::start("");
    let mut client = broker.client().await;
    let mut changes =
        client.watch_profiles(v1::WatchProfilesRequest {}).await.expect("a stream").into_inner();
    let first =
        deadline::within(changes.message()).await.expect("a list").expect("a list").profiles;
    let dev = &first[0];
    assert_eq!(
        (dev.name.as_str(), dev.region.as_str(), dev.source.as_str()),
        ("dev", "eu-west-1", "static keys")
    );
    assert_eq!((dev.description.as_str(), dev.state()), ("For tests", v1::ProfileState::Unloaded));
    assert_eq!(dev.endpoints[0].url, "https://aws-mcp.us-east-1.api.aws/mcp");
    assert_eq!(
        (dev.endpoints[0].service.as_str(), dev.endpoints[0].region.as_str()),
        ("aws-mcp", "us-east-1")
    );
    assert_eq!(first[2].endpoints.len(), 2);
    client.sign(request("dev")).await.expect("a signature");
    loop {
        let profiles =
            deadline::within(changes.message()).await.expect("a list").expect("a list").profiles;
        if profiles[0].state() == v1::ProfileState::Fresh {
            break;
        }
    }
    // The stream doesn't prevent the broker from draining.
    broker.stop.send(()).expect("a broker");
    assert!(deadline::within(changes.message()).await.expect("an end").is_none());
    broker.serving.await.expect("no panic").expect("a clean end");
    assert!(!broker.directory.path().join("sub/broker.sock").exists());
}

#[tokio::test]
async fn profiles_that_cannot_sign_have_a_reason() {
    let broker = Broker::start("");
    let mut client = broker.client().await;
    let status = client.sign(request("mfa")).await.expect_err("mfa");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "MFA_REQUIRED")
    );
    let status = client.sign(request("ghost")).await.expect_err("not in the files");
    assert_eq!(reason(&status), Reason::ProfileMisconfigured.name());
    assert!(!status.message().contains("ghost"));
}

#[tokio::test]
async fn the_private_broker_ends_with_its_connection() {
    let directory = tempfile::tempdir().expect("a directory");
    let credentials =
        format!("[default]\naws_access_key_id = A\naws_secret_access_key = {SECRET}\n");
    let path = Broker::write(directory.path(), "credentials", &credentials);
    let flags = config::Flags {
        profiles: vec!["default".to_owned()],
        endpoints: vec!["https://aws-mcp.us-east-1.api.aws/mcp".to_owned()],
        ..config::Flags::default()
    };
    let mut config = flags.into_config(uid()).expect("valid");
    config.aws.config = Some(path.clone());
    config.aws.credentials = Some(path);
    config.audit.target = config::AuditTarget::None;

    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let serving = tokio::spawn(async move {
        serve_connection(config, &Surroundings::default(), OwnedFd::from(theirs), pending()).await
    });
    ours.set_nonblocking(true).expect("non-blocking");
    let mut stream = Some(UnixStream::from_std(ours).expect("a stream"));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        async move { stream.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://broker").connect_with_connector(connector).await;
    let mut client = BrokerClient::new(channel.expect("a connection"));
    let answer = client.sign(request("default")).await.expect("a signature").into_inner();
    assert_eq!(answer.access_key_id, "A");
    drop(client);
    serving.await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn standard_input_must_be_a_unix_socket() {
    let null = std::fs::File::open("/dev/null").expect("/dev/null");
    assert!(unix::inherited_connection(OwnedFd::from(null)).is_err());
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let error = unix::inherited_connection(OwnedFd::from(tcp)).expect_err("not a Unix socket");
    assert!(error.to_string().contains("Unix socket"));
}

/// The names in a list of profiles.
fn names(profiles: &[v1::Profile]) -> Vec<&str> {
    profiles.iter().map(|profile| profile.name.as_str()).collect()
}
