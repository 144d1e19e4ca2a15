//! What the server may have acted on is never sent again; what it refused because of its session is, once.

use sigward_tests::upstream::{ID, Reply, Step};

use super::{FOLLOWED, result};
use crate::agent::{Agent, SESSIONS, SIDES, Side};
use crate::setup::{THREE, World, failure, text};

fn expired() -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{ID},"error":{{"code":-30001,"message":"session expired"}}}}"#
    )
}

/// AWS's word for a lost session, behind anything else that the server said: it has begun.
#[tokio::test]
async fn an_expiry_behind_an_event_is_an_error_of_the_call() {
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
            assert_eq!(calls.count(), 1, "{side:?} {profile}: it may be written");
            text(&agent.call_as("whoami", profile).await);
            let opened = world.upstream.requests_of("initialize").into_iter();
            let opened = opened.filter(|it| it.identity() == world.home.identity(profile));
            assert_eq!(opened.count(), 2, "{side:?} {profile}: the next call has another session");
        }
    }
}

/// The same from the answer to a resumption, whatever kind of answer that is.
#[tokio::test]
async fn an_expiry_told_to_a_resumption_is_an_error_of_the_call() {
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

/// Servers on the TypeScript SDK tell by 400 and words that they no longer know a session.
#[tokio::test]
async fn a_session_that_is_lost_by_words_is_renewed() {
    let lost = |status, words: &str| {
        let body = format!(
            r#"{{"jsonrpc":"2.0","error":{{"code":-32000,"message":"{words}"}},"id":null}}"#
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
            // 401 is a refused signature first: it comes again, from the same server.
            world.upstream.next("tools/call", reply.clone());
            text(&agent.call_as("write_note", profile).await);
            let opened = world.upstream.requests_of("initialize").into_iter();
            let opened = opened.filter(|it| it.identity() == world.home.identity(profile));
            assert_eq!(opened.count(), 2, "{side:?} {profile} {reply:?}");
        }
        // A refusal that speaks of something else is the call's.
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &[]).await;
        text(&agent.call_as("whoami", profile).await);
        world.upstream.next("tools/call", lost(400, "Bad Request: no such tool"));
        let refused = agent.call_as("write_note", profile).await;
        assert_eq!(refused["error"]["message"], "Bad Request: no such tool");
        assert_eq!(world.upstream.requests_of("tools/call").len(), 2);
    }
}

/// A client that speaks HTTP renews its own session: it hears 404, however the server told the loss.
#[tokio::test]
async fn an_http_client_hears_404() {
    let world = World::new().await;
    let mut agent = Agent::start(&world, Side::Listening, SESSIONS, &THREE, &[]).await;
    let body = r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"},"id":null}"#;
    world.upstream.next("tools/call", Reply::Http(400, Vec::new(), body.to_owned()));
    let id = agent.start_call("whoami", "{}").await;
    let failed = agent.response(&id).await;
    assert_eq!(agent.status(&id), Some(404), "{failed}");
}

/// A page in the place of MCP is told in a sentence.
#[tokio::test]
async fn a_page_in_the_place_of_mcp_is_told() {
    let world = World::new().await;
    let page = vec![("content-type", "text/html".to_owned())];
    world.upstream.next("initialize", Reply::Http(200, page, "<html>Sign in</html>".to_owned()));
    let command = world.private_proxy(&["dev"], &[]);
    let mut client = sigward_tests::processes::StdioClient::start(command);
    let params = r#"{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"c","version":"1"}}"#;
    let failed = client.request("initialize", params).await;
    let words = failure(&failed);
    assert!(words.contains("MCP") && !words.contains("?."), "{words}");
}

/// `--tool-timeout` holds while the proxy still finds out where a call goes, and says that nothing was sent.
#[tokio::test]
async fn a_call_that_is_late_before_it_is_sent() {
    for side in SIDES {
        let world = World::new().await;
        let never = sigward_tests::upstream::Gate::default();
        let arguments = ["--tool-timeout", "0.3"];
        let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &arguments).await;
        world.upstream.next("tools/list", Reply::Usual.held(&never));
        let late = agent.call_as("write_note", "prod").await;
        let words = failure(&late);
        assert!(
            words.contains("--tool-timeout") && words.contains("nothing was sent"),
            "{side:?}: {words}"
        );
        assert!(world.upstream.requests_of("tools/call").is_empty());
    }
}
