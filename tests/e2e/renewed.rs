//! A session that the server dropped is renewed. Its state, above all files, is gone, and the agent is told that once.

use serde_json::Value;
use sigward_tests::processes::call;

use crate::agent::SESSIONS;
use crate::http::{Listening, data, lines};
use crate::setup::{World, assert_names, text};

/// The capabilities of another client.
const OTHER: &str = r#"{"roots":{}}"#;
const OF_STAGING: &str = r#"{"aws_profile":"staging"}"#;

fn notice(called: &Value) -> &Value {
    text(called);
    &called["result"]["_meta"]["sigward/notice"]
}

fn is_log(message: &Value) -> bool {
    message["method"] == "notifications/message"
}

fn assert_notice(notice: &Value, profile: &str) {
    assert_eq!(
        (&notice["event"], &notice["profile"]),
        (&"session-renewed".into(), &profile.into())
    );
    assert_names(notice["message"].as_str().unwrap(), &[profile, "Files", "gone"]);
}

#[tokio::test]
async fn the_agent_is_told_once_of_each_renewal() {
    let world = World::new().await;
    let mut client = world.client(&["dev", "staging"], &[]).await;
    for arguments in ["{}", OF_STAGING] {
        assert!(notice(&client.call("whoami", arguments).await).is_null());
    }
    for round in 0..2 {
        world.upstream.forget_sessions_of(world.home.identity("staging"));
        assert!(notice(&client.call("whoami", "{}").await).is_null(), "dev keeps its session");
        assert_notice(notice(&client.call("whoami", OF_STAGING).await), "staging");
        let log = client.expect("the log", is_log).await;
        assert_eq!(log["params"]["level"], "warning", "{round}");
        assert_names(log["params"]["data"].as_str().unwrap(), &["staging", "gone"]);
        assert!(notice(&client.call("whoami", OF_STAGING).await).is_null(), "once");
    }
    world.upstream.forget_sessions_of(world.home.identity("dev"));
    assert_notice(notice(&client.call("whoami", "{}").await), "dev");
    client.expect("the log", is_log).await;
    let (_, unread, _) = client.close().await;
    assert!(!unread.iter().any(|line| line.contains("notifications/message")), "{unread:?}");
}

/// A session without tool calls had no files.
#[tokio::test]
async fn a_session_without_calls_is_renewed_without_notice() {
    let world = World::new().await;
    let mut client = world.client(&["dev"], &[]).await;
    client.request("tools/list", "{}").await;
    world.upstream.forget_sessions();
    assert!(notice(&client.call("whoami", "{}").await).is_null());
    assert_eq!(world.upstream.requests_of("initialize").len(), 2, "it was renewed");
    assert!(!client.unread().iter().any(|line| line.contains("notifications/message")));
}

/// A client that wants only errors gets no warning, but the notice in the result.
#[tokio::test]
async fn the_warning_respects_the_client_s_log_level() {
    let world = World::new().await;
    let mut client = world.client(&["dev"], &[]).await;
    client.request("logging/setLevel", r#"{"level":"error"}"#).await;
    client.call("whoami", "{}").await;
    world.upstream.forget_sessions();
    assert_notice(notice(&client.call("whoami", "{}").await), "dev");
    client.request("tools/list", "{}").await;
    assert!(!client.unread().iter().any(|line| line.contains("notifications/message")));
}

/// Over HTTP, the proxy holds the sessions of other profiles: the warning comes in the client's stream.
#[tokio::test]
async fn an_http_client_gets_the_warning_in_its_stream() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &["dev", "staging"], &[]).await;
    let session = proxy.session(SESSIONS).await;
    let session: Vec<_> = session.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let whoami = async || -> Value {
        let params = call("whoami", OF_STAGING);
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        proxy.post(&session, &text).await.message().await
    };
    let mut stream = proxy.get(&session).await;
    assert!(notice(&whoami().await).is_null());
    world.upstream.forget_sessions_of(world.home.identity("staging"));
    assert_notice(notice(&whoami().await), "staging");
    let log: Value = serde_json::from_str(&data(&stream.expect_event("the log").await)).unwrap();
    assert!(is_log(&log), "{log}");
    assert_names(log["params"]["data"].as_str().unwrap(), &["staging"]);
    assert!(notice(&whoami().await).is_null(), "once");
}

/// An HTTP client renews its session itself: the next session of the same client is told of the lost ones, also those
/// of the other profiles, which end with its own.
#[tokio::test]
async fn an_http_client_is_told_of_the_sessions_that_it_renews_itself() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &["dev", "staging"], &[]).await;
    let call = |arguments: &str| {
        let params = call("whoami", arguments);
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#)
    };
    // A session without calls had nothing to lose.
    for (used, is_told) in [(false, false), (true, true)] {
        let session = proxy.session(SESSIONS).await;
        if used {
            for arguments in ["{}", OF_STAGING] {
                let called = proxy.post(&lines(&session), &call(arguments)).await.message().await;
                assert!(notice(&called).is_null(), "{called}");
            }
        }
        world.upstream.forget_sessions();
        let lost = proxy.post(&lines(&session), &call("{}")).await;
        assert_eq!(lost.status, 404);
        // Another kind of client comes first: it has lost nothing.
        let other = proxy.session_as(SESSIONS, OTHER).await;
        let called = proxy.post(&lines(&other), &call("{}")).await.message().await;
        assert!(notice(&called).is_null(), "{called}");

        let session = proxy.session(SESSIONS).await;
        let mut stream = proxy.get(&lines(&session)).await;
        for (arguments, profile) in [("{}", "dev"), (OF_STAGING, "staging")] {
            let called = proxy.post(&lines(&session), &call(arguments)).await.message().await;
            match is_told {
                true => assert_notice(notice(&called), profile),
                false => assert!(notice(&called).is_null(), "{called}"),
            }
            let again = proxy.post(&lines(&session), &call(arguments)).await.message().await;
            assert!(notice(&again).is_null(), "once");
        }
        if is_told {
            let mut warnings = Vec::new();
            for _ in 0..2 {
                let log = data(&stream.expect_event("the log").await);
                let log: Value = serde_json::from_str(&log).unwrap();
                assert!(is_log(&log), "{log}");
                warnings.push(log["params"]["data"].as_str().unwrap().to_owned());
            }
            assert!(
                ["dev", "staging"]
                    .iter()
                    .all(|it| warnings.iter().any(|warning| warning.contains(it)))
            );
        }
        // The client ends its session: the next one is no renewal.
        let ended = proxy.request("DELETE", "/mcp", &lines(&session), "").await;
        assert!(ended.status < 300, "{}", ended.status);
        let fresh = proxy.session(SESSIONS).await;
        let called = proxy.post(&lines(&fresh), &call("{}")).await.message().await;
        assert!(notice(&called).is_null(), "{called}");
        proxy.request("DELETE", "/mcp", &lines(&fresh), "").await;
    }
}
