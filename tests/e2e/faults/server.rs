//! The server resets a connection, says nothing, or has no room and says when to come again: a write is sent once and
//! its error says what happened; what is repeatable is repeated where `--retries` asks for it, and not before the server
//! wants it. (Throttling, which says that the server didn't act, is in `pace`.)

use std::time::{Duration, Instant};

use serde_json::Value;
use sigward_tests::processes::StdioClient;
use sigward_tests::upstream::{Gate, Received, Reply};

use super::relay::Relay;
use crate::agent::{Agent, SESSIONS, SIDES, STATELESS};
use crate::setup::{World, assert_names, failure, text};

/// How often a tool was called.
fn calls(world: &World, tool: &str) -> usize {
    world.upstream.requests().iter().filter(|it| it.calls(tool)).count()
}

/// With a request in the server's hands, however many retries there are.
#[tokio::test]
async fn a_reset_executes_no_write_twice() {
    let world = World::new().await;
    let url = world.upstream.url();
    let own = url.trim_start_matches("http://").trim_end_matches("/mcp").parse().unwrap();
    let relay = Relay::to(Some(own)).await;
    let url = format!("http://{}/mcp", relay.address);
    let arguments = ["--broker", "private", "--retries", "3", "--profile", "dev"];
    let mut client = StdioClient::start(world.proxy_to(&url, &arguments));
    client.initialize().await;
    let never = Gate::default();
    for (tool, times) in [("write_note", 1), ("whoami", 2)] {
        // What it is before any list is found out by one.
        client.request("tools/list", "{}").await;
        world.upstream.next("tools/call", Reply::Usual.held(&never));
        let id = client.start_request("tools/call", &format!(r#"{{"name":"{tool}"}}"#)).await;
        world.upstream.expect("the call", |it: &Received| it.calls(tool)).await;
        relay.reset();
        let answer = client.response(&id).await;
        match tool {
            "write_note" => assert_names(failure(&answer), &[&relay.address.to_string()]),
            _ => assert_eq!(text(&answer), world.home.identity("dev")),
        }
        assert_eq!(calls(&world, tool), times, "{tool}");
    }
    assert_eq!(text(&client.call("whoami", "{}").await), world.home.identity("dev"));
}

/// A call of a tool that gets no answer; the client hears of its limit, and the next one works.
#[tokio::test]
async fn a_stall_ends_at_its_limit_and_executes_no_write_twice() {
    for side in SIDES {
        for version in [SESSIONS, STATELESS] {
            let world = World::new().await;
            let arguments = ["--tool-timeout", "2", "--retries", "3"];
            let mut agent = Agent::start(&world, side, version, &["dev"], &arguments).await;
            let never = Gate::default();
            world.upstream.next("tools/call", Reply::Usual.held(&never));
            let late = agent.call("write_note", "{}").await;
            assert_names(failure(&late), &["--tool-timeout"]);
            assert_eq!(calls(&world, "write_note"), 1, "{side:?} {version}");
            assert_eq!(text(&agent.call("whoami", "{}").await), world.home.identity("dev"));
        }
    }
}

/// A server that has no room, with the seconds after which it wants to be asked again.
fn no_room(status: u16, seconds: &str) -> Reply {
    Reply::Http(status, vec![("retry-after", seconds.to_owned())], String::new())
}

#[tokio::test]
async fn no_room_is_said_for_a_write_and_waited_out_for_what_is_repeatable() {
    let world = World::new().await;
    let mut client = world.client(&["dev"], &["--retries", "3"]).await;
    client.request("tools/list", "{}").await;
    for status in [500, 503] {
        let shown = status.to_string();
        let (written, read) = (calls(&world, "write_note"), calls(&world, "whoami"));
        world.upstream.next("tools/call", no_room(status, "1"));
        let refused = client.call("write_note", "{}").await;
        assert_names(failure(&refused), &[&shown]);
        assert_eq!(calls(&world, "write_note") - written, 1, "{status}");

        world.upstream.next("tools/call", no_room(status, "1"));
        let begun = Instant::now();
        assert_eq!(text(&client.call("whoami", "{}").await), world.home.identity("dev"));
        assert!(begun.elapsed() >= Duration::from_secs(1), "{status}: it came too early");
        assert_eq!(calls(&world, "whoami") - read, 2, "{status}");

        // More patience than a caller has.
        world.upstream.next("tools/call", no_room(status, "3600"));
        let refused: Value = client.call("whoami", "{}").await;
        assert_names(failure(&refused), &[&shown]);
        assert_eq!(calls(&world, "whoami") - read, 3, "{status}");
    }
}
