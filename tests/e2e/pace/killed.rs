//! Proxies that are killed while they hold places of `in_flight`: the places become free, and other proxies continue.

use rustix::process::Signal;
use sigward_tests::processes::{StdioClient, call};
use sigward_tests::upstream::{Gate, Reply, Step};

use super::broker::{configuration, metrics_address, until_waiting};
use crate::metrics::get;
use crate::setup::{World, assert_names, text};

/// Starts a call that the server answers once the gate is open, and waits until the server has it.
async fn begin(world: &World, client: &mut StdioClient, name: &str) -> serde_json::Value {
    let arguments = format!(r#"{{"caller":"{name}"}}"#);
    let id = client.start_request("tools/call", &call("echo", &arguments)).await;
    let is_there = |it: &sigward_tests::upstream::Received| {
        it.calls("echo") && it.param("/arguments/caller") == name
    };
    world.upstream.expect("the call", is_there).await;
    id
}

#[tokio::test]
async fn the_places_of_a_killed_proxy_become_free_and_others_continue() {
    let world = World::new().await;
    let gate = Gate::default();
    let held = gate.clone();
    world.upstream.hook(move |request| {
        let steps = vec![Step::Wait(held.clone()), Step::UsualResponse];
        request.calls("echo").then(|| Reply::Stream(steps))
    });
    let pace = "pace = { in_flight = 3, wait = \"5m\" }";
    let broker = world.broker(&configuration(&world, pace)).await;
    let metrics = metrics_address(&broker).await;
    let mut killed = world.client_of(&world.socket(), &["dev"]).await;
    let mut survivor = world.client_of(&world.socket(), &["dev"]).await;
    let mut waiting = world.client_of(&world.socket(), &["dev"]).await;
    begin(&world, &mut killed, "first").await;
    begin(&world, &mut killed, "second").await;
    let holding = begin(&world, &mut survivor, "third").await;
    // The handshakes have ended: the three calls hold all places.
    let mut asked = Vec::new();
    for number in 1..=2 {
        asked.push(waiting.start_request("tools/call", &call("whoami", "{}")).await);
        until_waiting(&metrics, number).await;
    }
    let counted = get(&metrics, "/metrics").await;
    assert_names(&counted, &["sigward_endpoint_in_flight{endpoint=\"upstream\"} 3"]);

    killed.process().signal(Signal::KILL);
    for id in asked {
        assert_eq!(text(&waiting.response(&id).await), world.home.identity("dev"));
    }
    // The survivor's call still has its place, and completes.
    gate.open();
    text(&survivor.response(&holding).await);
    text(&survivor.call("whoami", "{}").await);
    let (_, errors) = killed.ended().await;
    assert!(!errors.contains("panicked"), "{errors}");
}
