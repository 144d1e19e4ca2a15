//! The connection to the endpoint: TLS and its authorities, HTTP/2, encodings, queries.

use sigward_tests::authority::Authority;
use sigward_tests::processes::{Process, StdioClient};
use sigward_tests::upstream::{Gate, Received, Reply};

use crate::setup::{World, assert_names, failure, rpc_error, text};

const INITIALIZE: &str =
    r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}"#;

/// A world whose server has a certificate of `authority`.
async fn world(authority: &Authority) -> World {
    World::with(|builder| builder.vouched_for_by(authority)).await
}

/// AWS speaks HTTP/2. A connection per call would need a handshake per call.
#[tokio::test]
async fn concurrent_calls_share_one_connection_over_http_2() {
    for (protocols, few) in [(&["h2", "http/1.1"][..], true), (&["http/1.1"], false)] {
        let authority = Authority::new(protocols);
        let world = world(&authority).await;
        let bundle = world.write("authorities.pem", &authority.pem);
        let mut command = world.private_proxy(&["dev"], &["--ca-bundle", bundle.to_str().unwrap()]);
        command.env("AWS_CA_BUNDLE", "/nonexistent.pem");
        let mut client = StdioClient::start(command);
        client.initialize().await;
        let mut ids = Vec::new();
        for number in 0..32 {
            let params = format!(r#"{{"name":"slow","arguments":{{"number":"<{number}>"}}}}"#);
            ids.push(client.start_request("tools/call", &params).await);
        }
        for number in 0..32 {
            let mark = format!("<{number}>");
            let is_it = |request: &Received| request.text().contains(&mark);
            world.upstream.expect("all concurrent calls", is_it).await;
        }
        // One for calls, one for the GET stream.
        let connections = world.upstream.connections();
        assert_eq!(connections <= 2, few, "{protocols:?}: {connections}");
        world.upstream.slow().open();
        for id in ids {
            text(&client.response(&id).await);
        }
        for request in world.upstream.requests() {
            assert!(request.signature.is_ok(), "{request:?}");
            assert_eq!(request.header("accept-encoding"), Some("identity"));
        }
    }
}

/// Without HTTP/2, concurrent calls open many connections. Few may stay: an idle one costs the server a slot, and the
/// proxy a descriptor.
#[tokio::test]
async fn few_connections_stay_open_after_concurrent_calls() {
    const CALLS: usize = 100;
    /// The most connections that may stay, those of the calls and the others.
    const KEPT: usize = 36;
    let world = World::new().await;
    let mut client = world.client(&["dev"], &[]).await;
    let before = world.upstream.connections();
    for round in 1..=2 {
        let held = Gate::default();
        let gate = held.clone();
        world.upstream.hook(move |it| it.calls("echo").then(|| Reply::Usual.held(&gate)));
        let mut ids = Vec::new();
        for number in 0..CALLS {
            let params =
                format!(r#"{{"name":"echo","arguments":{{"mark":"<{round}/{number}>"}}}}"#);
            ids.push(client.start_request("tools/call", &params).await);
        }
        for number in 0..CALLS {
            let mark = format!("<{round}/{number}>");
            let is_it = |request: &Received| request.text().contains(&mark);
            world.upstream.expect("all concurrent calls", is_it).await;
        }
        held.open();
        for id in ids {
            text(&client.response(&id).await);
        }
    }
    let opened = world.upstream.connections() - before;
    assert!(
        opened >= 2 * CALLS - KEPT - 2,
        "{opened}: too many idle connections were kept and reused"
    );
}

/// The variable survives the re-execution that drops all AWS variables.
#[tokio::test]
async fn aws_ca_bundle_names_the_authorities() {
    let authority = Authority::new(&["h2"]);
    let world = world(&authority).await;
    let bundle = world.write("authorities.pem", &authority.pem);
    let mut command = world.private_proxy(&["dev"], &[]);
    command.env("AWS_CA_BUNDLE", &bundle);
    let mut client = StdioClient::start(command);
    client.initialize().await;
    assert_eq!(text(&client.call("whoami", "{}").await), world.home.identity("dev"));
}

#[tokio::test]
async fn a_server_of_an_unknown_authority_is_refused() {
    let world = world(&Authority::new(&["h2"])).await;
    let other = world.write("other.pem", &Authority::new(&[]).pem);
    for options in [vec![], vec!["--ca-bundle", other.to_str().unwrap()]] {
        let mut client = StdioClient::start(world.private_proxy(&["dev"], &options));
        let answer = client.request("initialize", INITIALIZE).await;
        assert_names(rpc_error(&answer).1, &["UnknownIssuer", "--ca-bundle"]);
        assert_eq!(world.upstream.requests().len(), 0);
    }
}

#[tokio::test]
async fn a_missing_file_of_authorities_is_named_in_the_error() {
    let world = World::new().await;
    for (name, option) in [
        ("SSL_CERT_FILE", None),
        ("AWS_CA_BUNDLE", None),
        ("--ca-bundle", Some("/nonexistent.pem")),
    ] {
        let options: Vec<_> = option.into_iter().flat_map(|file| ["--ca-bundle", file]).collect();
        let mut command = world.private_proxy(&["dev"], &options);
        if option.is_none() {
            command.env(name, "/nonexistent.pem");
        }
        command.stdin(std::process::Stdio::null());
        let (status, log) = Process::start(command).ended().await;
        assert!(!status.success());
        assert_names(&log, &[name, "/nonexistent.pem", "No such file"]);
    }
}

#[tokio::test]
async fn an_unrequested_content_encoding_is_named_in_the_error() {
    let world = World::new().await;
    let mut client = world.client(&["dev"], &[]).await;
    let headers = vec![("content-encoding", "gzip".to_owned())];
    let encoded = Reply::Http(200, headers, "not even gzip".to_owned());
    world.upstream.next("tools/call", encoded);
    assert_names(failure(&client.call("echo", "{}").await), &["gzip"]);
    text(&client.call("whoami", "{}").await);
}

/// Only the canonical form can be signed, so that form is sent.
#[tokio::test]
async fn a_query_is_sent_in_canonical_form() {
    let world = World::new().await;
    for (given, sent) in [
        ("qualifier=DEFAULT&accountId=123456789012", "accountId=123456789012&qualifier=DEFAULT"),
        ("q=a%2fb", "q=a%2Fb"),
    ] {
        let url = format!("{}?{given}", world.upstream.url());
        let command = world.proxy_to(&url, &["--profile", "dev", "--broker", "private"]);
        let mut client = StdioClient::start(command);
        client.initialize().await;
        assert_eq!(text(&client.call("whoami", "{}").await), world.home.identity("dev"));
        let last = world.upstream.requests().pop().unwrap();
        assert!(last.target.ends_with(&format!("?{sent}")), "{}", last.target);
    }
}
