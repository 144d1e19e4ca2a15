//! Streams that were cut, and GET streams: they are resumed where and how the protocol specifies it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sigward_tests::upstream::{Received, Reply, Step};

use crate::agent::{Agent, SESSIONS, SIDES, STATELESS, Side};
use crate::setup::{THREE, World, failure, text};

/// Sides and profiles whose calls the proxy itself reads up to the response.
const FOLLOWED: [(Side, &str); 3] =
    [(Side::Stdio, "dev"), (Side::Stdio, "prod"), (Side::Listening, "prod")];

fn cut_after(id: &str, retry: u32) -> Reply {
    let begun = format!("id: {id}\nretry: {retry}\ndata:\n\n");
    Reply::Stream(vec![Step::Raw(begun), Step::Cut])
}

fn resumes(id: &str) -> impl Fn(&Received) -> bool {
    let id = id.to_owned();
    move |it| it.http_method == "GET" && it.header("last-event-id") == Some(&id)
}

/// A call is resumed after the delay that the server asked for, with the last event's id, as often as it is cut; its
/// request is never resent.
#[tokio::test]
async fn a_call_whose_stream_was_cut_is_resumed() {
    for (side, profile) in FOLLOWED {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &[]).await;
        text(&agent.call_as("whoami", profile).await);
        let id = agent.next_id();
        let note = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"on"}}"#;
        let answer = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"resumed"}}]}}}}"#
        );
        world.upstream.hook(move |request| {
            let after = request.header("last-event-id").filter(|_| request.http_method == "GET");
            Some(match after? {
                "s/1" => Reply::Stream(vec![
                    Step::Event("s/2".to_owned(), note.to_owned()),
                    Step::Raw("retry: 10\n\n".to_owned()),
                    Step::Cut,
                ]),
                _ => Reply::Stream(vec![Step::Data(answer.clone())]),
            })
        });
        world.upstream.next("tools/call", cut_after("s/1", 400));
        let started = Instant::now();
        let called = agent.call_later("write_note", profile).await;
        assert_eq!(called, id);
        world.upstream.expect("the first resumption", resumes("s/1")).await;
        assert!(started.elapsed() >= Duration::from_millis(400), "after {:?}", started.elapsed());
        assert_eq!(text(&agent.response(&called).await), "resumed");
        let second = world.upstream.expect("the second resumption", resumes("s/2")).await;
        assert_eq!(second.identity(), world.home.identity(profile));
        assert!(second.header("mcp-session-id").is_some());
        agent.expect_line("the notification", |line| line == note).await;
        let calls = world.upstream.requests().into_iter().filter(|it| it.calls("write_note"));
        assert_eq!(calls.count(), 1, "{side:?} {profile}");
    }
}

/// If the server doesn't send the rest, the call fails: at once if it refuses, after some attempts if it has an error.
#[tokio::test]
async fn a_call_that_cannot_be_resumed_fails() {
    for (side, profile) in FOLLOWED {
        for (status, tries) in [(405, 1), (404, 1), (400, 1), (503, 5)] {
            let world = World::new().await;
            let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &[]).await;
            world.upstream.hook(move |request| {
                let resumed = request.header("last-event-id").is_some();
                resumed.then(|| Reply::Http(status, Vec::new(), String::new()))
            });
            world.upstream.next("tools/call", cut_after("s/1", 1));
            failure(&agent.call_as("write_note", profile).await);
            let tried = world.upstream.requests().into_iter().filter(|it| resumes("s/1")(it));
            assert_eq!(tried.count(), tries, "{side:?} {profile} {status}");
            assert_eq!(world.upstream.requests_of("tools/call").len(), 1, "{status}");
            // The session is still usable.
            text(&agent.call_as("whoami", profile).await);
        }
    }
}

/// A server that accepts the resumption and then sends nothing doesn't block a request forever.
#[tokio::test]
async fn a_silent_resumption_times_out() {
    // Concurrently, as each waits for every attempt.
    join_all(FOLLOWED.map(async |(side, profile)| {
        let world = World::new().await;
        let arguments = ["--read-timeout", "0.5"];
        let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &arguments).await;
        text(&agent.call_as("whoami", profile).await);
        let never = sigward_tests::upstream::Gate::default();
        let held = never.clone();
        world.upstream.hook(move |request| {
            let resumed = request.header("last-event-id").is_some();
            resumed.then(|| Reply::Stream(vec![Step::Wait(held.clone())]))
        });
        world.upstream.next("resources/read", cut_after("s/1", 1));
        let params =
            format!(r#"{{"uri":"test://note","_meta":{{"sigward/profile":"{profile}"}}}}"#);
        let failed = agent.request("resources/read", &params).await;
        assert!(failure(&failed).contains("--read-timeout"), "{side:?} {profile}: {failed}");
    }))
    .await;
}

/// Without sessions nothing can be resumed: a cut is an error, even if the events had ids.
#[tokio::test]
async fn nothing_is_resumed_without_sessions() {
    let world = World::new().await;
    let mut agent = Agent::start(&world, Side::Stdio, STATELESS, &THREE, &[]).await;
    for profile in ["dev", "prod"] {
        world.upstream.next("tools/call", cut_after("s/1", 1));
        failure(&agent.call_as("write_note", profile).await);
    }
    assert!(world.upstream.requests().iter().all(|it| it.http_method == "POST"));
    assert_eq!(world.upstream.requests_of("tools/call").len(), 2);
}

/// An HTTP client resumes by itself: its GET is passed on, with the id.
#[tokio::test]
async fn an_http_client_resumes_by_itself() {
    let world = World::new().await;
    let agent = Agent::start(&world, Side::Listening, SESSIONS, &THREE, &[]).await;
    let (listening, session) = agent.http();
    world.upstream.next("tools/call", cut_after("s/1", 7));
    let call = r#"{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"echo"}}"#;
    let mut cut = listening.post(&session, call).await;
    assert_eq!(cut.expect_event("the first event").await, "id: s/1\nretry: 7\ndata:\n\n");
    assert_eq!(cut.event().await, None);
    let rest = r#"{"jsonrpc":"2.0","id":9,"result":{"n":1.10}}"#;
    world.upstream.next("GET", Reply::Stream(vec![Step::Event("s/2".into(), rest.to_owned())]));
    let resumed = listening.get(&[&session[..], &[("last-event-id", "s/1")]].concat()).await;
    assert_eq!(resumed.text().await, format!("id: s/2\ndata: {rest}\n\n"));
    let sent = world.upstream.expect("the resumption", resumes("s/1")).await;
    assert!(sent.signature.is_ok());
}

/// GET streams are reopened after an end and after a failure, with the id of the last event.
#[tokio::test]
async fn get_streams_are_reopened() {
    for (side, profile) in FOLLOWED {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &[]).await;
        text(&agent.call_as("whoami", profile).await);
        let identity = world.home.identity(profile).to_owned();
        let session = world.upstream.sessions_of(&identity).remove(0);
        let note = |text: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"data":"{text}"}}}}"#
            )
        };
        world.upstream.push(&session, &note("first")).await;
        agent.expect_line("the first", |line| line == note("first")).await;
        // The next answers: a failure, a stream with an id and a delay, and another stream.
        let failing = Reply::Http(500, Vec::new(), String::new());
        let short = Reply::Stream(vec![
            Step::Raw("retry: 1\n\n".to_owned()),
            Step::Event("g/1".to_owned(), note("second")),
        ]);
        world.upstream.next("GET", failing);
        world.upstream.next("GET", short);
        world.upstream.end_stream(&session);
        agent.expect_line("the second", |line| line == note("second")).await;
        let again = world.upstream.expect("the next stream", resumes("g/1")).await;
        assert_eq!(again.identity(), identity);
        world.upstream.push(&session, &note("third")).await;
        agent.expect_line("the third", |line| line == note("third")).await;
    }
}

#[tokio::test]
async fn a_server_without_get_streams_is_asked_once() {
    for side in SIDES {
        let world = World::new().await;
        world.upstream.hook(|request| {
            let headers = vec![("allow", "POST, DELETE".to_owned())];
            (request.http_method == "GET").then(|| Reply::Http(405, headers, String::new()))
        });
        let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &[]).await;
        for profile in THREE {
            let of_profile = |it: &Received| {
                it.http_method == "GET" && it.identity() == world.home.identity(profile)
            };
            text(&agent.call_as("whoami", profile).await);
            world.upstream.expect("a GET", of_profile).await;
            text(&agent.call_as("whoami", profile).await);
            let asked = world.upstream.requests().into_iter().filter(|it| of_profile(it)).count();
            assert_eq!(asked, 1, "{side:?} {profile}");
        }
    }
}
