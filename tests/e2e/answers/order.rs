//! Messages that a client sends without waiting reach the server in order, and a call waits for the messages before it.

use serde_json::json;
use sigward_tests::processes::StdioClient;
use sigward_tests::upstream::{Gate, Received, Reply, Step};

use super::FOLLOWED;
use crate::agent::{Agent, SESSIONS, SIDES};
use crate::setup::{THREE, World, text};

fn note(number: usize) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/note","params":{{"n":{number}}}}}"#)
}

/// Notifications and calls in one write: the server gets the notifications in order, and each call after those before
/// it.
#[tokio::test]
async fn notifications_and_calls_arrive_in_order() {
    let world = World::new().await;
    let mut client = world.client(&["dev"], &[]).await;
    let (mut lines, mut calls) = (String::new(), Vec::new());
    for number in 0..40 {
        lines += &format!("{}\n", note(number));
        if number % 10 == 9 {
            calls.push(json!(format!("call {number}")));
            let params = format!(r#"{{"name":"echo","arguments":{{"n":{number}}}}}"#);
            lines += &format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":\"call {number}\",\"method\":\"tools/call\",\"params\":{params}}}\n"
            );
        }
    }
    client.send_bytes(lines.as_bytes()).await;
    for id in &calls {
        text(&client.response(id).await);
    }
    let requests = world.upstream.requests();
    let notes: Vec<_> = requests.iter().filter(|it| it.method() == "notifications/note").collect();
    let numbers: Vec<_> = notes.iter().map(|it| it.param("/n").as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..40).collect::<Vec<_>>());
    for call in requests.iter().filter(|it| it.calls("echo")) {
        let last = call.param("/arguments/n").as_u64().unwrap() as usize;
        assert!(notes[last].number < call.number, "the call overtook note {last}");
    }
}

/// A server that is slow to accept notifications gets one at a time, and delays no call.
#[tokio::test]
async fn a_flood_of_notifications_delays_no_call() {
    let world = World::new().await;
    let never = Gate::default();
    let held = never.clone();
    world.upstream.hook(move |request: &Received| {
        let is_note = request.method() == "notifications/note";
        is_note.then(|| Reply::Usual.held(&held))
    });
    let mut client = world.client(&["dev"], &[]).await;
    let lines: String = (0..3000).map(|number| note(number) + "\n").collect();
    client.send_bytes(lines.as_bytes()).await;
    text(&client.call("whoami", "{}").await);
    let notes = world.upstream.requests_of("notifications/note");
    assert_eq!(notes.len(), 1, "one at a time");
}

/// A script writes everything at once; messages after `initialize` wait for its response, and use its session.
#[tokio::test]
async fn messages_sent_with_initialize_wait_for_its_response() {
    for profile in ["dev", "prod"] {
        let world = World::new().await;
        let mut client = StdioClient::start(world.private_proxy(&THREE, &[]));
        let lines = [
            r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#,
            &format!(
                r#"{{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{{"name":"echo","arguments":{{"text":"piped","aws_profile":"{profile}"}}}}}}"#
            ),
            "",
        ];
        client.send_bytes(lines.join("\n").as_bytes()).await;
        assert!(client.response(&json!(1)).await["result"].is_object());
        assert!(client.response(&json!(2)).await["result"].is_object());
        assert_eq!(text(&client.response(&json!(3)).await), r#"{"text":"piped"}"#, "{profile}");
        let requests = world.upstream.requests();
        let ready = requests.iter().position(|it| it.method() == "notifications/initialized");
        let list = requests.iter().position(|it| it.method() == "tools/list");
        assert!(ready < list, "`initialized` is sent before the list");
    }
}

/// Messages that wait for a handshake get an error when it fails.
#[tokio::test]
async fn a_failed_handshake_blocks_no_later_message() {
    let world = World::new().await;
    world.upstream.next("initialize", Reply::Error(-32000, "not today".to_owned()));
    let mut client = StdioClient::start(world.private_proxy(&THREE, &[]));
    let lines = [
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#,
        r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#,
        "",
    ];
    client.send_bytes(lines.join("\n").as_bytes()).await;
    assert_eq!(client.response(&json!(1)).await["error"]["message"], "not today");
    assert!(client.response(&json!(2)).await["error"].is_object(), "there is no session");
    client.initialize().await;
    text(&client.call("whoami", "{}").await);
}

/// Two servers use the same progress token; each gets only the progress of its own request.
#[tokio::test]
async fn progress_goes_to_the_server_that_requested_it() {
    for side in SIDES {
        let world = World::new().await;
        let mut agent = Agent::unready(&world, side, SESSIONS, &THREE, &[]).await;
        agent.initialize(r#"{"sampling":{}}"#).await;
        let mut asked = Vec::new();
        for profile in ["dev", "prod"] {
            let question = format!(
                r#"{{"jsonrpc":"2.0","id":"{profile}","method":"sampling/createMessage","params":{{"of":"{profile}","_meta":{{"progressToken":0}}}}}}"#
            );
            let steps = vec![
                Step::Data(question),
                Step::AwaitResponse(format!("\"{profile}\"")),
                Step::UsualResponse,
            ];
            world.upstream.next("tools/call", Reply::Stream(steps));
            let call = agent.call_later("write_note", profile).await;
            let question = agent.expect("a question", |it| it["params"]["of"] == profile).await;
            asked.push((profile, call, question));
        }
        for (profile, call, question) in asked.iter().rev() {
            let token = &question["params"]["_meta"]["progressToken"];
            for progress in [1, 2] {
                let report = json!({
                    "jsonrpc": "2.0", "method": "notifications/progress",
                    "params": {"progressToken": token, "progress": progress, "message": profile},
                });
                agent.send(&report.to_string()).await;
            }
            agent.answer(question, "{}").await;
            text(&agent.response(call).await);
            let requests = world.upstream.requests();
            let of_profile = |it: &&Received| it.param("/message") == *profile;
            let reports: Vec<_> = requests.iter().filter(of_profile).collect();
            assert_eq!(reports.len(), 2, "{side:?} {profile}");
            for (report, progress) in reports.iter().zip([1, 2]) {
                assert_eq!(report.identity(), world.home.identity(profile), "{side:?}");
                assert_eq!(report.param("/progressToken"), 0, "{side:?}: its own token");
                assert_eq!(report.param("/progress"), progress, "{side:?}: in order");
            }
            let id = format!("\"{profile}\"");
            let answer = requests.iter().find(|it| it.is_response_to(&id));
            assert!(answer.unwrap().number > reports[1].number, "{side:?}: the answer is the last");
        }
    }
}

/// A question of a lost session can't be answered any more, so the client's dialog is closed.
#[tokio::test]
async fn questions_of_a_lost_session_are_cancelled() {
    for (side, profile) in FOLLOWED {
        let world = World::new().await;
        let mut agent = Agent::unready(&world, side, SESSIONS, &THREE, &[]).await;
        agent.initialize(r#"{"roots":{}}"#).await;
        text(&agent.call_as("whoami", profile).await);
        let question = r#"{"jsonrpc":"2.0","id":0,"method":"roots/list"}"#;
        let session = world.upstream.sessions_of(world.home.identity(profile)).remove(0);
        world.upstream.push(&session, question).await;
        let stale = agent.expect("the question", |it| it["method"] == "roots/list").await;
        world.upstream.forget_sessions_of(world.home.identity(profile));
        text(&agent.call_as("whoami", profile).await);
        let cancelled =
            agent.expect("its cancellation", |it| it["method"] == "notifications/cancelled").await;
        assert_eq!(cancelled["params"]["requestId"], stale["id"], "{side:?} {profile}");
        // A new question with the same id is cancelled separately.
        let session = world.upstream.sessions_of(world.home.identity(profile)).remove(0);
        world.upstream.push(&session, question).await;
        let fresh = agent.expect("the question", |it| it["method"] == "roots/list").await;
        let cancel =
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":0}}"#;
        world.upstream.push(&session, cancel).await;
        let cancelled =
            agent.expect("its cancellation", |it| it["method"] == "notifications/cancelled").await;
        assert_eq!(cancelled["params"]["requestId"], fresh["id"], "{side:?} {profile}");
    }
}
