//! Limits of a request: one that exceeds a limit fails alone.

use bytes::Bytes;

use crate::agent::SESSIONS;
use crate::http::{Listening, lines};
use crate::setup::{THREE, World, rpc_error, text};
use sigward_proto::headers::MAX_HEADERS;
use sigward_proxy::config::{MAX_ADDED_HEADERS, MAX_CLIENT_MESSAGE as MAX_MESSAGE};

#[tokio::test]
async fn a_message_that_is_too_long_is_refused() {
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
    // Its length is declared, or found while reading the chunks.
    let chunked = [&[("transfer-encoding", "chunked")], &headers[..]].concat();
    for headers in [&headers, &chunked] {
        let refused = proxy.request("POST", "/mcp", headers, call(MAX_MESSAGE + 1)).await;
        assert_eq!(refused.status, 413);
        assert!(rpc_error(&refused.message().await).1.contains("64 MiB"));
    }
    assert_eq!(world.upstream.requests().len(), before);
    let allowed = proxy.request("POST", "/mcp", &headers, call(4 << 20)).await;
    assert_eq!(allowed.status, 200);
    assert!(text(&allowed.message().await).len() > (4 << 20) - 200, "the note was cut");
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &THREE, &[]).await;
    let long = "x".repeat(200 << 10);
    let refused = proxy.request("GET", "/healthz", &[("x-long", &long)], "").await;
    assert_eq!(refused.status, 431);
    let many: Vec<_> = (0..200).map(|_| ("x-many", "1")).collect();
    assert_eq!(proxy.request("GET", "/healthz", &many, "").await.status, 431);
    assert_eq!(proxy.request("GET", "/healthz", &[], "").await.status, 200);
}

/// The broker signs as many headers as the listener accepts, in addition to the most `--header` options.
#[tokio::test]
async fn the_most_accepted_headers_are_all_signed() {
    let world = World::new().await;
    let added: Vec<String> = (0..MAX_ADDED_HEADERS).map(|n| format!("x-added-{n}=1")).collect();
    let added: Vec<&str> = added.iter().flat_map(|header| ["--header", header]).collect();
    let proxy = Listening::start(&world, &["dev"], &added).await;
    let session = proxy.session(SESSIONS).await;
    let call = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"whoami","arguments":{}}}"#;
    // The proxy adds six: the two of the session, host, content type, accepted types and length.
    let own: Vec<String> =
        (0..MAX_HEADERS - MAX_ADDED_HEADERS).map(|n| format!("x-own-{n}")).collect();
    let with = |count: usize| {
        let own = own.iter().take(count).map(|name| (name.as_str(), "1"));
        lines(&session).into_iter().chain(own).collect::<Vec<_>>()
    };
    let most = own.len() - 6;
    let called = proxy.post(&with(most), call).await.message().await;
    assert_eq!(text(&called), world.home.identity("dev"));
    let sent = world.upstream.requests_of("tools/call").remove(0);
    assert!(sent.signature.is_ok(), "{sent:?}");
    assert_eq!(sent.header(&format!("x-own-{}", most - 1)), Some("1"));
    assert_eq!(sent.header(&format!("x-added-{}", MAX_ADDED_HEADERS - 1)), Some("1"));
    assert_eq!(proxy.post(&with(most + 1), call).await.status, 431);
}

/// A timeout that the clock can't represent becomes the longest possible one.
#[tokio::test]
async fn timeouts_beyond_the_range_of_the_clock_are_accepted() {
    for timeout in ["1e19", "inf"] {
        let world = World::new().await;
        let options = [
            "--timeout",
            "--connect-timeout",
            "--read-timeout",
            "--write-timeout",
            "--tool-timeout",
        ];
        let arguments: Vec<&str> =
            options.into_iter().flat_map(|option| [option, timeout]).collect();
        let mut proxy = Listening::start(&world, &THREE, &arguments).await;
        let session = proxy.session(SESSIONS).await;
        for profile in THREE {
            let call = format!(
                r#"{{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{{"name":"whoami","arguments":{{"aws_profile":"{profile}"}}}}}}"#
            );
            let called = proxy.post(&lines(&session), &call).await.message().await;
            assert_eq!(text(&called), world.home.identity(profile), "{timeout}");
        }
        proxy.proxy.signal(rustix::process::Signal::TERM);
        let (status, errors) = proxy.proxy.ended().await;
        assert!(status.success() && !errors.contains("panicked"), "{errors}");
    }
}
