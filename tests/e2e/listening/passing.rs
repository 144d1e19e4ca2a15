//! A reverse proxy doesn't change statuses, headers, the framing of events or their timing.

use sigward_tests::upstream::{Gate, Reply, Step};

use crate::agent::{Agent, SESSIONS, STATELESS, Side};
use crate::http::{Listening, lines};
use crate::setup::{THREE, World, stateless, text};

/// A call of `tool` for a protocol version, with its headers.
async fn prepared(
    proxy: &Listening,
    version: &'static str,
    tool: &'static str,
) -> (Vec<(&'static str, String)>, String) {
    let params = format!(r#"{{"name":"{tool}","arguments":{{}}}}"#);
    let (headers, params) = match version {
        STATELESS => {
            let headers = [
                ("mcp-protocol-version", STATELESS),
                ("mcp-method", "tools/call"),
                ("mcp-name", tool),
            ];
            (headers.map(|(name, value)| (name, value.to_owned())).to_vec(), stateless(&params))
        }
        version => (proxy.session(version).await, params),
    };
    let call = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{params}}}"#);
    (headers, call)
}

#[tokio::test]
async fn events_are_forwarded_unchanged_and_at_once() {
    for version in [SESSIONS, STATELESS] {
        let world = World::new().await;
        let proxy = Listening::start(&world, &THREE, &[]).await;
        let (headers, call) = prepared(&proxy, version, "echo").await;
        let gates = [Gate::default(), Gate::default(), Gate::default()];
        let framed = [
            ": a comment\n\n",
            "retry: 1500\nid: s/1\nevent: message\ndata: {\"jsonrpc\":\"2.0\",\ndata: \"method\":\"notifications/x\"}\n\n",
            "id: s/2\nunknown: y\ndata: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n\n",
        ];
        let mut steps = Vec::new();
        for (text, gate) in framed.iter().zip(&gates) {
            steps.extend([Step::Wait(gate.clone()), Step::Raw((*text).to_owned())]);
        }
        world.upstream.next("tools/call", Reply::Stream(steps));
        gates[0].open();
        let mut answer = proxy.post(&lines(&headers), &call).await;
        assert!(answer.is_stream());
        for (number, expected) in framed.iter().enumerate() {
            gates[number].open();
            // The next event isn't sent yet: this one isn't held back for it.
            let event = answer.expect_event("an event").await;
            assert_eq!(event, *expected, "{version}");
        }
        assert_eq!(answer.event().await, None, "{version}");
    }
}

#[tokio::test]
async fn statuses_and_headers_are_forwarded() {
    for version in [SESSIONS, STATELESS] {
        let world = World::new().await;
        let proxy = Listening::start(&world, &THREE, &[]).await;
        let (headers, call) = prepared(&proxy, version, "echo").await;
        let mut headers = lines(&headers);
        headers.extend([("traceparent", "00-1-2-01"), ("x-own", "a=b c")]);
        for (status, wait, body) in [
            (200, "7", r#"{"jsonrpc":"2.0","id":7,"result":{"n":1.10}}"#),
            (400, "7", r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"no"}}"#),
            // Longer than a call may take; otherwise the proxy would resend it.
            (429, "3600", r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32000,"message":"slowly"}}"#),
            (503, "7", r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32000,"message":"later"}}"#),
        ] {
            let answered = vec![
                ("x-request-id", "r 1".to_owned()),
                ("retry-after", wait.to_owned()),
                ("set-cookie", "AWSALB=secret".to_owned()),
            ];
            world.upstream.next("tools/call", Reply::Http(status, answered, body.to_owned()));
            let answer = proxy.post(&headers, &call).await;
            assert_eq!(answer.status, status, "{version}");
            assert_eq!(answer.header("x-request-id"), Some("r 1"));
            assert_eq!(answer.header("retry-after"), Some(wait));
            assert_eq!(answer.header("set-cookie"), None, "the cookie is for another host");
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert_eq!(answer.text().await, body, "{version}");
        }
        let sent = world.upstream.requests_of("tools/call").pop().unwrap();
        assert_eq!(sent.header("x-own"), Some("a=b c"));
        assert_eq!(sent.header("traceparent"), Some("00-1-2-01"));
        let signed = sent.signature.unwrap().signed_headers;
        assert!(signed.iter().any(|name| name == "x-own"), "{signed:?}");
    }
}

/// With sessions, closing the connection doesn't cancel the call: it continues, and the session stays.
#[tokio::test]
async fn with_sessions_a_closed_connection_does_not_cancel_the_call() {
    let world = World::new().await;
    let mut agent = Agent::start(&world, Side::Listening, SESSIONS, &THREE, &[]).await;
    text(&agent.call_as("whoami", "prod").await);
    let (listening, session) = agent.http();
    let call = r#"{"jsonrpc":"2.0","id":77,"method":"tools/call","params":{"name":"slow","arguments":{"aws_profile":"prod"}}}"#;
    let answer = listening.post(&session, call).await;
    world.upstream.expect("the call", |it| it.calls("slow")).await;
    drop(answer);
    // A session's requests are identified by id: while this one runs, its id is in use.
    let taken = listening.post(&session, call).await.message().await;
    assert!(taken["error"].is_object(), "{taken}");
    world.upstream.slow().open();
    text(&agent.call_as("whoami", "prod").await);
    assert_eq!(world.upstream.requests_of("notifications/cancelled").len(), 0);
    assert_eq!(world.upstream.requests_of("initialize").len(), 2);
}

/// In 2026-07-28, closing the connection cancels the call.
#[tokio::test]
async fn without_sessions_a_closed_connection_cancels_the_call() {
    for profile in ["dev", "prod"] {
        let world = World::new().await;
        let mut agent = Agent::start(&world, Side::Listening, STATELESS, &THREE, &[]).await;
        let id = agent.call_later("slow", profile).await;
        let call = world.upstream.expect("the call", |it| it.calls("slow")).await;
        agent.cancel(&id).await;
        world.upstream.expect_abandoned(&call).await;
        text(&agent.call_as("whoami", profile).await);
        assert_eq!(world.upstream.requests_of("notifications/cancelled").len(), 0);
    }
}
