//! A request that the server may have acted on is never resent; one that it refused because of its session is, once.

use sigward_tests::upstream::{ID, Reply, Step};

use super::{FOLLOWED, result};
use crate::agent::{Agent, SESSIONS, SIDES, Side};
use crate::setup::{THREE, World, failure, text};

fn expired() -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{ID},"error":{{"code":-30001,"message":"session expired"}}}}"#
    )
}

/// AWS's error for a lost session after another message: the call may already have run.
#[tokio::test]
async fn a_session_expiry_after_an_event_fails_the_call() {
    let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1,"message":"row 1 written"}}"#;
    for (side, profile) in FOLLOWED {
        for foreign in [progress.to_owned(), result("77", "x")] {
            let world = World::new().await;
            let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &[]).await;
            text(&agent.call_as("whoami", profile).await);
            let steps = vec![Step::Data(foreign), Step::Data(expired())];
            world.upstream.next("tools/call", Reply::Stream(steps));
            let failed = agent.call_as("write_note", profile).await;
            assert!(failed["error"].is_object(), "{failed}");
            let calls = world.upstream.requests().into_iter().filter(|it| it.calls("write_note"));
            assert_eq!(calls.count(), 1, "{side:?} {profile}: the note may have been written");
            text(&agent.call_as("whoami", profile).await);
            let opened = world.upstream.requests_of("initialize").into_iter();
            let opened = opened.filter(|it| it.identity() == world.home.identity(profile));
            assert_eq!(opened.count(), 2, "{side:?} {profile}: the next call has another session");
        }
    }
}

/// The same in the answer to a resumption, as JSON and as a stream.
#[tokio::test]
async fn a_session_expiry_in_a_resumption_fails_the_call() {
    for (side, profile) in FOLLOWED {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &[]).await;
        text(&agent.call_as("whoami", profile).await);
        let id = agent.next_id().to_string();
        for streamed in [false, true] {
            let expired = expired().replace(ID, if streamed { "$OTHER" } else { &id });
            let expired = expired.replace("$OTHER", &agent.next_id().to_string());
            let reply = match streamed {
                true => Reply::Stream(vec![Step::Data(expired)]),
                false => Reply::Json(expired),
            };
            world.upstream.hook(move |request| {
                request.header("last-event-id").is_some().then(|| reply.clone())
            });
            let cut = "id: s/1\nretry: 1\ndata:\n\n".to_owned();
            world.upstream.next("tools/call", Reply::Stream(vec![Step::Raw(cut), Step::Cut]));
            let failed = agent.call_as("write_note", profile).await;
            assert!(failed["error"].is_object(), "{failed}");
        }
        let calls = world.upstream.requests().into_iter().filter(|it| it.calls("write_note"));
        assert_eq!(calls.count(), 2, "{side:?} {profile}: each was sent once");
    }
}

/// Servers on the TypeScript SDK report an unknown session with 400 and a message.
#[tokio::test]
async fn a_session_loss_reported_by_a_message_is_renewed() {
    let lost = |status, message: &str| {
        let body = format!(
            r#"{{"jsonrpc":"2.0","error":{{"code":-32000,"message":"{message}"}},"id":null}}"#
        );
        Reply::Http(status, Vec::new(), body)
    };
    for (side, profile) in FOLLOWED {
        for reply in [
            lost(400, "Bad Request: No valid session ID provided"),
            lost(400, "Bad Request: Server not initialized"),
            lost(401, "Invalid session"),
            lost(410, "Gone"),
            Reply::Http(410, Vec::new(), String::new()),
        ] {
            let world = World::new().await;
            let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &[]).await;
            text(&agent.call_as("whoami", profile).await);
            world.upstream.next("tools/call", reply.clone());
            text(&agent.call_as("write_note", profile).await);
            let opened = world.upstream.requests_of("initialize").into_iter();
            let opened = opened.filter(|it| it.identity() == world.home.identity(profile));
            assert_eq!(opened.count(), 2, "{side:?} {profile} {reply:?}");
        }
        // A refusal for another reason goes to the caller.
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &[]).await;
        text(&agent.call_as("whoami", profile).await);
        world.upstream.next("tools/call", lost(400, "Bad Request: no such tool"));
        let refused = agent.call_as("write_note", profile).await;
        assert_eq!(refused["error"]["message"], "Bad Request: no such tool");
        assert_eq!(world.upstream.requests_of("tools/call").len(), 2);
    }
}

/// An HTTP client renews its own session: it gets 404, however the server reported the loss.
#[tokio::test]
async fn an_http_client_gets_404_for_a_lost_session() {
    let world = World::new().await;
    let mut agent = Agent::start(&world, Side::Listening, SESSIONS, &THREE, &[]).await;
    let body = r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"},"id":null}"#;
    world.upstream.next("tools/call", Reply::Http(400, Vec::new(), body.to_owned()));
    let id = agent.start_call("whoami", "{}").await;
    let failed = agent.response(&id).await;
    assert_eq!(agent.status(&id), Some(404), "{failed}");
}

#[tokio::test]
async fn an_html_page_instead_of_mcp_is_reported() {
    let world = World::new().await;
    let page = vec![("content-type", "text/html".to_owned())];
    world.upstream.next("initialize", Reply::Http(200, page, "<html>Sign in</html>".to_owned()));
    let command = world.private_proxy(&["dev"], &[]);
    let mut client = sigward_tests::processes::StdioClient::start(command);
    let params = r#"{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"c","version":"1"}}"#;
    let failed = client.request("initialize", params).await;
    let message = failure(&failed);
    assert!(message.contains("MCP") && !message.contains("?."), "{message}");
}

/// `--tool-timeout` also applies before the call is sent (here, while tools are listed).
#[tokio::test]
async fn a_timeout_before_sending_says_that_nothing_was_sent() {
    for side in SIDES {
        let world = World::new().await;
        let never = sigward_tests::upstream::Gate::default();
        let arguments = ["--tool-timeout", "0.3"];
        let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &arguments).await;
        world.upstream.next("tools/list", Reply::Usual.held(&never));
        let late = agent.call_as("write_note", "prod").await;
        let message = failure(&late);
        assert!(
            message.contains("--tool-timeout") && message.contains("nothing was sent"),
            "{side:?}: {message}"
        );
        assert!(world.upstream.requests_of("tools/call").is_empty());
    }
}
