//! Attacks of another user of the machine who sends things to the broker: each attack of the review, made by another
//! real user on the real binary, next to a normal caller. The broker's memory stays within a constant of its idle size,
//! the normal caller is answered, and the resources of the attack are released.
//!
//! These tests need root, to run the attacker as another user.

mod floods;
mod scene;

use self::scene::{ATTACKER, Scene};

const HEALTH: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const SIGN: &str = "/sigward.broker.v1.Broker/Sign";

/// A rule for the attacker that makes the broker read the body.
fn admitted() -> String {
    format!(
        "[[rule]]\npeer = {{ uid = {ATTACKER} }}\nprofiles = [\"dev\"]\nendpoints = [\"upstream\"]\ntools = {{ allow = [\"who*\"] }}\n"
    )
}

/// F1: a message of an admitted caller, small on the wire and large once it is decoded.
#[tokio::test]
async fn a_message_of_71_mib_is_not_kept_in_memory() {
    let Some(scene) = Scene::new(&admitted()).await else { return };
    for (kind, reason) in [
        ("headers", Some("INVALID_HEADER")),
        ("nested", Some("AMBIGUOUS_JSON")),
        ("deep", Some("AMBIGUOUS_JSON")),
        ("name", Some("AMBIGUOUS_JSON")),
        // `params` before `method`, and two million keys: a call like any other.
        ("keys", None),
    ] {
        scene.assert_bounded_cost(&["sign", kind, &scene.world.upstream.url()], &[]).await;
        let last = scene.last_record_of_the_attacker().await;
        let found = last["reason"].as_str().filter(|_| last["decision"] == "deny");
        assert_eq!(found, reason, "{kind}: {last}");
    }
}

/// F2: endless streams, of a caller without a matching rule and of one with a rule, on one connection and on many.
#[tokio::test]
async fn endless_streams_use_bounded_memory() {
    for rule in [String::new(), admitted()] {
        let Some(scene) = Scene::new(&rule).await else { return };
        for (path, streams, head, connections) in [
            (HEALTH, "20000", "14000", "1"),
            (HEALTH, "20000", "14000", "80"),
            (SIGN, "20000", "3500", "80"),
            (SIGN, "60000", "1500", "250"),
            (WATCH, "20000", "10", "1"),
            (WATCH, "20000", "10", "80"),
        ] {
            scene.assert_bounded_cost(&["streams", path, streams, head, connections], &[]).await;
        }
    }
}

/// F2: each malformed request makes the broker send a reset, which costs it more than the request costs the attacker
/// (RUSTSEC-2024-0003). A few are answered; after 5,000 the connection is closed.
#[tokio::test]
async fn many_malformed_requests_close_the_connection() {
    for rule in [String::new(), admitted()] {
        let Some(scene) = Scene::new(&rule).await else { return };
        for (count, word) in [("100", "resets=100 closed=false"), ("5000", "closed=true")] {
            scene.assert_bounded_cost(&["malformed", count], &[word]).await;
        }
    }
}
