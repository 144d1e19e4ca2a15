//! A message that two readers understand differently is refused, whatever the proxy was told of tools.

use serde_json::Value;
use sigward_tests::upstream::Reply;

use crate::agent::{Agent, SESSIONS, SIDES};

use crate::setup::{THREE, World, text};

/// A rule for tools holds against keys that the server reads and the proxy doesn't: Go's decoders don't tell `Name` from
/// `name`, others take the last of two.
#[tokio::test]
async fn rules_hold_against_keys_in_another_spelling() {
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

/// A body in another encoding says something else to a server that decodes it.
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

/// Much work for few bytes would be work for the only thread: requests of a mebibyte that try are answered at once, and
/// so is what comes behind them.
#[tokio::test]
async fn much_of_anything_is_read_in_no_time() {
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
    assert!(!names.iter().any(|tool| tool["name"] == "odd"), "it leaves no name for the argument");
    client.response(&pinging).await;
    // A square of these would take minutes in this build.
    assert!(started.elapsed().as_secs() < 15, "{:?}", started.elapsed());
}
