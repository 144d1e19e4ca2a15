//! A client that speaks HTTP takes a stream up again by itself, and what it gets then is judged as the answer to the
//! call that it was part of; a stream that nobody can take up again ends with what became of the call.

use serde_json::Value;
use sigward_tests::upstream::{Reply, Step};

use crate::agent::{Agent, SESSIONS, STATELESS, Side};
use crate::http::{Listening, data, lines};
use crate::setup::{THREE, World, failure, stateless};

fn begun(id: &str) -> Reply {
    Reply::Stream(vec![Step::Event(id.to_owned(), String::new()), Step::Cut])
}

/// The rules for a list hold however many connections it takes.
#[tokio::test]
async fn a_list_offers_the_profiles_and_hides_tools() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &THREE, &["--tools-deny", "danger"]).await;
    let session = proxy.session(SESSIONS).await;
    let list = r#"{"jsonrpc":"2.0","id":5,"method":"tools/list"}"#;
    world.upstream.next("tools/list", begun("l/1"));
    let mut cut = proxy.post(&lines(&session), list).await;
    cut.expect_event("the beginning").await;
    assert_eq!(cut.event().await, None);
    assert!(cut.was_cut, "the client can go on, and sees that it has to");
    let tools = r#"{"jsonrpc":"2.0","id":5,"result":{"tools":[{"name":"danger","inputSchema":{"type":"object"}},{"name":"fine","inputSchema":{"type":"object"}}]}}"#;
    let foreign = r#"{"jsonrpc":"2.0","id":6,"result":{"tools":[]}}"#;
    world.upstream.next(
        "GET",
        Reply::Stream(vec![
            Step::Event("l/2".to_owned(), foreign.to_owned()),
            Step::Event("l/3".to_owned(), tools.to_owned()),
        ]),
    );
    let resumed = [&lines(&session)[..], &[("last-event-id", "l/1")]].concat();
    let text = proxy.get(&resumed).await.text().await;
    assert!(text.starts_with("id: l/2\n\n"), "its id counts, and nothing else of it: {text}");
    assert!(!text.contains("danger") && !text.contains(r#""id":6"#), "{text}");
    assert!(text.contains("fine") && text.contains("aws_profile"), "{text}");
}

/// No response belongs to what a server says on its own account.
#[tokio::test]
async fn responses_on_the_stream_of_the_server_are_dropped() {
    let world = World::new().await;
    let mut agent = Agent::start(&world, Side::Listening, SESSIONS, &THREE, &[]).await;
    let session = world.upstream.sessions_of(world.home.identity("dev")).remove(0);
    let poison = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, agent.next_id());
    world.upstream.push(&session, &poison).await;
    let note = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"behind"}}"#;
    world.upstream.push(&session, note).await;
    agent.expect_line("what came behind it", |line| line == note).await;
    assert_eq!(agent.unread(), [""; 0], "nothing else");
}

/// A stream without ids, or without sessions, that ends early is no silence.
#[tokio::test]
async fn a_stream_that_nobody_can_take_up_again_ends_with_an_error() {
    for (version, id) in [(SESSIONS, ""), (STATELESS, "id: s/1\n")] {
        for end in [None, Some(Step::Cut)] {
            let world = World::new().await;
            let proxy = Listening::start(&world, &["dev"], &[]).await;
            let params = r#"{"name":"echo","arguments":{}}"#;
            let (headers, params) = match version {
                STATELESS => {
                    let headers = [
                        ("mcp-protocol-version", STATELESS),
                        ("mcp-method", "tools/call"),
                        ("mcp-name", "echo"),
                    ];
                    let headers = headers.map(|(name, value)| (name, value.to_owned()));
                    (headers.to_vec(), stateless(params))
                }
                _ => (proxy.session(SESSIONS).await, params.to_owned()),
            };
            let note = format!(
                "{id}data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}}\n\n{id}data: {{\"jsonrpc\""
            );
            let steps = [Step::Raw(note)].into_iter().chain(end).collect();
            world.upstream.next("tools/call", Reply::Stream(steps));
            let call =
                format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{params}}}"#);
            let mut answer = proxy.post(&lines(&headers), &call).await;
            assert!(answer.expect_event("the note").await.contains("notifications/x"));
            let event = answer.expect_event("the end").await;
            let message: Value = serde_json::from_str(&data(&event)).unwrap();
            assert_eq!(message["id"], 7, "{event}");
            assert!(!failure(&message).is_empty(), "{event}");
            assert_eq!((answer.event().await, answer.was_cut), (None, false), "{version}");
            assert_eq!(world.upstream.requests_of("tools/call").len(), 1, "never sent again");
        }
    }
}
