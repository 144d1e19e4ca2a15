//! Streams that are cut within an event.

use sigward_tests::upstream::{ID, Received, Reply, Step};

use super::{FOLLOWED, result};
use crate::agent::{Agent, SESSIONS};
use crate::setup::{THREE, World, text};

/// Servers write an event's id before its data: an event that is cut within its data wasn't received (WHATWG HTML,
/// 9.2.6).
#[tokio::test]
async fn a_response_cut_within_its_data_is_resumed() {
    for (side, profile) in FOLLOWED {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &[]).await;
        text(&agent.call_as("whoami", profile).await);
        let id = agent.next_id().to_string();
        let answer = result(&id, "whole");
        world.upstream.hook(move |request| match request.header("last-event-id")? {
            "1" => Some(Reply::Stream(vec![Step::Event("2".to_owned(), answer.clone())])),
            _ => Some(Reply::Http(400, Vec::new(), String::new())),
        });
        let begun = "retry: 1\nid: 1\ndata:\n\nid: 2\ndata: {\"jsonr".to_owned();
        world.upstream.next("tools/call", Reply::Stream(vec![Step::Raw(begun), Step::Cut]));
        let called = agent.call_as("write_note", profile).await;
        assert_eq!(text(&called), "whole", "{side:?} {profile}");
    }
}

/// The GET stream, too, is resumed after the last complete event.
#[tokio::test]
async fn a_get_stream_cut_within_an_event_loses_no_message() {
    for (side, profile) in FOLLOWED {
        let world = World::new().await;
        let note = |number: u8| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"data":{number}}}}}"#
            )
        };
        let identity = world.home.identity(profile).to_owned();
        let notes = [note(1), note(2)];
        world.upstream.hook(move |request: &Received| {
            if request.http_method != "GET" || request.identity() != identity {
                return None;
            }
            let half = format!("id: 2\ndata: {}", &notes[1][..20]);
            Some(match request.header("last-event-id") {
                None => Reply::Stream(vec![
                    Step::Raw("retry: 1\n\n".to_owned()),
                    Step::Event("1".to_owned(), notes[0].clone()),
                    Step::Raw(half),
                    Step::Cut,
                ]),
                Some("1") => Reply::Stream(vec![Step::Event("2".to_owned(), notes[1].clone())]),
                Some(_) => Reply::Http(405, Vec::new(), String::new()),
            })
        });
        let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &[]).await;
        text(&agent.call_as("whoami", profile).await);
        for number in [1, 2] {
            agent.expect_line("the note", |line| line == note(number)).await;
        }
    }
}

/// Load balancers cut idle streams. That must not make the delay before a reconnection longer each time.
#[tokio::test]
async fn an_idle_get_stream_reconnects_without_longer_delays() {
    let world = World::new().await;
    let quiet = std::time::Duration::from_millis(150);
    world.upstream.hook(move |request: &Received| {
        let is_get = request.http_method == "GET";
        is_get.then(|| Reply::Stream(vec![Step::Raw(": hello\n\n".to_owned()), Step::Pause(quiet)]))
    });
    let retry = Reply::Stream(vec![Step::Raw("retry: 60\n\n".to_owned())]);
    world.upstream.next("GET", retry);
    let _client = world.client(&["dev"], &[]).await;
    // With delays that double, this would take a quarter of an hour.
    world
        .upstream
        .expect("the fifteenth stream", |it| it.http_method == "GET" && it.number > 15)
        .await;
}

/// Servers may spell the id differently; the client gets its own spelling.
#[tokio::test]
async fn a_response_with_another_spelling_of_the_id_is_accepted() {
    let world = World::new().await;
    let mut client = world.client(&["dev"], &[]).await;
    for (id, spelt) in [("1.0", "1"), ("1e2", "100"), (r#""\u0061""#, r#""a""#)] {
        for reply in [
            Reply::Json(result(spelt, "mine")),
            Reply::Stream(vec![Step::Data(result(spelt, "mine"))]),
        ] {
            world.upstream.next("tools/call", reply);
            client
                .send(&format!(
                    r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"echo"}}}}"#
                ))
                .await;
            let expected = result(id, "mine");
            client.expect_line("the response", |line| line == expected).await;
        }
    }
    // The control: the client's spelling.
    world.upstream.next("tools/call", Reply::Json(result(ID, "mine")));
    text(&client.call("echo", "{}").await);
}
