//! A throttled call is resent within its time limit with a new signature, however the server reports the throttling;
//! its client sees that it waits, or gets the server's own error.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sigward_tests::upstream::{Received, Reply, Step};

use crate::agent::{Agent, SESSIONS, SIDES, STATELESS, Side};
use crate::setup::{World, assert_names, failure, rpc_error, text};

/// An error under the id of its request.
fn error(code: i64, message: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":$ID,"error":{{"code":{code},"message":"{message}"}}}}"#)
}

fn http(status: u16, headers: &[(&'static str, &str)], body: &str) -> Reply {
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned()));
    Reply::Http(status, headers.collect(), body.to_owned())
}

fn calls(world: &World, tool: &str) -> Vec<Received> {
    world.upstream.requests().into_iter().filter(|it| it.calls(tool)).collect()
}

/// For each side and each version, all at the same time: the tests mostly wait.
async fn everywhere(test: impl AsyncFn(Side, &'static str)) {
    let all = SIDES.into_iter().flat_map(|side| [(side, SESSIONS), (side, STATELESS)]);
    futures_util::future::join_all(all.map(|(side, version)| test(side, version))).await;
}

/// All responses by which a server says that it didn't act.
fn throttlings() -> Vec<(&'static str, Reply)> {
    let in_json = error(-32004, "Rate exceeded");
    vec![
        ("429", http(429, &[], "")),
        ("429 with a body", http(429, &[], &error(-32000, "slowly"))),
        ("-32004 in JSON", Reply::Json(in_json.clone())),
        ("-32004 in an event", Reply::Stream(vec![Step::Data(in_json.clone())])),
        ("-32004 with 503", http(503, &[], &in_json)),
        ("-32004 with 400", http(400, &[], &in_json)),
    ]
}

#[tokio::test]
async fn a_throttled_call_is_resent_on_each_side_and_in_each_version() {
    everywhere(async |side, version| {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, version, &["dev"], &[]).await;
        for (what, reply) in throttlings() {
            let before = calls(&world, "write_note").len();
            world.upstream.next("tools/call", reply);
            let answer = agent.call("write_note", r#"{"text":"x"}"#).await;
            assert!(answer["result"].is_object(), "{side:?} {version} {what}: {answer}");
            let sent = calls(&world, "write_note").split_off(before);
            assert_eq!(sent.len(), 2, "{side:?} {version} {what}");
            assert_eq!(sent[0].text(), sent[1].text());
            assert!(sent.iter().all(|it| it.signature.is_ok()), "{what}");
        }
    })
    .await;
}

/// `Retry-After` in seconds, and as a date by the server's own clock.
#[tokio::test]
async fn retry_after_delays_the_call_which_is_then_signed_anew() {
    let dated = [
        ("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT"),
        ("date", "Fri, 31 Dec 1999 23:59:58 GMT"),
    ];
    for side in SIDES {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, SESSIONS, &["dev"], &[]).await;
        for headers in [&[("retry-after", "1")][..], &dated] {
            let before = calls(&world, "write_note").len();
            world.upstream.next("tools/call", http(429, headers, ""));
            let begun = Instant::now();
            let answer = agent.call("write_note", "{}").await;
            assert!(answer["result"].is_object(), "{answer}");
            assert!(begun.elapsed() >= Duration::from_secs(1), "{headers:?}");
            let sent = calls(&world, "write_note").split_off(before);
            assert_eq!(sent.len(), 2, "{headers:?}");
            // A second later: a new signature.
            assert_ne!(sent[0].header("x-amz-date"), sent[1].header("x-amz-date"));
        }
    }
}

/// A call that the server may have executed isn't repeated.
#[tokio::test]
async fn a_response_that_is_no_throttling_is_not_resent() {
    for side in SIDES {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, SESSIONS, &["dev"], &["--retries", "3"]).await;
        let late = error(-32004, "Rate exceeded");
        let note = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}"#;
        for (what, reply) in [
            ("503 with Retry-After", http(503, &[("retry-after", "0")], "")),
            ("503 with an error", http(503, &[("retry-after", "0")], &error(-32000, "busy"))),
            ("another error", Reply::Error(-32000, "Rate exceeded".to_owned())),
            (
                "-32004 behind another message",
                Reply::Stream(vec![Step::Data(note.to_owned()), Step::Data(late.clone())]),
            ),
        ] {
            let before = calls(&world, "write_note").len();
            world.upstream.next("tools/call", reply);
            let answer = agent.call("write_note", "{}").await;
            assert!(
                !answer["result"]["content"].is_array() || answer["result"]["isError"] == true,
                "{what}: {answer}"
            );
            assert_eq!(calls(&world, "write_note").len() - before, 1, "{side:?} {what}");
        }
    }
}

/// The parameters of a call with this progress token.
fn with_token(token: u32) -> String {
    format!(r#"{{"name":"write_note","arguments":{{}},"_meta":{{"progressToken":{token}}}}}"#)
}

#[tokio::test]
async fn a_client_that_asked_for_progress_sees_that_its_call_waits() {
    everywhere(async |side, version| {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, version, &["dev"], &[]).await;
        for (token, reply) in [
            (1, http(429, &[("retry-after", "2")], "")),
            (2, http(503, &[("retry-after", "2")], &error(-32004, "busy"))),
        ] {
            world.upstream.next("tools/call", reply);
            let id = agent.start_request("tools/call", &with_token(token)).await;
            let mut last = f64::NEG_INFINITY;
            for _ in 0..2 {
                let is_progress = |it: &Value| {
                    it["method"] == "notifications/progress"
                        && it["params"]["progressToken"] == token
                };
                let report = agent.expect("progress", is_progress).await;
                let message = report["params"]["message"].as_str().unwrap();
                assert_names(message, &["Waiting for the quota of 127.0.0.1"]);
                let value = report["params"]["progress"].as_f64().unwrap();
                assert!(value > last, "{report}");
                last = value;
            }
            let answer = agent.response(&id).await;
            assert!(answer["result"].is_object(), "{side:?} {version}: {answer}");
        }
        // The deny twin: a client that didn't ask gets no progress.
        let before = agent.unread().len();
        world.upstream.next("tools/call", http(429, &[("retry-after", "1")], ""));
        agent.call("write_note", "{}").await;
        let messages = agent.unread().split_off(before);
        assert!(!messages.iter().any(|it| it.contains("Waiting")), "{messages:?}");
        assert_eq!(calls(&world, "write_note").len(), 6, "{side:?} {version}");
    })
    .await;
}

/// The client gets the server's own error, not that the call took too long, since nothing is running.
#[tokio::test]
async fn at_the_time_limit_the_client_gets_the_server_s_own_error() {
    everywhere(async |side, version| {
        let world = World::new().await;
        let arguments = ["--tool-timeout", "6"];
        let mut agent = Agent::start(&world, side, version, &["dev"], &arguments).await;
        let own = error(-32004, "come back tomorrow");
        for asked in ["3600", "1"] {
            let before = calls(&world, "write_note").len();
            for _ in 0..20 {
                world.upstream.next("tools/call", http(429, &[("retry-after", asked)], &own));
            }
            let answer = agent.call("write_note", "{}").await;
            assert_eq!(rpc_error(&answer), (-32004, "come back tomorrow"));
            let sent = calls(&world, "write_note").len() - before;
            let most = if asked == "1" { 6 } else { 1 };
            assert!((1..=most).contains(&sent), "{side:?} {version} {asked}: {sent}");
            assert_eq!(world.upstream.requests_of("notifications/cancelled").len(), 0);
            world.upstream.clear("tools/call");
        }
        let answer = agent.call("write_note", "{}").await;
        assert!(answer["result"].is_object(), "{side:?} {version}: {answer}");
    })
    .await;
}

#[tokio::test]
async fn a_429_with_an_empty_body_is_reported_by_its_status() {
    let world = World::new().await;
    let mut agent =
        Agent::start(&world, Side::Stdio, SESSIONS, &["dev"], &["--tool-timeout", "2"]).await;
    world.upstream.next("tools/call", http(429, &[("retry-after", "3600")], ""));
    let refused: Value = agent.call("write_note", "{}").await;
    assert_names(failure(&refused), &["429"]);
}

/// The requests that open and keep a session are throttled as calls are.
#[tokio::test]
async fn handshakes_lists_and_notifications_are_resent() {
    for side in SIDES {
        let world = World::new().await;
        for method in ["initialize", "tools/list"] {
            world.upstream.next(method, http(429, &[], ""));
        }
        if side == Side::Stdio {
            world.upstream.next("notifications/initialized", http(429, &[], ""));
        }
        let mut agent = Agent::start(&world, side, SESSIONS, &["dev", "prod"], &[]).await;
        let list = agent.request("tools/list", "{}").await;
        assert!(list["result"]["tools"].is_array(), "{list}");
        // The session of another profile, which the proxy opens by itself.
        world.upstream.next("initialize", http(429, &[], ""));
        world.upstream.next("notifications/initialized", http(429, &[], ""));
        let answer = agent.call("whoami", &json!({"aws_profile": "prod"}).to_string()).await;
        assert_eq!(text(&answer), world.home.identity("prod"), "{side:?}");
        assert_eq!(world.upstream.requests_of("initialize").len(), 4);
    }
}
