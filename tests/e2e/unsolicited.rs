//! Messages that a server sends unasked, in the stream of a session, which must be open before the first request.
//!
//! Many servers drop such messages while there is no stream: a question to the user, a log message.

use sigward_tests::upstream::{Gate, Received, Reply, Step};
use sigward_tests::{deadline, processes};

use crate::setup::{THREE, World, text};

#[tokio::test]
async fn the_stream_is_open_before_the_first_request_of_the_session() {
    for (profile, other) in [("dev", "prod"), ("staging", "prod")] {
        let world = World::new().await;
        let (identity, open) = (world.home.identity(profile), Gate::default());
        let (held, gate) = (identity.to_owned(), open.clone());
        world.upstream.hook(move |it| {
            let is_held = it.http_method == "GET" && it.identity() == held;
            is_held.then(|| Reply::Usual.held(&gate))
        });
        let mut client = world.client(&THREE, &[]).await;
        let arguments = |profile| format!(r#"{{"aws_profile":"{profile}"}}"#);
        let call = processes::call("whoami", &arguments(profile));
        let id = client.start_request("tools/call", &call).await;
        let asked = |it: &Received| it.http_method == "GET" && it.identity() == identity;
        world.upstream.expect("the stream of the session", asked).await;
        // Whole calls of another profile start later, each with all that this one would need: a signature and a
        // connection. Without the wait in the proxy, this call would reach the server before them.
        if profile != THREE[0] {
            for _ in 0..3 {
                text(&client.call("whoami", &arguments(other)).await);
            }
        } else {
            // A tool call would list the tools in the default session, which waits. This method lists nothing.
            let get = r#"{"name":"p","_meta":{"sigward/profile":"prod"}}"#;
            for _ in 0..3 {
                client.request("prompts/get", get).await;
            }
        }
        let calls = world.upstream.requests_of("tools/call");
        let early = calls.iter().any(|call| call.identity() == identity);
        assert!(!early, "{profile}: the call didn't wait for the stream");
        open.open();
        let called = client.response(&id).await;
        assert_eq!(text(&called), identity);
    }
}

/// A `Last-Event-ID` of no event would make servers replay a stream that never existed, and end it.
#[tokio::test]
async fn a_stream_is_resumed_only_after_an_event() {
    let world = World::new().await;
    let event = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"1"}}"#;
    for piece in ["retry: 1\n\n", &format!("id: 7\ndata: {event}\n\n")] {
        world.upstream.next("GET", Reply::Stream(vec![Step::Raw(piece.to_owned())]));
    }
    let mut client = world.client(&["dev"], &[]).await;
    client.expect("the message of the second stream", |it| it["params"]["data"] == "1").await;
    world.upstream.expect("the third stream", |it| it.header("last-event-id") == Some("7")).await;
    let streams = world.upstream.requests();
    let resumed = streams.iter().filter(|it| it.http_method == "GET");
    let resumed: Vec<_> = resumed.map(|it| it.header("last-event-id")).collect();
    assert_eq!(resumed, [None, None, Some("7")]);
}

/// Some servers send the head of a stream with its first event, which may never come.
#[tokio::test]
async fn a_server_that_never_answers_the_stream_blocks_no_call() {
    let world = World::new().await;
    let never = Gate::default();
    for _ in THREE {
        world.upstream.next("GET", Reply::Usual.held(&never));
    }
    let mut client = world.client(&THREE, &[]).await;
    for arguments in ["{}", r#"{"aws_profile":"prod"}"#, r#"{"aws_profile":"prod"}"#] {
        let calling = client.call("whoami", arguments);
        let called = deadline::within(calling, || format!("{arguments} waits forever"));
        text(&called.await);
    }
    let (status, _, errors) = client.close().await;
    assert!(status.success(), "{errors}");
}
