//! A response with a foreign id reaches no client, in any kind of answer (GHSA-345p-7cg4-v4c7).

use sigward_tests::upstream::{ID, Reply, Step};

use super::{all, result};
use crate::agent::Agent;
use crate::setup::{THREE, World, failure, text};

const SECRET: &str = "of somebody else";

/// Larger than what the proxy buffers before it passes an answer on.
fn large(text: &str) -> String {
    text.repeat((200 << 10) / text.len())
}

/// A foreign response in an event, or in a batch within one, is dropped, and the rest of the stream is read.
#[tokio::test]
async fn a_foreign_response_in_a_stream_is_dropped() {
    for (side, version, profile) in all() {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, version, &THREE, &[]).await;
        let (own, foreign) = (result(ID, "mine"), result(r#""other""#, SECRET));
        let error =
            format!(r#"{{"jsonrpc":"2.0","id":77,"error":{{"code":-1,"message":"{SECRET}"}}}}"#);
        let large_foreign = result("77", &large(SECRET));
        let streams = [
            vec![Step::Data(foreign.clone()), Step::Data(own.clone())],
            vec![Step::Data(error), Step::Data(own.clone())],
            vec![Step::Data(large_foreign), Step::Data(own.clone())],
            vec![Step::Data(format!("[{foreign},{own}]"))],
        ];
        for stream in streams {
            let shown = format!("{side:?} {version} {profile}: {:.200}", format!("{stream:?}"));
            world.upstream.next("tools/call", Reply::Stream(stream));
            let id = agent.call_later("write_note", profile).await;
            let line = agent.expect_line("the response", |line| line.contains("mine")).await;
            assert!(!line.contains(SECRET) && line.contains(&id.to_string()), "{shown}: {line}");
            let unread = agent.unread();
            assert!(!unread.iter().any(|line| line.contains(SECRET)), "{shown}: {unread:?}");
        }
    }
}

/// Without another response the call fails, and the content of the foreign one reaches no client.
#[tokio::test]
async fn a_call_that_gets_only_a_foreign_response_fails() {
    for (side, version, profile) in all() {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, version, &THREE, &[]).await;
        let foreign = result(r#""other""#, SECRET);
        let last = format!(
            r#"{{"jsonrpc":"2.0","result":{{"content":[{{"type":"text","text":"{}"}}]}},"id":77}}"#,
            large(SECRET)
        );
        for reply in [
            Reply::Json(foreign.clone()),
            Reply::Json(last.clone()),
            Reply::Stream(vec![Step::Data(foreign.clone())]),
            Reply::Stream(vec![Step::Data(last)]),
            Reply::Json(format!("[{foreign}]")),
        ] {
            let shown = format!("{side:?} {version} {profile}: {:.120}", format!("{reply:?}"));
            world.upstream.next("tools/call", reply);
            let failed = agent.call_as("write_note", profile).await;
            assert!(failure(&failed).contains("another request"), "{shown}: {failed}");
            let unread = agent.unread();
            assert!(!unread.iter().any(|line| line.contains(SECRET)), "{shown}: {unread:?}");
        }
        assert_eq!(world.upstream.requests_of("tools/call").len(), 5, "no call was resent");
    }
}

/// Two calls are in flight; the stream of the first carries a response to the second before its own.
#[tokio::test]
async fn a_response_in_the_stream_of_another_call_is_dropped() {
    for (side, version, profile) in all() {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, version, &THREE, &[]).await;
        text(&agent.call_as("whoami", profile).await);
        let (one, two) = (agent.next_id().to_string(), (agent.next_id() + 1).to_string());
        let steps = vec![Step::Data(result(&two, "two")), Step::Data(result(ID, "one"))];
        world.upstream.next("tools/call", Reply::Stream(steps));
        let first = agent.call_later("write_note", profile).await;
        assert_eq!(first.to_string(), one);
        world.upstream.expect("the first", |it| it.calls("write_note")).await;
        world.upstream.next("tools/call", Reply::Stream(vec![Step::Data(result(ID, "its own"))]));
        let second = agent.call_later("whoami", profile).await;
        assert_eq!(text(&agent.response(&first).await), "one", "{side:?} {version} {profile}");
        assert_eq!(text(&agent.response(&second).await), "its own", "{side:?} {version} {profile}");
    }
}

/// Large responses arrive whole, wherever in the message their id is.
#[tokio::test]
async fn large_responses_arrive_whole() {
    for (side, version, profile) in all() {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, version, &THREE, &[]).await;
        let long = large("mine");
        let first = result(ID, &long);
        let last = format!(
            r#"{{"jsonrpc":"2.0","result":{{"content":[{{"type":"text","text":"{long}"}}]}},"id":{ID}}}"#
        );
        for response in [first, last] {
            for reply in
                [Reply::Json(response.clone()), Reply::Stream(vec![Step::Data(response.clone())])]
            {
                world.upstream.next("tools/call", reply);
                assert_eq!(text(&agent.call_as("write_note", profile).await), long);
            }
        }
    }
}

/// 2025-03-26 allows an array of messages in an event.
#[tokio::test]
async fn a_batch_in_an_event_is_split_into_messages() {
    let world = World::new().await;
    let note = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"x"}}"#;
    let mut client = sigward_tests::processes::StdioClient::start(world.private_proxy(&THREE, &[]));
    client.initialize_as("2025-03-26", "{}").await;
    for profile in ["dev", "prod"] {
        let batch = format!("[{note}, {}]", result(ID, "pong"));
        world.upstream.next("tools/call", Reply::Stream(vec![Step::Data(batch)]));
        let called = client.call("echo", &format!(r#"{{"aws_profile":"{profile}"}}"#)).await;
        assert_eq!(text(&called), "pong");
        client.expect_line("the notification", |line| line == note).await;
    }
}
