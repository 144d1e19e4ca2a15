//! A message that two readers would understand differently is refused, whatever the options for tools.

use serde_json::Value;
use sigward_tests::upstream::Reply;

use crate::agent::{Agent, SESSIONS, SIDES};

use crate::setup::{THREE, World, text};

/// The attack: keys that the server reads and the proxy doesn't bypass a rule for tools. Go's decoders ignore the case
/// of `Name`; others take the last of two keys.
#[tokio::test]
async fn tool_rules_hold_against_keys_in_another_spelling() {
    for side in SIDES {
        let world = World::new().await;
        let deny = ["--tools-deny", "danger"];
        let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &deny).await;
        text(&agent.call("echo", "{}").await);
        let before = world.upstream.requests().len();
        for body in [
            r#""method":"tools/call","params":{"name":"echo","Name":"danger"}"#,
            r#""method":"tools/call","params":{"name":"echo","NAME":"danger"}"#,
            r#""method":"tools/call","params":{"name":"echo","\u006eame":"danger"}"#,
            r#""method":"ping","Method":"tools/call","params":{"name":"danger"}"#,
            r#""method":"tools/call","params":{"name":"echo"},"Params":{"name":"danger"}"#,
            r#""method":"tools/call","params":{"name":"echo"},"params":{"name":"danger"}"#,
            r#""method":"tools/call","Params":{"name":"danger"}"#,
            r#""method":"tools/call","params":{"name":"echo","arguments":{},"arguments":{"a":1}}"#,
            r#""method":"tools/call","params":{"name":"danger"}"#,
        ] {
            let id = agent.next_id();
            let message = format!(r#"{{"jsonrpc":"2.0","id":{id},{body}}}"#);
            let refused = match side {
                crate::agent::Side::Stdio => {
                    agent.send(&message).await;
                    agent.response(&Value::from(id)).await
                }
                crate::agent::Side::Listening => {
                    let (listening, session) = agent.http();
                    listening.post(&session, &message).await.message().await
                }
            };
            let is_refused = refused["error"].is_object() || refused["result"]["isError"] == true;
            assert!(is_refused, "{side:?} {body}: {refused}");
        }
        assert_eq!(world.upstream.requests().len(), before, "{side:?}: nothing went upstream");
    }
}

/// A body in another encoding has another meaning to a server that decodes it.
#[tokio::test]
async fn an_encoded_body_is_refused() {
    let world = World::new().await;
    let agent = Agent::start(&world, crate::agent::Side::Listening, SESSIONS, &THREE, &[]).await;
    let (listening, session) = agent.http();
    let before = world.upstream.requests().len();
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    for headers in [
        vec![("content-type", "application/json"), ("content-encoding", "br")],
        vec![("content-type", "application/json"), ("content-encoding", "gzip")],
        vec![("content-type", "application/json; charset=utf-7")],
        vec![("content-type", "application/json"), ("content-type", "text/plain")],
    ] {
        let headers = [&session[..], &headers].concat();
        let refused = listening.request("POST", "/mcp", &headers, ping).await;
        assert_eq!(refused.status, 415, "{headers:?}");
    }
    assert_eq!(world.upstream.requests().len(), before);
    let headers =
        [&session[..], &[("content-type", "application/json; charset=\"UTF-8\"")]].concat();
    assert_eq!(listening.request("POST", "/mcp", &headers, ping).await.status, 200);
}

/// The attack: a few bytes that cause much work on the proxy's only thread. Such requests of a mebibyte are answered
/// quickly, and so are those behind them.
#[tokio::test]
async fn large_adversarial_messages_are_parsed_quickly() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    text(&client.call("whoami", "{}").await);
    let state = format!("sigward-sign-in:{}", "e30");
    let responses = r#""inputResponses":{},"#.repeat(20_000);
    let params = format!(
        r#"{{{responses}"requestState":"{state}","_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}}"#
    );
    let taken: String =
        (0..400).map(|n| format!(r#""{}aws_profile":{{}},"#, "proxy_".repeat(n))).collect();
    let odd = format!(
        r#"{{"name":"odd","inputSchema":{{"type":"object","properties":{{{taken}"z":{{}}}}}}}}"#
    );
    let hidden = r#"{"name":"h","inputSchema":{"type":"object","a":{"a":[[[]]]}}}"#;
    let list = format!(
        r#"{{"tools":[{}{},{odd},{{"name":"echo","annotations":{{"readOnlyHint":true}},"inputSchema":{{"type":"object"}}}}]}}"#,
        r#"{"name":"d"},"#.repeat(80_000),
        hidden
    );
    world.upstream.next("tools/list", Reply::Result(list));
    let started = std::time::Instant::now();
    let listing = client.start_request("tools/list", "{}").await;
    let pinging = client.start_request("ping", &params).await;
    let listed = client.response(&listing).await;
    let names = listed["result"]["tools"].as_array().unwrap();
    assert!(names.iter().any(|tool| tool["name"] == "echo"));
    assert!(
        !names.iter().any(|tool| tool["name"] == "odd"),
        "no name is left for the profile argument"
    );
    client.response(&pinging).await;
    // In quadratic time these would take minutes in a debug build.
    assert!(started.elapsed().as_secs() < 15, "{:?}", started.elapsed());
}
