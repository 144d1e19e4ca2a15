//! Headers that mirror a message, and entries that are added to its `_meta`.

use serde_json::{Value, json};
use sigward_tests::upstream::Reply;

use super::all;
use crate::agent::{Agent, SESSIONS, STATELESS, Side};
use crate::setup::{THREE, World, rpc_error, stateless, text};

/// 2026-07-28: method and name of each message, without the profile. Earlier versions have no such headers.
#[tokio::test]
async fn method_and_name_headers_match_the_message() {
    for version in [SESSIONS, STATELESS] {
        let world = World::new().await;
        let mut agent = Agent::start(&world, Side::Stdio, version, &THREE, &[]).await;
        for (method, params, name) in [
            ("tools/list", json!({}), None),
            (
                "tools/call",
                json!({"name": "echo", "arguments": {"aws_profile": "prod"}}),
                Some("echo"),
            ),
            ("tools/call", json!({"name": "switch_account"}), Some("switch_account")),
            ("resources/read", json!({"uri": "test://note"}), Some("test://note")),
            ("resources/read", json!({"uri": "test://nöte"}), Some("=?base64?dGVzdDovL27DtnRl?=")),
            ("prompts/get", json!({"name": "greet"}), Some("greet")),
            ("prompts/list", json!({}), None),
            ("tasks/get", json!({"taskId": "t 1"}), Some("t 1")),
            ("completion/complete", json!({"ref": {"type": "ref/prompt", "name": "greet"}}), None),
        ] {
            agent.request(method, &params.to_string()).await;
            let sent = world.upstream.requests_of(method).pop().unwrap();
            let stateless = version == STATELESS;
            assert_eq!(sent.header("mcp-method"), stateless.then_some(method));
            assert_eq!(sent.header("mcp-name"), name.filter(|_| stateless), "{method}");
            assert_eq!(sent.header("mcp-protocol-version"), Some(version), "{method}");
            assert_eq!(sent.header("mcp-session-id").is_some(), !stateless, "{method}");
            let signed = &sent.signature.as_ref().unwrap().signed_headers;
            for name in ["mcp-method", "mcp-name", "mcp-protocol-version"] {
                let is_signed = signed.iter().any(|it| it == name);
                assert_eq!(is_signed, sent.header(name).is_some(), "{method} {name}");
            }
        }
    }
}

/// The known definition of a tool is outdated: the list is read again, and the call is resent once.
#[tokio::test]
async fn a_header_mismatch_refreshes_the_tools() {
    for profile in ["dev", "prod"] {
        let world = World::new().await;
        let mut agent = Agent::start(&world, Side::Stdio, STATELESS, &THREE, &[]).await;
        let stale = r#"{"tools":[{"name":"lookup","inputSchema":{"type":"object","properties":{"region":{"type":"string"}}}}],"resultType":"complete"}"#;
        world.upstream.next("tools/list", Reply::Result(stale.to_owned()));
        agent.request("tools/list", "{}").await;
        let arguments = json!({"region": "eu", "aws_profile": profile}).to_string();
        let called = agent.call("lookup", &arguments).await;
        assert_eq!(text(&called), r#"{"region":"eu"}"#);
        let calls = world.upstream.requests_of("tools/call");
        let headers: Vec<_> = calls.iter().map(|call| call.header("mcp-param-region")).collect();
        assert_eq!(headers, [None, Some("eu")]);
        assert!(calls.iter().all(|call| call.identity() == world.home.identity(profile)));

        // The error of a server that accepts no header goes to the client.
        let mismatch = || Reply::Error(-32020, "never".to_owned());
        for _ in 0..3 {
            world.upstream.next("tools/call", mismatch());
        }
        let refused = agent.call("lookup", &arguments).await;
        assert_eq!(rpc_error(&refused), (-32020, "never"));
        let sent = world.upstream.requests_of("tools/call").len() - calls.len();
        assert!((1..=2).contains(&sent), "sent {sent} times");
    }
}

/// Requests get the region of the profile and `--metadata`, whatever their `params`; the client's own values take
/// precedence.
#[tokio::test]
async fn every_request_gets_the_metadata() {
    let regions = sigward_tests::aws_home::PROFILES;
    for (side, version) in all() {
        let world = World::new().await;
        let arguments = ["--metadata", "team=platform"];
        let mut agent = Agent::start(&world, side, version, &THREE, &arguments).await;
        for (profile, region) in regions {
            let params = format!(r#"{{"name":"echo","arguments":{{"aws_profile":"{profile}"}}}}"#);
            text(&agent.request("tools/call", &params).await);
            let sent = world.upstream.requests_of("tools/call").pop().unwrap();
            assert_eq!(sent.param("/_meta/AWS_REGION"), region, "{side:?} {version}");
            assert_eq!(sent.param("/_meta/team"), "platform");
        }
        let own = r#""AWS_REGION":"sa-east-1","n":[1.10]"#;
        let params = match version {
            STATELESS => stateless(r#"{"name":"echo"}"#)
                .replace(r#""_meta":{"#, &format!(r#""_meta":{{{own},"#)),
            _ => format!(r#"{{"name":"echo","_meta":{{{own}}}}}"#),
        };
        agent
            .send(&format!(
                r#"{{"jsonrpc":"2.0","id":800,"method":"tools/call","params":{params}}}"#
            ))
            .await;
        text(&agent.response(&json!(800)).await);
        let sent = world.upstream.requests_of("tools/call").pop().unwrap();
        assert_eq!(sent.param("/_meta/AWS_REGION"), "sa-east-1");
        assert!(sent.text().contains("[1.10]"));
        if version == STATELESS {
            continue;
        }
        // No params, and positional params, which can't hold it.
        for (text, region) in [
            (r#"{"jsonrpc":"2.0","id":801,"method":"ping"}"#, json!("us-west-2")),
            (r#"{"jsonrpc":"2.0","id":802,"method":"ping","params":{}}"#, json!("us-west-2")),
            (r#"{"jsonrpc":"2.0","id":803,"method":"ping","params":[1]}"#, Value::Null),
        ] {
            agent.send(text).await;
            let id: Value = serde_json::from_str::<Value>(text).unwrap()["id"].clone();
            agent.response(&id).await;
            let sent = world.upstream.requests_of("ping").pop().unwrap();
            assert_eq!(sent.param("/_meta/AWS_REGION"), region, "{side:?} {text}");
        }
    }
}
