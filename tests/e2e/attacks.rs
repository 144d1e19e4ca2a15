//! What another user of the machine can do to a broker by sending it things: each attack of the review, made by another
//! real user on the real binary, with a polite caller beside it. The broker's memory stays within a constant of its idle
//! size, the polite caller is answered, and what the attack took is given back.
//!
//! They run as root alone: only root can be someone else.

mod floods;
mod scene;

use self::scene::{ATTACKER, Scene};

const HEALTH: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const SIGN: &str = "/sigward.broker.v1.Broker/Sign";

/// A rule for the attacker that has the broker read the body.
fn admitted() -> String {
    format!(
        "[[rule]]\npeer = {{ uid = {ATTACKER} }}\nprofiles = [\"dev\"]\nendpoints = [\"upstream\"]\ntools = {{ allow = [\"who*\"] }}\n"
    )
}

/// F1: one message of an admitted caller, small on the wire and large once it is decoded.
#[tokio::test]
async fn a_message_of_71_mib_is_not_held() {
    let Some(scene) = Scene::new(&admitted()).await else { return };
    for (kind, reason) in [
        ("headers", Some("INVALID_HEADER")),
        ("nested", Some("AMBIGUOUS_JSON")),
        ("deep", Some("AMBIGUOUS_JSON")),
        ("name", Some("AMBIGUOUS_JSON")),
        // `params` before `method`, and two million keys: a call like any other.
        ("keys", None),
    ] {
        scene.calm_during(&["sign", kind, &scene.world.upstream.url()], &[]).await;
        let last = scene.last_record_of_the_attacker().await;
        let found = last["reason"].as_str().filter(|_| last["decision"] == "deny");
        assert_eq!(found, reason, "{kind}: {last}");
    }
}

/// F2: streams that never end, by someone whom no rule matches and by someone whom one does, on one connection and on
/// many.
#[tokio::test]
async fn streams_without_an_end_are_bounded() {
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
            scene.calm_during(&["streams", path, streams, head, connections], &[]).await;
        }
    }
}

/// F2: each malformed request makes the broker send a reset, which costs it more than the request costs the attacker
/// (RUSTSEC-2024-0003). A few are answered; of 5,000 it hangs up.
#[tokio::test]
async fn malformed_requests_end_the_connection() {
    for rule in [String::new(), admitted()] {
        let Some(scene) = Scene::new(&rule).await else { return };
        for (count, word) in [("100", "resets=100 closed=false"), ("5000", "closed=true")] {
            scene.calm_during(&["malformed", count], &[word]).await;
        }
    }
}
