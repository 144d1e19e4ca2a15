//! A caller without a valid certificate gets nothing.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use sigward_proto::v1::ListProfilesRequest;
use sigward_tests::broker::shake_hands;
use sigward_tests::deadline;
use sigward_tests::workloads::{self, Issued, Workloads, dns, uri};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::{ClientConfig, HandshakeKind, version};
use tonic_types::StatusExt as _;

use super::scene::{AGENT, Scene, rule};
use crate::setup::ping;

const HOUR: Duration = Duration::from_secs(3600);

impl Scene {
    /// Fails unless the connection ends in the handshake: without an answer, and without an audit record.
    async fn refuses(&self, config: ClientConfig, what: &str) {
        let before = self.audit().len();
        let Ok(mut client) = self.client_with(&Arc::new(config)).await else { return };
        let asked = client.list_profiles(ListProfilesRequest {});
        let asked = deadline::within(asked, || format!("{what}: no end")).await;
        let status = asked.expect_err(what);
        assert!(status.get_details_error_info().is_none(), "{what}: {status:?}");
        assert_eq!(self.audit().len(), before, "{what}");
    }

    async fn accepts(&self, issued: &Issued) {
        let mut client = self.client(issued).await.expect("a good certificate");
        client.sign(ping(&self.world, "dev")).await.expect("a rule");
    }
}

#[tokio::test]
async fn only_a_valid_certificate_passes_the_handshake() {
    let scene = Scene::new(&rule("spiffe_id", AGENT)).await;
    let (authority, agent) = (&scene.authority, [uri(AGENT)]);
    let good = authority.issue(&agent);
    scene.accepts(&good).await;
    let other = Workloads::new();
    // The caller trusts the broker, and presents `issued`.
    let caller = |issued: &Issued| authority.caller(Some(issued));
    let with_usage = |usage: ExtendedKeyUsagePurpose| {
        authority.issue_as(&agent, |it| it.extended_key_usages = vec![usage])
    };
    let authority_itself = authority.issue_as(&agent, |it| {
        it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let signer =
        authority.issue_as(&agent, |it| it.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
    let now = workloads::now();
    for (what, issued) in [
        ("another authority's", other.issue(&agent)),
        ("expired", authority.issue_between(&agent, now - 2 * HOUR, now - HOUR)),
        ("not yet valid", authority.issue_between(&agent, now + HOUR, now + 2 * HOUR)),
        ("two ids", authority.issue(&[uri(AGENT), uri("spiffe://test.example/other")])),
        ("the same id twice", authority.issue(&[uri(AGENT), uri(AGENT)])),
        ("an id and another URI", authority.issue(&[uri(AGENT), uri("https://test.example/")])),
        ("a URI that is no id", authority.issue(&[uri("https://test.example/ns/dev/sa/agent")])),
        ("a trust domain", authority.issue(&[uri("spiffe://test.example")])),
        (
            "an id in other letters",
            authority.issue(&[uri("SPIFFE://test.example/ns/dev/sa/agent")]),
        ),
        (
            "a common name alone",
            authority.issue_as(&[], |it| {
                it.distinguished_name.push(rcgen::DnType::CommonName, AGENT);
            }),
        ),
        ("a wildcard alone", authority.issue(&[dns("*.test.example")])),
        ("issued by a workload", good.issue(&agent)),
        ("an authority", authority_itself),
        ("a key that signs certificates", signer),
        ("for servers alone", with_usage(ExtendedKeyUsagePurpose::ServerAuth)),
    ] {
        scene.refuses(caller(&issued), what).await;
    }
    scene.refuses(authority.caller(None), "no certificate").await;
    scene.accepts(&with_usage(ExtendedKeyUsagePurpose::ClientAuth)).await;
    scene.accepts(&good).await;
}

#[tokio::test]
async fn only_http_2_over_tls_1_3_is_accepted() {
    let scene = Scene::new(&rule("spiffe_id", AGENT)).await;
    let good = scene.authority.workload(AGENT);
    scene.accepts(&good).await;
    scene.refuses(scene.authority.caller_with(Some(&good), &[&version::TLS12]), "TLS 1.2").await;
    for (protocols, what) in [(vec![], "no ALPN"), (vec![b"http/1.1".to_vec()], "HTTP/1.1")] {
        let mut config = scene.authority.caller(Some(&good));
        config.alpn_protocols = protocols;
        scene.refuses(config, what).await;
    }
    // HTTP/2 and HTTP/1.1 in clear text.
    for text in
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..], b"GET / HTTP/1.1\r\n\r\n"]
    {
        let mut stream = TcpStream::connect(scene.address).await.unwrap();
        stream.write_all(text).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        deadline::within(read, || "clear text isn't rejected".to_owned()).await.ok();
        // At most a TLS alert.
        assert!(answer.len() <= 7 && answer.first().is_none_or(|byte| *byte == 21), "{answer:?}");
    }
    scene.accepts(&good).await;
}

/// The attack: a TLS session of one identity is resumed with another one, or after the identity has expired.
#[tokio::test]
async fn no_tls_session_is_resumed() {
    let both = format!(
        "{}[[rule]]\npeer = {{ spiffe_id = \"spiffe://test.example/second\" }}\nprofiles = [\"staging\"]\n",
        rule("spiffe_id", AGENT)
    );
    let scene = Scene::new(&both).await;
    let sessions = Resumption::in_memory_sessions(16);
    let config = |id: &str| {
        let mut config = scene.authority.caller(Some(&scene.authority.workload(id)));
        config.resumption = sessions.clone();
        Arc::new(config)
    };
    let first = config(AGENT);
    for config in [&first, &first, &config("spiffe://test.example/second")] {
        let stream = shake_hands(scene.address, config).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        let mut client = sigward_tests::broker::client_on(stream).await.unwrap();
        let dev = client.sign(ping(&scene.world, "dev")).await;
        let staging = client.sign(ping(&scene.world, "staging")).await;
        assert_eq!(dev.is_ok(), Arc::ptr_eq(config, &first));
        assert_eq!(staging.is_ok(), !Arc::ptr_eq(config, &first));
    }
}

/// The attack: a certificate is valid for minutes, and a connection that was opened with it stays open for weeks.
#[tokio::test]
async fn a_connection_ends_when_its_certificate_expires() {
    let scene = Scene::new(&rule("spiffe_id", AGENT)).await;
    let now = workloads::now();
    let short =
        scene.authority.issue_between(&[uri(AGENT)], now - HOUR, now + Duration::from_secs(4));
    let mut client = scene.client(&short).await.unwrap();
    client.sign(ping(&scene.world, "dev")).await.unwrap();
    scene.until_unknown(&mut client).await;
    // Times in certificates are whole seconds.
    assert!(workloads::now().as_secs() >= now.as_secs() + 4);
    scene.until_closed(&mut client).await;
    // A new connection with another certificate is accepted.
    scene.accepts(&scene.authority.workload(AGENT)).await;
}
