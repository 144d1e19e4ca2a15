//! An HTTP client resumes a stream itself, and the resumed stream is checked as the response to the original call. A
//! stream that can't be resumed ends with an error for the call.

use serde_json::Value;
use sigward_tests::upstream::{Gate, Received, Reply, Step};

use crate::agent::{Agent, SESSIONS, STATELESS, Side};
use crate::http::{Listening, data, lines};
use crate::setup::{THREE, World, failure, stateless, text};

fn begun(id: &str) -> Reply {
    Reply::Stream(vec![Step::Event(id.to_owned(), String::new()), Step::Cut])
}

/// The rules for lists apply however many connections a list takes.
#[tokio::test]
async fn a_resumed_list_has_the_profile_argument_and_no_hidden_tools() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &THREE, &["--tools-deny", "danger"]).await;
    let session = proxy.session(SESSIONS).await;
    let list = r#"{"jsonrpc":"2.0","id":5,"method":"tools/list"}"#;
    world.upstream.next("tools/list", begun("l/1"));
    let mut cut = proxy.post(&lines(&session), list).await;
    cut.expect_event("the beginning").await;
    assert_eq!(cut.event().await, None);
    assert!(cut.was_cut, "the client must see that the stream was cut");
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
    assert!(
        text.starts_with("id: l/2\n\n"),
        "only the id of the foreign event is forwarded: {text}"
    );
    assert!(!text.contains("danger") && !text.contains(r#""id":6"#), "{text}");
    assert!(text.contains("fine") && text.contains("aws_profile"), "{text}");
}

/// A stream resumed after an event of no known call is the server's own stream: its messages are forwarded, also those
/// of other profiles, but no list that the rules haven't checked.
#[tokio::test]
async fn a_stream_resumed_after_an_unknown_event_is_checked() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &THREE, &["--tools-deny", "danger"]).await;
    let session = proxy.session(SESSIONS).await;
    let call = r#"{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"whoami","arguments":{"aws_profile":"prod"}}}"#;
    proxy.post(&lines(&session), call).await.message().await;
    let tools = r#"{"jsonrpc":"2.0","id":5,"result":{"tools":[{"name":"danger","inputSchema":{"type":"object"}}]}}"#;
    let note = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"behind"}}"#;
    let open = Gate::default();
    world.upstream.next(
        "GET",
        Reply::Stream(vec![
            Step::Event("x/2".to_owned(), tools.to_owned()),
            Step::Event("x/3".to_owned(), note.to_owned()),
            Step::Wait(open.clone()),
        ]),
    );
    let resumed = [&lines(&session)[..], &[("last-event-id", "x/1")]].concat();
    let mut stream = proxy.get(&resumed).await;
    let sent = world.upstream.expect("the GET", |it| it.header("last-event-id").is_some()).await;
    assert_eq!(sent.header("last-event-id"), Some("x/1"));
    assert_eq!(stream.expect_event("the id of the list").await, "id: x/2\n\n");
    assert_eq!(data(&stream.expect_event("the note").await), note);
    let prod = world.upstream.sessions_of(world.home.identity("prod")).remove(0);
    let other = note.replace("behind", "of prod");
    world.upstream.push(&prod, &other).await;
    assert_eq!(data(&stream.expect_event("the note of prod").await), other);
    open.open();
}

/// AWS's error for a lost session, too late in a stream to resend the call: the client's next request gets a 404.
#[tokio::test]
async fn a_session_lost_in_a_stream_ends_for_the_client() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &THREE, &[]).await;
    let session = proxy.session(SESSIONS).await;
    let call = |profile: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"echo","arguments":{{"aws_profile":"{profile}"}}}}}}"#
        )
    };
    proxy.post(&lines(&session), &call("prod")).await.message().await;
    let note = r#"{"jsonrpc":"2.0","method":"notifications/x"}"#;
    let lost = r#"{"jsonrpc":"2.0","id":7,"error":{"code":-30001,"message":"expired"}}"#;
    let calls = || world.upstream.requests_of("tools/call").len();
    let before = calls();
    world.upstream.next(
        "tools/call",
        Reply::Stream(vec![Step::Data(note.to_owned()), Step::Data(lost.to_owned())]),
    );
    let answer = proxy.post(&lines(&session), &call("dev")).await.text().await;
    assert!(answer.contains(note) && answer.contains(lost), "{answer}");
    assert_eq!(calls() - before, 1, "never sent again");
    let again = proxy.post(&lines(&session), &call("dev")).await;
    assert_eq!(again.status, 404, "a 404 makes the client initialize again");
    assert_eq!(calls() - before, 1, "nothing is sent to the lost session");
    let of_prod = |request: &Received| {
        request.http_method == "DELETE" && request.identity() == world.home.identity("prod")
    };
    world.upstream.expect("the end of prod's session", of_prod).await;
}

/// Events of a call in another profile's session are forwarded without ids, though the server's have ids: these name
/// events of another session, and the proxy stores none for clients that reconnect. The call is sent once.
#[tokio::test]
async fn a_call_of_another_profile_cannot_be_resumed() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &THREE, &[]).await;
    let session = proxy.session(SESSIONS).await;
    let note = r#"{"jsonrpc":"2.0","method":"notifications/x"}"#;
    let held = Gate::default();
    world.upstream.next(
        "tools/call",
        Reply::Stream(vec![
            Step::Event("p/1".to_owned(), note.to_owned()),
            Step::Wait(held.clone()),
            Step::UsualResponse,
        ]),
    );
    let call = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"aws_profile":"prod"}}}"#;
    let mut answer = proxy.post(&lines(&session), call).await;
    let event = answer.expect_event("the note").await;
    assert_eq!(event, format!("event: message\ndata: {note}\n\n"), "no id");
    drop(answer);
    held.open();
    let next = call.replace("\"id\":7", "\"id\":8").replace("echo", "whoami");
    let next = proxy.post(&lines(&session), &next).await.message().await;
    assert_eq!(text(&next), world.home.identity("prod"), "its session is still usable");
    let made = world.upstream.requests().into_iter().filter(|it| it.calls("echo")).count();
    assert_eq!(made, 1);
}

/// The server's own stream carries requests and notifications only.
#[tokio::test]
async fn responses_in_the_server_s_own_stream_are_dropped() {
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

/// Without ids or without sessions, the client can't resume a stream that ends early, and must not wait in vain.
#[tokio::test]
async fn a_stream_that_cannot_be_resumed_ends_with_an_error() {
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
