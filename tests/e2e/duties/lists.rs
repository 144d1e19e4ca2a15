//! Paged lists.

use serde_json::{Value, json};
use sigward_tests::upstream::Reply;

use super::all;
use crate::agent::{Agent, SESSIONS, STATELESS, Side};
use crate::setup::{THREE, World, failure, rpc_error, stateless, text};

/// Every page offers the profiles; the cursor is the server's own, and a list with injected arguments is private.
#[tokio::test]
async fn every_page_of_tools_offers_the_profiles() {
    for (side, version) in all() {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, version, &THREE, &[]).await;
        let (mut cursor, mut names) = (None, Vec::new());
        loop {
            let params = cursor.map_or(json!({}), |cursor: Value| json!({ "cursor": cursor }));
            let page = agent.request("tools/list", &params.to_string()).await;
            let result = &page["result"];
            for tool in result["tools"].as_array().unwrap() {
                names.push(tool["name"].as_str().unwrap().to_owned());
                let own = tool["name"] == "switch_account";
                let argument = if own { "proxy_aws_profile" } else { "aws_profile" };
                let offered = &tool["inputSchema"]["properties"][argument]["enum"];
                assert_eq!(*offered, json!(THREE), "{side:?} {version}: {tool}");
            }
            if version == STATELESS {
                assert_eq!(result["cacheScope"], "private", "{side:?}");
                assert_eq!(result["ttlMs"], 60000);
            }
            if result["nextCursor"].is_null() {
                break;
            }
            cursor = Some(result["nextCursor"].clone());
        }
        assert_eq!(names.len(), 6, "{side:?} {version}: {names:?}");
        let lists = world.upstream.requests_of("tools/list");
        assert_eq!(lists.len(), 2);
        assert_eq!(lists[1].param("/cursor"), "page 2/+=");
    }
}

/// With one profile, nothing is injected.
#[tokio::test]
async fn a_list_with_one_profile_stays_public() {
    for side in crate::agent::SIDES {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, STATELESS, &["dev"], &[]).await;
        let page = agent.request("tools/list", "{}").await;
        assert_eq!(page["result"]["cacheScope"], "public", "{side:?}");
        assert!(!page.to_string().contains("proxy_aws_profile"));
    }
}

/// A server that sends messages while the proxy itself lists the tools blocks no call: over HTTP, no client may be
/// there to read them.
#[tokio::test]
async fn messages_during_a_list_block_no_call() {
    let note = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n";
    for (side, version) in all() {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, version, &THREE, &["--read-only"]).await;
        let list = r#"{"jsonrpc":"2.0","id":$ID,"result":{"tools":[{"name":"whoami","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true}}]}}"#;
        let steps = vec![
            sigward_tests::upstream::Step::Raw(note.repeat(200)),
            sigward_tests::upstream::Step::Data(list.to_owned()),
        ];
        world.upstream.next("tools/list", Reply::Stream(steps));
        let called = agent.call_as("whoami", "prod").await;
        assert_eq!(text(&called), world.home.identity("prod"), "{side:?} {version}");
        if side == Side::Stdio && version == SESSIONS {
            let notes = agent.unread().len();
            assert!(notes <= 200, "{notes}");
        }
    }
}

/// An endless list is an error, not a loop.
#[tokio::test]
async fn an_endless_list_is_an_error() {
    let world = World::new().await;
    let mut agent = Agent::start(&world, Side::Stdio, SESSIONS, &THREE, &["--read-only"]).await;
    world.upstream.hook(|request| {
        (request.method() == "tools/list")
            .then(|| Reply::Result(r#"{"tools":[],"nextCursor":"again"}"#.to_owned()))
    });
    let failed = agent.call("whoami", "{}").await;
    assert!(crate::setup::failure(&failed).contains("never ends"), "{failed}");
    world.upstream.hook(|_| None);
    text(&agent.call("whoami", "{}").await);
    rpc_error(&agent.request("no/such", "{}").await);
}

/// A definition with deeper nesting than any reader accepts is omitted; the others are listed.
#[tokio::test]
async fn a_tool_with_too_deep_nesting_is_omitted() {
    for (side, version) in all() {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, version, &THREE, &[]).await;
        let deep = format!(
            "{}{{\"x-mcp-header\":\"A\"}}{}",
            r#"{"anyOf":["#.repeat(50_000),
            "]}".repeat(50_000)
        );
        let list = format!(
            r#"{{"tools":[{{"name":"deep","inputSchema":{deep}}},{{"name":"whoami","inputSchema":{{"type":"object"}}}}]}}"#
        );
        world.upstream.next("tools/list", Reply::Result(list));
        let listed = agent.request("tools/list", "{}").await;
        let tools = listed["result"]["tools"].as_array().unwrap();
        assert_eq!(tools.len(), 1, "{side:?} {version}");
        assert_eq!(tools[0]["name"], "whoami");
        text(&agent.call_as("whoami", "prod").await);
    }
}

/// Denied tools are in no list, and can't be called in any spelling; headers about a call make no difference.
#[tokio::test]
async fn denied_tools_are_neither_listed_nor_called() {
    for (side, version) in all() {
        let world = World::new().await;
        let denied = ["--tools-deny", "write_*"];
        let mut agent = Agent::start(&world, side, version, &THREE, &denied).await;
        for round in ["before any list", "after it"] {
            for params in [
                r#"{"name":"write_note","arguments":{}}"#,
                r#"{"name":"write_note","arguments":{"aws_profile":"prod"}}"#,
                r#"{"name":"write\u005fnote","arguments":{}}"#,
                r#"{"n\u0061me":"write_note","arguments":{}}"#,
                r#"{"name":"whoami","name":"write_note","arguments":{}}"#,
                r#"{"name":"write_note","name":"whoami","arguments":{}}"#,
                r#"{"arguments":{}}"#,
                r#"{"name":["write_note"]}"#,
            ] {
                let refused = agent.request("tools/call", params).await;
                assert!(!failure(&refused).is_empty(), "{side:?} {version} {round} {params}");
            }
            let mut page = agent.request("tools/list", "{}").await;
            while !page["result"]["nextCursor"].is_null() {
                assert!(!page.to_string().contains("write_note"), "{side:?} {version}");
                let params = json!({ "cursor": page["result"]["nextCursor"] }).to_string();
                page = agent.request("tools/list", &params).await;
            }
            assert!(!page.to_string().contains("write_note"), "{side:?} {version}");
        }
        if side == Side::Listening {
            let (listening, session) = agent.http();
            let params = match version {
                STATELESS => stateless(r#"{"name":"write_note"}"#),
                _ => r#"{"name":"write_note"}"#.to_owned(),
            };
            let call =
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
            let misleading = [("mcp-method", "tools/list"), ("mcp-name", "whoami")];
            let refused = listening.post(&[&session[..], &misleading].concat(), &call).await;
            assert!(failure(&refused.message().await).contains("--tools-deny"));
        }
        let called = world
            .upstream
            .requests()
            .into_iter()
            .filter(|it| it.method() == "tools/call" && it.text().contains("note"));
        assert_eq!(called.count(), 0, "{side:?} {version}: no call was sent");
        text(&agent.call_as("whoami", "prod").await);
    }
}

/// The attack: a call without an id bypasses the rules for tools or the profile.
#[tokio::test]
async fn a_call_without_an_id_is_refused() {
    for (side, version) in all() {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, version, &THREE, &[]).await;
        let params = r#"{"name":"write_note","arguments":{"aws_profile":"prod"}}"#;
        let params = match version {
            STATELESS => stateless(params),
            _ => params.to_owned(),
        };
        for method in ["tools/call", r"tools\/call", r"tools/c\u0061ll"] {
            agent
                .send(&format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#))
                .await;
            let refused = agent.expect("the refusal", |it| it["error"].is_object()).await;
            assert_eq!(rpc_error(&refused).0, -32600, "{side:?} {version}");
        }
        text(&agent.call_as("whoami", "prod").await);
        let sent = world.upstream.requests().into_iter().filter(|it| it.text().contains("note"));
        assert_eq!(sent.count(), 0, "{side:?} {version}");
    }
}
