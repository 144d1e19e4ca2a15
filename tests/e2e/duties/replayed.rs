//! Requests of the client that are repeated in every session that is opened later or renewed.

use serde_json::json;
use sigward_tests::upstream::{Received, Reply};

use super::signed_by;
use crate::agent::{Agent, SESSIONS, SIDES, Side};
use crate::setup::{THREE, World, text};

fn levels(world: &World, profile: &str) -> Vec<String> {
    let requests = signed_by(world, "logging/setLevel", profile);
    requests.iter().map(|it| it.param("/level").as_str().unwrap().to_owned()).collect()
}

/// The log level reaches open sessions, sessions that are opened later, and renewed ones.
#[tokio::test]
async fn log_levels_reach_every_session() {
    for side in SIDES {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &[]).await;
        text(&agent.call_as("whoami", "staging").await);
        for level in ["debug", "warning"] {
            let params = json!({ "level": level }).to_string();
            let set = agent.request("logging/setLevel", &params).await;
            assert!(set["result"].is_object(), "{set}");
            for profile in ["dev", "staging"] {
                let received = |it: &Received| {
                    it.method() == "logging/setLevel"
                        && it.identity() == world.home.identity(profile)
                        && it.param("/level") == level
                };
                world.upstream.expect("the level", received).await;
            }
        }
        text(&agent.call_as("whoami", "prod").await);
        assert_eq!(
            levels(&world, "prod"),
            ["warning"],
            "{side:?}: only the last one, before the call"
        );
        world.upstream.next("tools/call", Reply::Http(404, Vec::new(), String::new()));
        text(&agent.call_as("whoami", "prod").await);
        assert_eq!(levels(&world, "prod"), ["warning", "warning"], "{side:?}: renewed");
        if side == Side::Stdio {
            world.upstream.next("tools/call", Reply::Http(404, Vec::new(), String::new()));
            text(&agent.call_as("whoami", "dev").await);
            assert_eq!(levels(&world, "dev"), ["debug", "warning", "warning"]);
        }
    }
}

/// Subscriptions belong to their session: in a renewed one they are repeated, except for those that were ended.
#[tokio::test]
async fn subscriptions_are_repeated_in_a_renewed_session() {
    for (side, profile) in [(Side::Stdio, "dev"), (Side::Stdio, "prod"), (Side::Listening, "prod")]
    {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &[]).await;
        for (method, uri) in [
            ("resources/subscribe", "test://kept"),
            ("resources/subscribe", "test://ended"),
            ("resources/unsubscribe", "test://ended"),
        ] {
            let params = json!({"uri": uri, "_meta": {"sigward/profile": profile}, "x": 1});
            let done = agent.request(method, &params.to_string()).await;
            assert!(done["result"].is_object(), "{done}");
        }
        let before = signed_by(&world, "resources/subscribe", profile).len();
        assert_eq!(before, 2);
        world.upstream.forget_sessions_of(world.home.identity(profile));
        text(&agent.call_as("whoami", profile).await);
        let again = signed_by(&world, "resources/subscribe", profile).split_off(before);
        assert_eq!(again.len(), 1, "{side:?} {profile}");
        assert_eq!(again[0].param("/uri"), "test://kept");
        assert_eq!(again[0].param("/x"), 1, "the client's own params");
        assert!(!again[0].text().contains("sigward/profile"));
        let others: Vec<_> = THREE.iter().filter(|other| **other != profile).collect();
        for other in others {
            assert_eq!(signed_by(&world, "resources/subscribe", other).len(), 0, "{other}");
        }
    }
}

/// A second handshake ends the sessions of the first, and repeats none of its requests.
#[tokio::test]
async fn a_second_handshake_starts_over() {
    let world = World::new().await;
    let mut agent = Agent::start(&world, Side::Stdio, SESSIONS, &THREE, &[]).await;
    agent.request("logging/setLevel", r#"{"level":"debug"}"#).await;
    agent.request("resources/subscribe", r#"{"uri":"test://first"}"#).await;
    text(&agent.call_as("whoami", "prod").await);
    // A server that is slow to end a session doesn't block the new one.
    let never = sigward_tests::upstream::Gate::default();
    world.upstream.next("DELETE", Reply::Usual.held(&never));
    agent.initialize("{}").await;
    for profile in ["dev", "prod"] {
        let ended = |it: &Received| {
            it.http_method == "DELETE" && it.identity() == world.home.identity(profile)
        };
        world.upstream.expect("the end of the first session", ended).await;
    }
    world.upstream.forget_sessions();
    for profile in ["dev", "prod"] {
        text(&agent.call_as("whoami", profile).await);
    }
    assert_eq!(
        world.upstream.requests_of("logging/setLevel").len(),
        2,
        "one of dev, one of the first session of prod"
    );
    assert_eq!(world.upstream.requests_of("resources/subscribe").len(), 1);
}
