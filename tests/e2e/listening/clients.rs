//! Many clients at once: each has its own sessions and gets no message of the others.

use futures_util::future::join_all;
use serde_json::{Value, json};
use sigward_tests::upstream::{Received, Reply, Step};

use crate::agent::{SESSIONS, STATELESS};
use crate::http::{Answer, Listening, data, lines};
use crate::setup::{THREE, World, stateless, text};

const CLIENTS: usize = 50;

/// The messages that a client gets before its response, and the response.
async fn messages_and_response(mut answer: Answer) -> (Vec<Value>, Value) {
    assert_eq!(answer.status, 200);
    if !answer.is_stream() {
        return (Vec::new(), answer.message().await);
    }
    let mut messages = Vec::new();
    loop {
        let event = answer.expect_event("the response").await;
        let Ok(message) = serde_json::from_str::<Value>(&data(&event)) else { continue };
        if message.get("method").is_none() {
            return (messages, message);
        }
        messages.push(message);
    }
}

/// Before each response to `echo`, a progress notification in the same stream, which names the caller.
fn note_of_caller(request: &Received) -> Option<Reply> {
    request.calls("echo").then(|| {
        let whose = request.param("/arguments/from");
        let note = json!({
            "jsonrpc": "2.0",
            "method": "notifications/progress",
            "params": {"progressToken": 1, "progress": 1, "message": whose},
        });
        Reply::Stream(vec![Step::Data(note.to_string()), Step::UsualResponse])
    })
}

#[tokio::test]
async fn each_of_many_clients_gets_only_its_own_messages() {
    let world = World::new().await;
    world.upstream.hook(note_of_caller);
    let proxy = Listening::start(&world, &THREE, &[]).await;
    let client = async |number: usize| {
        let session = proxy.session(SESSIONS).await;
        let session = lines(&session);
        let mut stream = proxy.get(&session).await;
        for (round, profile) in THREE.iter().cycle().skip(number).take(3).enumerate() {
            let arguments = json!({"aws_profile": profile, "from": number, "round": round});
            // All clients use the same ids.
            let call = format!(
                r#"{{"jsonrpc":"2.0","id":{round},"method":"tools/call","params":{{"name":"echo","arguments":{arguments},"_meta":{{"progressToken":1}}}}}}"#
            );
            let (notes, response) = messages_and_response(proxy.post(&session, &call).await).await;
            assert_eq!(response["id"], round);
            let echoed: Value = serde_json::from_str(text(&response)).unwrap();
            assert_eq!(echoed, json!({"from": number, "round": round}));
            let callers: Vec<_> = notes.iter().map(|it| &it["params"]["message"]).collect();
            assert_eq!(callers, [number]);
        }
        // A message that the server sends unasked goes to the client of that session.
        let mine = session[0].1.to_owned();
        let pushed = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"data":"{mine}"}}}}"#
        );
        world.upstream.push(&mine, &pushed).await;
        let event = stream.expect_event("what the server pushed").await;
        assert_eq!(data(&event), pushed);
        mine
    };
    let sessions = join_all((0..CLIENTS).map(client)).await;
    assert_eq!(sessions.len(), CLIENTS);
    for profile in THREE {
        let open = world.upstream.sessions_of(world.home.identity(profile));
        assert_eq!(open.len(), CLIENTS, "{profile}: one for each client");
    }
    assert!(world.upstream.requests().iter().all(|it| it.signature.is_ok()));
}

/// Requests from the sessions of other profiles reach the client that owns these sessions, and no other.
#[tokio::test]
async fn server_requests_reach_only_the_client_of_the_session() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &THREE, &[]).await;
    let client = async |number: usize| {
        let profile = THREE[number % 3];
        let session = proxy.session(SESSIONS).await;
        let session = lines(&session);
        let mut stream = proxy.get(&session).await;
        let before = world.upstream.requests().len();
        let marked = json!({"aws_profile": profile, "marked": number}).to_string();
        let call = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"echo","arguments":{marked}}}}}"#
        );
        text(&proxy.post(&session, &call).await.message().await);
        let call = world.upstream.requests().split_off(before);
        let call = call.iter().find(|it| it.param("/arguments/marked") == number).unwrap().clone();
        let upstream = call.header("mcp-session-id").unwrap().to_owned();
        let question = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"sampling/createMessage","params":{{"for":{number}}}}}"#
        );
        world.upstream.push(&upstream, &question).await;
        let asked = stream.expect_event("the question").await;
        let asked: Value = serde_json::from_str(&data(&asked)).unwrap();
        assert_eq!(asked["params"]["for"], number, "another client's question");
        let answer =
            format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"for":{number}}}}}"#, asked["id"]);
        assert_eq!(proxy.post(&session, &answer).await.status, 202);
        let back = |it: &Received| {
            it.is_response_to("0") && it.header("mcp-session-id") == Some(&upstream)
        };
        let back = world.upstream.expect("the answer", back).await;
        assert!(back.text().contains(&format!(r#"{{"for":{number}}}"#)), "{}", back.text());
    };
    join_all((0..CLIENTS).map(client)).await;
}

#[tokio::test]
async fn many_stateless_clients_can_use_the_same_ids() {
    let world = World::new().await;
    world.upstream.hook(note_of_caller);
    let proxy = Listening::start(&world, &THREE, &[]).await;
    let client = async |number: usize| {
        let profile = THREE[number % 3];
        let arguments = json!({"aws_profile": profile, "from": number});
        let params = stateless(&format!(r#"{{"name":"echo","arguments":{arguments}}}"#));
        let call = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        let headers = [
            ("mcp-protocol-version", STATELESS),
            ("mcp-method", "tools/call"),
            ("mcp-name", "echo"),
        ];
        let (notes, response) = messages_and_response(proxy.post(&headers, &call).await).await;
        assert_eq!(text(&response), json!({ "from": number }).to_string());
        let callers: Vec<_> = notes.iter().map(|it| &it["params"]["message"]).collect();
        assert_eq!(callers, [number]);
    };
    join_all((0..CLIENTS).map(client)).await;
    for (number, profile) in THREE.iter().enumerate() {
        let mut calls = world.upstream.requests_of("tools/call");
        calls.retain(|call| call.param("/arguments/from").as_u64().unwrap() as usize % 3 == number);
        assert!(calls.iter().all(|call| call.identity() == world.home.identity(profile)));
    }
}
