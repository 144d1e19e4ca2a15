//! Limits of a request, each at the cost of that request alone.

use bytes::Bytes;

use crate::agent::SESSIONS;
use crate::http::{Listening, lines};
use crate::setup::{THREE, World, rpc_error, text};

const MAX_MESSAGE: usize = sigward_proxy::config::MAX_CLIENT_MESSAGE;

#[tokio::test]
async fn a_message_that_is_too_long() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &THREE, &[]).await;
    let session = proxy.session(SESSIONS).await;
    let session = lines(&session);
    let headers = [&[("content-type", "application/json")], &session[..]].concat();
    let call = |length: usize| {
        let mut body = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"write_note","arguments":{"note":""#.to_vec();
        let end = br#""}}}"#;
        body.resize(length - end.len(), b'x');
        body.extend_from_slice(end);
        Bytes::from(body)
    };
    let before = world.upstream.requests().len();
    // Its length is told; or found out, since the client sends it in chunks.
    let chunked = [&[("transfer-encoding", "chunked")], &headers[..]].concat();
    for headers in [&headers, &chunked] {
        let refused = proxy.request("POST", "/mcp", headers, call(MAX_MESSAGE + 1)).await;
        assert_eq!(refused.status, 413);
        assert!(rpc_error(&refused.message().await).1.contains("64 MiB"));
    }
    assert_eq!(world.upstream.requests().len(), before);
    let allowed = proxy.request("POST", "/mcp", &headers, call(4 << 20)).await;
    assert_eq!(allowed.status, 200);
    assert!(text(&allowed.message().await).len() > (4 << 20) - 200, "whole");
}

#[tokio::test]
async fn a_head_that_is_too_long() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &THREE, &[]).await;
    let long = "x".repeat(200 << 10);
    let refused = proxy.request("GET", "/healthz", &[("x-long", &long)], "").await;
    assert_eq!(refused.status, 431);
    let many: Vec<_> = (0..200).map(|_| ("x-many", "1")).collect();
    assert_eq!(proxy.request("GET", "/healthz", &many, "").await.status, 431);
    assert_eq!(proxy.request("GET", "/healthz", &[], "").await.status, 200);
}
