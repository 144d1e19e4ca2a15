//! The server resets a connection, doesn't answer, or is overloaded and says when to retry: a write is sent once and
//! its error says what happened; repeatable calls are repeated if `--retries` permits it, and not before the server
//! wants it. (Throttling, which means that the server didn't act, is in `pace`.)

use std::time::{Duration, Instant};

use serde_json::Value;
use sigward_tests::processes::StdioClient;
use sigward_tests::upstream::{Gate, Received, Reply};

use super::relay::Relay;
use crate::agent::{Agent, SESSIONS, SIDES, STATELESS};
use crate::setup::{World, assert_names, failure, text};

/// The number of calls of a tool.
fn calls(world: &World, tool: &str) -> usize {
    world.upstream.requests().iter().filter(|it| it.calls(tool)).count()
}

/// The server has received the request, and `--retries` permits more attempts.
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
        // Without a known list of tools, the proxy would request one before the call.
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

/// A tool call without an answer: the client gets the timeout as an error, and the next call works.
#[tokio::test]
async fn a_stalled_call_times_out_and_executes_no_write_twice() {
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

/// The answer of an overloaded server, with the seconds after which to retry.
fn overloaded(status: u16, seconds: &str) -> Reply {
    Reply::Http(status, vec![("retry-after", seconds.to_owned())], String::new())
}

#[tokio::test]
async fn an_overloaded_server_fails_writes_and_delays_repeatable_calls() {
    let world = World::new().await;
    let mut client = world.client(&["dev"], &["--retries", "3"]).await;
    client.request("tools/list", "{}").await;
    for status in [500, 503] {
        let shown = status.to_string();
        let (written, read) = (calls(&world, "write_note"), calls(&world, "whoami"));
        world.upstream.next("tools/call", overloaded(status, "1"));
        let refused = client.call("write_note", "{}").await;
        assert_names(failure(&refused), &[&shown]);
        assert_eq!(calls(&world, "write_note") - written, 1, "{status}");

        world.upstream.next("tools/call", overloaded(status, "1"));
        let begun = Instant::now();
        assert_eq!(text(&client.call("whoami", "{}").await), world.home.identity("dev"));
        assert!(begun.elapsed() >= Duration::from_secs(1), "{status}: it was repeated too early");
        assert_eq!(calls(&world, "whoami") - read, 2, "{status}");

        // A longer delay than a caller waits for.
        world.upstream.next("tools/call", overloaded(status, "3600"));
        let refused: Value = client.call("whoami", "{}").await;
        assert_names(failure(&refused), &[&shown]);
        assert_eq!(calls(&world, "whoami") - read, 3, "{status}");
    }
}
