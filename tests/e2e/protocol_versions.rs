//! Protocol versions with and without sessions: requests within a session, and the headers of stateless ones.

use serde_json::json;
use sigward_tests::processes::StdioClient;
use sigward_tests::upstream::{Answers, Era, Received, Reply, Step};

use crate::setup::{THREE, World, assert_names, failure, rpc_error, stateless, text};

#[tokio::test]
async fn every_request_is_signed_and_in_its_session() {
    for version in ["2025-03-26", "2025-06-18", "2025-11-25"] {
        let world = World::new().await;
        let mut client = StdioClient::start(world.private_proxy(&THREE, &[]));
        let result = client.initialize_as(version, "{}").await;
        assert_eq!(result["protocolVersion"], version);
        assert_eq!(result["serverInfo"]["name"], "verifying-upstream", "the server's own name");
        let called = client.call("whoami", r#"{"aws_profile":"prod"}"#).await;
        assert_eq!(text(&called), world.home.identity("prod"));
        let opened = world.upstream.expect("the GET stream", |it| it.http_method == "GET").await;
        assert!(opened.signature.is_ok());
        assert_eq!(opened.header("last-event-id"), None, "there is nothing to resume after");
        for request in world.upstream.requests() {
            assert!(request.signature.is_ok(), "{request:?}");
            let opens = request.method() == "initialize";
            assert_eq!(request.header("mcp-session-id").is_none(), opens, "{}", request.text());
            assert_eq!(request.header("mcp-method"), None, "not in this version");
            let accept = request.header("accept").unwrap_or_default();
            assert!(accept.contains("text/event-stream"), "{accept}");
        }
        // Another profile's session is opened with the client's own handshake.
        let opened = world.upstream.requests_of("initialize");
        assert_eq!(opened.len(), 2);
        let params = |request: &Received| request.message.as_ref().unwrap().params.clone().unwrap();
        assert_eq!(params(&opened[1]).contains(version), params(&opened[0]).contains(version));
        assert_eq!(opened[1].param("/clientInfo"), opened[0].param("/clientInfo"));
    }
}

#[tokio::test]
async fn a_refused_signature_is_renewed_at_most_once() {
    let world = World::new().await;
    let mut client = world.client(&["dev"], &[]).await;
    text(&client.call("whoami", "{}").await);
    let before = world.upstream.requests_of("tools/call").len();
    // The broker decides whether fresh credentials can help: static keys haven't changed.
    world.upstream.refuse_signatures(5);
    let failed = client.call("write_note", "{}").await;
    assert_names(failure(&failed), &["403"]);
    let sent = world.upstream.requests_of("tools/call").len() - before;
    assert!((1..=2).contains(&sent), "sent {sent} times");
}

#[tokio::test]
async fn ids_are_returned_unchanged() {
    let world = World::with(|builder| builder.answers(Answers::Events)).await;
    let mut client = world.client(&["dev"], &[]).await;
    for id in ["1.0", "1e2", "123456789012345678901", "\"1\"", "-0", "\"\\u0061\"", "\"\""] {
        client.send(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#)).await;
        let wanted = format!("\"id\":{id},");
        client.expect_line(&wanted, |line| line.contains(&wanted) && line.contains("result")).await;
    }
}

/// A GET stream that is refused temporarily is requested again; one that the server doesn't have isn't.
#[tokio::test]
async fn a_temporarily_refused_get_stream_is_requested_again() {
    let world = World::new().await;
    for status in [429, 403] {
        world.upstream.next("GET", Reply::Http(status, Vec::new(), String::new()));
    }
    let pushed = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info"}}"#;
    world.upstream.next(
        "GET",
        Reply::Stream(vec![Step::Raw("retry: 1\n".to_owned()), Step::Data(pushed.to_owned())]),
    );
    world.upstream.next("GET", Reply::Http(405, Vec::new(), String::new()));
    let mut client = world.client(&["dev"], &[]).await;
    client.expect_line("the notification", |line| line == pushed).await;
    let refused = |it: &Received| it.http_method == "GET" && it.number == 5;
    world.upstream.expect("the refused stream", refused).await;
}

#[tokio::test]
async fn stateless_requests_carry_their_headers() {
    let world = World::with(|builder| builder.era(Era::Stateless)).await;
    let mut client = StdioClient::start(world.private_proxy(&THREE, &[]));
    let discovered = client.request("server/discover", &stateless("{}")).await;
    assert_eq!(discovered["result"]["supportedVersions"], json!(["2026-07-28"]));
    // A call before any list: the server requires a header that only the tool's schema defines.
    for (arguments, header) in [
        (r#"{"region":"us-west-1"}"#, Some("us-west-1")),
        (r#"{"region":" padded "}"#, Some("=?base64?IHBhZGRlZCA=?=")),
        (r#"{"region":"日本"}"#, Some("=?base64?5pel5pys?=")),
        (r#"{"region":null}"#, None),
        (r#"{"aws_profile":"staging"}"#, None),
    ] {
        let params = stateless(&format!(r#"{{"name":"lookup","arguments":{arguments}}}"#));
        let called = client.request("tools/call", &params).await;
        text(&called);
        let call = world.upstream.requests_of("tools/call").pop().unwrap();
        assert_eq!(call.header("mcp-param-region"), header, "{arguments}");
        assert_eq!(call.header("mcp-name"), Some("lookup"));
    }
    let read = client.request("resources/read", &stateless(r#"{"uri":"test://nöte"}"#)).await;
    assert!(read["result"].is_object(), "{read}");
    let unknown = client.request("no/such", &stateless("{}")).await;
    assert_eq!(rpc_error(&unknown).0, -32601, "a 404 with this code isn't a lost session");
    assert!(world.upstream.requests().iter().all(|it| it.header("mcp-session-id").is_none()));
    assert!(world.upstream.requests().iter().all(|it| it.http_method == "POST"));
}

#[tokio::test]
async fn an_older_server_lets_a_newer_client_fall_back() {
    let world = World::with(|builder| builder.era(Era::Sessions)).await;
    let mut client = StdioClient::start(world.private_proxy(&THREE, &[]));
    let refused = client.request("server/discover", &stateless("{}")).await;
    let (code, _) = rpc_error(&refused);
    assert!(![-32020, -32021, -32022].contains(&code), "such a code means a newer server");
    client.initialize().await;
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), world.home.identity("dev"));
}

#[tokio::test]
async fn a_newer_server_refuses_an_older_client() {
    let world = World::with(|builder| builder.era(Era::Stateless)).await;
    let mut client = StdioClient::start(world.private_proxy(&THREE, &[]));
    let params = r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}"#;
    let refused = client.request("initialize", params).await;
    assert_eq!(rpc_error(&refused).0, -32020);
}
