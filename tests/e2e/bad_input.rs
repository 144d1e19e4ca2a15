//! Bad input and failed peers: each gives a clear error, the session continues where it can, and nothing hangs.

use serde_json::Value;
use sigward_tests::processes::{self, StdioClient};
use sigward_tests::upstream::{Reply, Step};

use crate::setup::{THREE, World, assert_names, failure, own_uid, rpc_error, text};

/// Asserts that the session still works.
async fn assert_works(world: &World, client: &mut StdioClient) {
    let called = client.call("whoami", r#"{"aws_profile":"staging"}"#).await;
    assert_eq!(text(&called), world.home.identity("staging"));
}

/// The next error without a request id.
async fn anonymous_error(client: &mut StdioClient) -> Value {
    client
        .expect("an error with a null id", |it| it["id"].is_null() && it["error"].is_object())
        .await
}

#[tokio::test]
async fn lines_that_are_not_messages_get_an_error() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    for (line, code) in [
        ("not JSON", -32700),
        ("{\"jsonrpc\":\"2.0\",\"id\":7,", -32700),
        ("\u{feff}{}", -32700),
        ("5", -32600),
        ("\"text\"", -32600),
        ("{}", -32600),
        ("[]", -32600),
    ] {
        client.send(line).await;
        let error = anonymous_error(&mut client).await;
        assert_eq!(rpc_error(&error).0, code, "{line}: {error}");
        assert!(!rpc_error(&error).1.is_empty());
    }
    // Blank lines are ignored.
    client.send("").await;
    client.send("   \t").await;
    assert_works(&world, &mut client).await;
    assert_eq!(client.unread(), [""; 0]);
}

#[tokio::test]
async fn a_line_that_is_not_utf8_gets_an_error() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    client.send_bytes(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\xfe\"}\n").await;
    anonymous_error(&mut client).await;
    assert_works(&world, &mut client).await;
}

#[tokio::test]
async fn a_message_with_too_deep_nesting_gets_an_error() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let id = client.start_request("tools/call", &processes::call("echo", &deep)).await;
    let answer = client
        .expect("an answer to the deep call", |it| it["id"] == id || it["id"].is_null())
        .await;
    failure(&answer);
    assert_works(&world, &mut client).await;
}

/// Deep, but within what all JSON parsers accept: it is passed on unchanged.
#[tokio::test]
async fn a_message_with_permitted_nesting_is_unchanged() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(60), "]".repeat(60));
    let called = client.call("echo", &deep).await;
    assert_eq!(text(&called), deep);
}

#[tokio::test]
async fn a_line_that_is_too_long_gets_an_error() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    // Longer than the limit of 64 MiB.
    let long = vec![b'x'; 65 << 20];
    client
        .send_bytes(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":{\"x\":\"")
        .await;
    client.send_bytes(&long).await;
    client.send_bytes(b"\"}}\n").await;
    let error = anonymous_error(&mut client).await;
    assert_names(rpc_error(&error).1, &["64"]);
    assert_works(&world, &mut client).await;

    let shorter = "y".repeat(4 << 20);
    let called = client.call("echo", &format!(r#"{{"x":"{shorter}"}}"#)).await;
    assert_eq!(text(&called).len(), shorter.len() + r#"{"x":""}"#.len());
}

#[tokio::test]
async fn a_dead_broker_is_reported_and_found_again() {
    let world = World::new().await;
    let rule = format!(
        "[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"dev\", \"staging\"]\nendpoints = [\"upstream\"]",
        own_uid()
    );
    let config = world.configuration(&rule);
    let mut broker = world.broker(&config).await;
    let mut client = world.client_of(&world.socket(), &["dev", "staging"]).await;
    assert_works(&world, &mut client).await;

    broker.signal(rustix::process::Signal::KILL);
    broker.ended().await;
    let failed = client.call("whoami", "{}").await;
    assert_names(failure(&failed), &["broker"]);
    // Each call connects anew, so a broker that was restarted is found.
    drop(broker);
    let _restarted = world.broker(&config).await;
    assert_works(&world, &mut client).await;
}

#[tokio::test]
async fn a_missing_broker_is_reported() {
    let world = World::new().await;
    let mut client = StdioClient::start(world.proxy(&[
        "--broker",
        "unix:/nonexistent/broker.sock",
        "--profile",
        "dev",
    ]));
    let params = r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}"#;
    let failed = client.request("initialize", params).await;
    assert_names(rpc_error(&failed).1, &["/nonexistent/broker.sock"]);
    let (_, unread, _) = client.close().await;
    assert_eq!(unread, [""; 0]);
}

#[tokio::test]
async fn a_dead_upstream_is_reported_and_found_again() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    let url = world.upstream.url();
    let address = url.trim_start_matches("http://").trim_end_matches("/mcp").to_owned();
    let World { home, upstream, directory } = world;
    drop(upstream);
    for method in ["tools/list", "tools/call"] {
        let failed = client.request(method, r#"{"name":"whoami","arguments":{}}"#).await;
        assert_names(failure(&failed), &[&address]);
    }
    // The server is restarted without its sessions.
    let port = address.rsplit(':').next().unwrap().parse().unwrap();
    let world = World::revived(home, directory, port).await;
    assert_works(&world, &mut client).await;
}

#[tokio::test]
async fn invalid_answers_of_the_upstream_get_a_clear_error() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    let html = |status| {
        let kind = vec![("content-type", "text/html".to_owned())];
        Reply::Http(status, kind, "<html>a page of a proxy</html>".to_owned())
    };
    for (reply, words) in [
        (html(502), vec!["502"]),
        (html(200), vec![]),
        (Reply::Http(503, Vec::new(), String::new()), vec!["503"]),
        (
            Reply::Http(
                307,
                vec![("location", "http://127.0.0.1:1/evil".to_owned())],
                String::new(),
            ),
            vec!["307"],
        ),
        (Reply::Json("{\"jsonrpc\":\"2.0\",".to_owned()), vec![]),
        (Reply::Json("[]".to_owned()), vec![]),
        (Reply::Json(r#"{"jsonrpc":"2.0","id":$ID}"#.to_owned()), vec![]),
        (Reply::Http(202, Vec::new(), String::new()), vec![]),
        (Reply::Stream(Vec::new()), vec![]),
        (Reply::Stream(vec![Step::Raw("data: {\"jsonrpc\"".to_owned()), Step::Cut]), vec![]),
        (Reply::Stream(vec![Step::Data("not JSON".to_owned())]), vec![]),
        (Reply::HangUp, vec![]),
    ] {
        let shown = format!("{reply:?}");
        world.upstream.next("tools/call", reply);
        let before = world.upstream.requests_of("tools/call").len();
        let failed = client.call("echo", "{}").await;
        let message = failure(&failed);
        assert!(!message.is_empty(), "{shown}");
        assert_names(message, &words);
        let sent = world.upstream.requests_of("tools/call").len() - before;
        assert_eq!(sent, 1, "{shown}: a call that may have been executed is never resent");
        assert_works(&world, &mut client).await;
    }
}
