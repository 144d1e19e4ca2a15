//! The ten cases in which relays usually fail, one by one: for both sides of the proxy, in both versions of the
//! protocol, with the default profile and with another, wherever that makes sense.

mod cancelled;
pub(crate) mod pressure;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use sigward_tests::upstream::{Gate, Reply, Step};
use tokio::net::TcpListener;

use crate::agent::{Agent, SESSIONS, SIDES, STATELESS, Side};
use crate::setup::{THREE, World, assert_names, failure, rpc_error, text, tool_error};

/// A 404 with an empty body.
fn gone() -> Reply {
    Reply::Http(404, Vec::new(), String::new())
}

/// Each side with each version.
fn all() -> impl Iterator<Item = (Side, &'static str)> {
    SIDES.into_iter().flat_map(|side| [SESSIONS, STATELESS].map(|version| (side, version)))
}

/// Case 1: JSON or an event's data over several lines becomes one line on standard output, with unchanged strings. Over
/// HTTP it is forwarded as it is.
#[tokio::test]
async fn a_message_over_several_lines_becomes_one_line_on_standard_output() {
    let pretty = "{\n  \"jsonrpc\": \"2.0\",\r\n  \"id\": $ID,\n\t\"result\": {\n \"content\": [ ],\n \"odd\": \"a\\nb \\u2028\" , \"n\": 1.10\n }\n}\n";
    for (side, version) in all() {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, version, &THREE, &[]).await;
        for profile in ["dev", "staging"] {
            let event = Step::Data(pretty.replace('\r', "").trim_end().to_owned());
            for reply in [Reply::Json(pretty.to_owned()), Reply::Stream(vec![event])] {
                world.upstream.next("tools/call", reply);
                let arguments = json!({ "aws_profile": profile }).to_string();
                let id = agent.start_call("write_note", &arguments).await;
                let answer = agent.expect_line("the answer", |it| it.contains("odd")).await;
                let lines = answer.trim_end().lines().count();
                assert!(side == Side::Listening || lines == 1, "{version} {profile}: {answer}");
                let message: Value = serde_json::from_str(&answer).expect("one message");
                assert_eq!(message["id"], id);
                assert_names(&answer, &[r#""a\nb \u2028""#, "1.10"]);
            }
        }
    }
}

/// Case 2: an error beside a null result, or an error without a usable id, is the error of its call.
#[tokio::test]
async fn an_error_that_violates_json_rpc_is_the_error_of_its_call() {
    for (side, version) in all() {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, version, &THREE, &[]).await;
        for bent in [
            r#"{"jsonrpc":"2.0","id":$ID,"result":null,"error":{"code":-32050,"message":"bent"}}"#,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32050,"message":"bent"}}"#,
            r#"{"jsonrpc":"2.0","id":"","error":{"code":-32050,"message":"bent"}}"#,
            r#"{"jsonrpc":"2.0","error":{"code":-32050,"message":"bent"}}"#,
        ] {
            for profile in ["dev", "prod"] {
                let whole = |status| Reply::Http(status, Vec::new(), bent.to_owned());
                let pieces = Reply::Pieces(vec![Step::Raw(bent.to_owned())]);
                let event = Reply::Stream(vec![Step::Data(bent.to_owned())]);
                for reply in [whole(200), whole(400), pieces, event] {
                    let shown = format!("{side:?} {version} {profile} {reply:?}");
                    world.upstream.next("tools/call", reply);
                    let failed = agent.call_as("write_note", profile).await;
                    assert_eq!(rpc_error(&failed), (-32050, "bent"), "{shown}");
                    assert!(failed.get("result").is_none(), "{shown}: {failed}");
                }
            }
        }
    }
}

/// Case 3: a stream that comes byte by byte, with everything that the standard allows in it; an incomplete event at its
/// end is no message. Over HTTP every byte is forwarded.
#[tokio::test]
async fn a_stream_that_comes_byte_by_byte_is_parsed() {
    let note = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"crumb"}}"#;
    let answer =
        r#"{"jsonrpc":"2.0","id":$ID,"result":{"content":[{"type":"text","text":"whole"}]}}"#;
    let stream = format!(
        ": hello\r\nunknown: x\nlonely\rdata: {note}\r\n\r\nevent: ping\ndata: no\n\nid\ndata:{answer}\n\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cut\"}}\n"
    );
    for (side, version) in all() {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, version, &THREE, &[]).await;
        for profile in ["dev", "staging"] {
            let crumbs = stream.chars().map(|crumb| Step::Raw(crumb.to_string())).collect();
            // `$ID` stays in one piece, so that the server replaces it.
            let mut crumbs: Vec<Step> = crumbs;
            let at = stream.find("$ID").unwrap();
            crumbs.splice(at..at + 3, [Step::Raw("$ID".to_owned())]);
            world.upstream.next("tools/call", Reply::Stream(crumbs));
            if side == Side::Listening && profile == "dev" {
                let (listening, session) = agent.http();
                let call = match version {
                    STATELESS => crate::setup::stateless(r#"{"name":"write_note"}"#),
                    _ => r#"{"name":"write_note"}"#.to_owned(),
                };
                let call = format!(
                    r#"{{"jsonrpc":"2.0","id":4242,"method":"tools/call","params":{call}}}"#
                );
                let passed = listening.post(&session, &call).await.text().await;
                assert_eq!(passed, stream.replace("$ID", "4242"), "{version}");
                continue;
            }
            let called = agent.call_as("write_note", profile).await;
            assert_eq!(text(&called), "whole");
            agent.expect_line("the notification", |line| line == note).await;
            assert!(!agent.unread().iter().any(|line| line.contains("cut")));
        }
    }
}

/// Case 4: sessions use the same ids for their requests, and `"0"` isn't `0`: each response goes back to the session of
/// its request, under the id that was used there.
#[tokio::test]
async fn requests_of_servers_with_the_same_id_get_their_own_responses() {
    for side in SIDES {
        let world = World::new().await;
        let mut agent = Agent::unready(&world, side, SESSIONS, &THREE, &[]).await;
        agent.initialize(r#"{"roots":{},"sampling":{},"elicitation":{}}"#).await;
        let asked = [
            ("dev", "0", "roots/list"),
            ("staging", "0", "sampling/createMessage"),
            ("prod", r#""0""#, "elicitation/create"),
        ];
        let mut questions = Vec::new();
        for (profile, token, method) in asked {
            let question = format!(r#"{{"jsonrpc":"2.0","id":{token},"method":"{method}"}}"#);
            let steps = vec![
                Step::Data(question),
                Step::AwaitResponse(token.to_owned()),
                Step::UsualResponse,
            ];
            world.upstream.next("tools/call", Reply::Stream(steps));
            let id = agent.call_later("write_note", profile).await;
            let question = agent.expect("a question", |it| it["method"] == method).await;
            questions.push((profile, token, id, question));
        }
        // All requests are open; the last is answered first.
        let ids: Vec<_> = questions.iter().map(|(_, _, _, it)| it["id"].to_string()).collect();
        assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{side:?}: {ids:?}");
        for (profile, token, id, question) in questions.iter().rev() {
            agent.answer(question, &json!({ "for": profile }).to_string()).await;
            let answered = world
                .upstream
                .expect("the answer", |it| it.is_response_to(token) && it.text().contains(profile))
                .await;
            assert_eq!(answered.identity(), world.home.identity(profile), "{side:?}");
            text(&agent.response(id).await);
        }
    }
}

/// Case 4, continued: the response to a request of a lost session is never sent to the session that replaces it, even
/// if the ids are equal.
#[tokio::test]
async fn a_response_for_a_lost_session_is_not_sent_to_the_new_one() {
    for (side, profile) in [(Side::Stdio, "dev"), (Side::Stdio, "prod"), (Side::Listening, "prod")]
    {
        let world = World::new().await;
        let mut agent = Agent::unready(&world, side, SESSIONS, &THREE, &[]).await;
        agent.initialize(r#"{"roots":{}}"#).await;
        let question = r#"{"jsonrpc":"2.0","id":0,"method":"roots/list"}"#;
        text(&agent.call_as("whoami", profile).await);
        let ask = async |agent: &mut Agent| {
            let session = world.upstream.sessions_of(world.home.identity(profile)).remove(0);
            world.upstream.push(&session, question).await;
            agent.expect("the question", |it| it["method"] == "roots/list").await
        };
        let stale = ask(&mut agent).await;
        world.upstream.forget_sessions_of(world.home.identity(profile));
        text(&agent.call_as("whoami", profile).await);
        let fresh = ask(&mut agent).await;
        agent.answer(&stale, r#"{"roots":[{"uri":"file:///stale"}]}"#).await;
        agent.answer(&fresh, r#"{"roots":[{"uri":"file:///fresh"}]}"#).await;
        let answered = world.upstream.expect("the answer", |it| it.is_response_to("0")).await;
        assert_names(answered.text(), &["file:///fresh"]);
        let stale = |it: &sigward_tests::upstream::Received| it.text().contains("file:///stale");
        assert!(!world.upstream.requests().iter().any(stale), "{side:?} {profile}");
    }
}

/// Case 5: a 404, or AWS's own error for it, hits ten calls in flight: one session replaces the lost one, and each call
/// is resent once.
#[tokio::test]
async fn ten_calls_of_a_lost_session_are_resent_over_one_new_session() {
    let aws = |status| {
        let text = r#"{"jsonrpc":"2.0","id":$ID,"error":{"code":-30001,"message":"expired"}}"#;
        Reply::Http(status, Vec::new(), text.to_owned())
    };
    let event = r#"{"jsonrpc":"2.0","id":$ID,"error":{"code":-30001,"message":"expired"}}"#;
    let event = Reply::Stream(vec![Step::Data(event.to_owned())]);
    for (side, profile) in [(Side::Stdio, "dev"), (Side::Stdio, "prod"), (Side::Listening, "prod")]
    {
        for lost in [gone(), aws(404), aws(400), aws(200), event.clone()] {
            let shown = format!("{side:?} {profile} {lost:?}");
            let world = World::new().await;
            let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &[]).await;
            text(&agent.call_as("whoami", profile).await);
            // The first ten are held until all have arrived.
            let (seen, all_here) = (Arc::new(AtomicUsize::new(0)), Gate::default());
            let (counted, gate) = (Arc::clone(&seen), all_here.clone());
            world.upstream.hook(move |request| {
                if !request.calls("echo") {
                    return None;
                }
                let number = counted.fetch_add(1, Ordering::SeqCst);
                if number == 9 {
                    gate.open();
                }
                (number < 10).then(|| lost.clone().held(&gate))
            });
            let mut ids = Vec::new();
            for number in 0..10 {
                let arguments = json!({"aws_profile": profile, "n": number}).to_string();
                ids.push(agent.start_call("echo", &arguments).await);
            }
            for (number, id) in ids.iter().enumerate() {
                let answer = agent.response(id).await;
                assert_eq!(text(&answer), json!({ "n": number }).to_string(), "{shown}");
            }
            assert_eq!(seen.load(Ordering::SeqCst), 20, "{shown}: each is resent once");
            for method in ["initialize", "notifications/initialized"] {
                let mut sent = world.upstream.requests_of(method);
                sent.retain(|request| request.identity() == world.home.identity(profile));
                assert_eq!(sent.len(), 2, "{shown}: {method} when opened, and when renewed");
            }
        }
    }
}

/// Case 5, continued: a session that is lost a second time is an error.
#[tokio::test]
async fn a_session_that_is_lost_twice_is_an_error() {
    for (side, profile) in [(Side::Stdio, "dev"), (Side::Stdio, "prod"), (Side::Listening, "prod")]
    {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &[]).await;
        text(&agent.call_as("whoami", profile).await);
        world.upstream.next("tools/call", gone());
        world.upstream.next("tools/call", gone());
        let failed = agent.call_as("whoami", profile).await;
        assert_names(failure(&failed), &["session"]);
        assert_eq!(world.upstream.requests_of("tools/call").len(), 3, "{side:?}: no loop");
        text(&agent.call_as("whoami", profile).await);
    }
}

/// Case 5 over HTTP, for the client's own session: the client gets the 404, and the sessions of other profiles end. In
/// 2026-07-28 there are no sessions, and a 404 means an unknown method.
#[tokio::test]
async fn an_http_client_gets_the_404_for_its_own_session() {
    let world = World::new().await;
    let mut agent = Agent::start(&world, Side::Listening, SESSIONS, &THREE, &[]).await;
    for lost in [gone(), Reply::Error(-30001, "expired".to_owned())] {
        text(&agent.call_as("whoami", "prod").await);
        let of_prod = world.upstream.sessions_of(world.home.identity("prod")).remove(0);
        world.upstream.next("tools/call", lost);
        let id = agent.start_call("whoami", "{}").await;
        let answer = agent.response(&id).await;
        assert!(answer["error"].is_object(), "{answer}");
        assert_eq!(agent.status(&id), Some(404), "{answer}");
        let ended = |it: &sigward_tests::upstream::Received| {
            it.http_method == "DELETE" && it.header("mcp-session-id") == Some(&of_prod)
        };
        world.upstream.expect("the end of prod's session", ended).await;
        let (listening, session) = agent.http();
        let again = listening.post(&session, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).await;
        assert_eq!(again.status, 404);
        // The client starts over.
        agent = Agent::start(&world, Side::Listening, SESSIONS, &THREE, &[]).await;
    }
    let mut agent = Agent::start(&world, Side::Listening, STATELESS, &THREE, &[]).await;
    let id = agent.start_request("no/such", "{}").await;
    assert_eq!(rpc_error(&agent.response(&id).await).0, -32601);
    assert_eq!(agent.status(&id), Some(404), "the server's own status");
}

/// Case 7: whatever the profile argument contains, the profile is one that was offered, and the argument isn't sent
/// upstream; what only looks like it is.
#[tokio::test]
async fn the_profile_argument_selects_offered_profiles_only_and_is_removed() {
    for (side, version) in all() {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, version, &THREE, &[]).await;
        for (arguments, profile, received) in [
            (r#"{"aws_profile":null,"a":1}"#, "dev", r#"{"a":1}"#),
            (r#"{"aws\u005fprofile":"prod","a":1}"#, "prod", r#"{"a":1}"#),
            (r#"{"x":{"aws_profile":"prod"}}"#, "dev", r#"{"x":{"aws_profile":"prod"}}"#),
            (
                r#"{"aws_profile":"staging","x":[{"aws_profile":"prod"}]}"#,
                "staging",
                r#"{"x":[{"aws_profile":"prod"}]}"#,
            ),
        ] {
            let called = agent.call("echo", arguments).await;
            assert_eq!(text(&called), received, "{side:?} {version}");
            let call = world.upstream.requests_of("tools/call").pop().unwrap();
            assert_eq!(call.identity(), world.home.identity(profile), "{arguments}");
        }
        let before = world.upstream.requests_of("tools/call").len();
        for arguments in [
            r#"{"aws_profile":"nobody"}"#,
            r#"{"aws_profile":["prod"]}"#,
            r#"{"aws_profile":{"name":"prod"}}"#,
            r#"{"aws_profile":"dev","aws_profile":"prod"}"#,
            r#"{"aws_profile":"dev","aws\u005fprofile":"prod"}"#,
        ] {
            tool_error(&agent.call("echo", arguments).await);
        }
        let calls = world.upstream.requests_of("tools/call");
        assert_eq!(calls.len(), before, "{side:?} {version}: nothing went upstream");
        for call in calls {
            assert!(!format!("{:?}", call.headers).contains("aws_profile"), "{call:?}");
        }
    }
}

/// Case 7, when a client mirrors every argument in a header, including the profile.
#[tokio::test]
async fn a_mirrored_profile_header_is_not_sent_upstream() {
    let world = World::new().await;
    let agent = Agent::start(&world, Side::Listening, STATELESS, &THREE, &[]).await;
    let (listening, _) = agent.http();
    let params = crate::setup::stateless(
        r#"{"name":"lookup","arguments":{"region":"eu","aws_profile":"prod"}}"#,
    );
    let call = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
    let headers = [
        ("mcp-protocol-version", STATELESS),
        ("mcp-method", "tools/call"),
        ("mcp-name", "lookup"),
        ("mcp-param-region", "eu"),
        ("Mcp-Param-Aws_Profile", "prod"),
    ];
    let answer = listening.post(&headers, &call).await.message().await;
    assert_eq!(text(&answer), r#"{"region":"eu"}"#);
    let call = world.upstream.requests_of("tools/call").pop().unwrap();
    assert_eq!(call.identity(), world.home.identity("prod"));
    assert_eq!(call.header("mcp-param-region"), Some("eu"), "the others are forwarded");
    assert!(!format!("{:?}", call.headers).contains("prod"), "{:?}", call.headers);
}

/// Case 8: numbers keep their spelling and members their order.
#[tokio::test]
async fn numbers_keep_their_spelling_and_members_their_order() {
    for (side, version) in all() {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, version, &THREE, &[]).await;
        for profile in ["dev", "staging"] {
            let sent = format!(
                r#"{{"b":1.10,"aws_profile":"{profile}","a":123456789012345678901,"e":1e400}}"#
            );
            let called = agent.call("echo", &sent).await;
            let received = r#"{"b":1.10,"a":123456789012345678901,"e":1e400}"#;
            assert_eq!(text(&called), received, "{side:?} {version}");
            let call = world.upstream.requests_of("tools/call").pop().unwrap();
            assert_eq!(call.identity(), world.home.identity(profile));
        }
    }
}

/// Case 9: the signed bytes are the sent bytes, for every request and every retry. The server verifies each.
#[tokio::test]
async fn signed_bytes_are_sent_bytes() {
    for (side, version) in all() {
        let world = World::new().await;
        let mut agent =
            Agent::start(&world, side, version, &THREE, &["--retries", "2", "--metadata", "k=é"])
                .await;
        for profile in THREE {
            text(
                &agent
                    .call("whoami", &json!({ "aws_profile": profile, "é": "\u{2028}" }).to_string())
                    .await,
            );
        }
        agent.request("tools/list", "{}").await;
        // One retry for each possible reason.
        world.upstream.next("tools/list", Reply::Http(503, Vec::new(), String::new()));
        agent.request("tools/list", "{}").await;
        if version == SESSIONS {
            world.upstream.next("tools/call", gone());
            text(&agent.call_as("whoami", "prod").await);
            world.upstream.expect("a GET", |it| it.http_method == "GET").await;
        }
        let ended = |it: &sigward_tests::upstream::Received| it.http_method == "DELETE";
        agent.process().signal(rustix::process::Signal::TERM);
        if version == SESSIONS {
            world.upstream.expect("a DELETE", ended).await;
        }
        for request in world.upstream.requests() {
            assert!(request.signature.is_ok(), "{side:?} {version}: {request:?}");
        }
        assert!(world.upstream.requests().len() >= 6);
    }
}

/// Case 9, redirects: the error names the redirect, and nothing is sent to its location.
#[tokio::test]
async fn a_redirect_is_an_error_and_is_not_followed() {
    let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = format!("http://{}/mcp", trap.local_addr().unwrap());
    for (side, version) in all() {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, version, &THREE, &[]).await;
        for status in [301, 302, 303, 307, 308] {
            for profile in ["dev", "prod"] {
                let headers = vec![("location", place.clone())];
                world.upstream.next("tools/call", Reply::Http(status, headers, String::new()));
                let failed = agent.call_as("write_note", profile).await;
                assert_names(failure(&failed), &["redirects are never followed"]);
            }
        }
        if side == Side::Listening {
            let (listening, session) = agent.http();
            let headers = vec![("location", place.clone())];
            world.upstream.next("ping", Reply::Http(307, headers, String::new()));
            let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
            let answer = listening.post(&session, ping).await;
            assert_eq!((answer.status, answer.header("location")), (502, None));
        }
        assert_eq!(world.upstream.requests_of("tools/call").len(), 10, "none was resent");
    }
    let came = std::future::poll_fn(|cx| std::task::Poll::Ready(trap.poll_accept(cx).is_ready()));
    assert!(!came.await, "a redirect was followed");
}
