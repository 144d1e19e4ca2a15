//! The end of the client, the proxy and the brokers: no process and no session is left.

mod listening;
mod stdio;

use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use sigward_tests::{deadline, processes};

use crate::setup::{THREE, World, own_uid, text};

/// Waits until a process that isn't our child is gone, with a pidfd.
async fn gone(pid: u32) {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
    let Ok(handle) = pidfd_open(raw, PidfdFlags::empty()) else { return };
    let limit = Timespec { tv_sec: deadline::DEADLINE.as_secs().try_into().unwrap(), tv_nsec: 0 };
    let waiting = tokio::task::spawn_blocking(move || {
        poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit))
    });
    assert_eq!(waiting.await.unwrap(), Ok(1), "process {pid} still runs");
}

/// The time limit for an end.
const LIMIT: Duration = Duration::from_secs(2);

/// The open sessions of all profiles.
fn sessions(world: &World) -> Vec<String> {
    THREE.iter().flat_map(|name| world.upstream.sessions_of(world.home.identity(name))).collect()
}

/// Asserts that each of `sessions` was ended by a signed DELETE.
fn assert_all_ended(world: &World, sessions: &[String]) {
    let requests = world.upstream.requests();
    for session in sessions {
        let ended = requests.iter().any(|request| {
            request.http_method == "DELETE"
                && request.signature.is_ok()
                && request.header("mcp-session-id") == Some(session)
        });
        assert!(ended, "{session} was not ended by a signed DELETE");
    }
}

#[tokio::test]
async fn the_end_of_input_ends_the_proxy_and_its_sessions() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    for profile in THREE {
        let called = client.call("whoami", &format!(r#"{{"aws_profile":"{profile}"}}"#)).await;
        assert_eq!(text(&called), world.home.identity(profile));
    }
    let open = sessions(&world);
    let (status, unread, errors) = client.close().await;
    assert!(status.success(), "{errors}");
    assert_eq!(unread, [""; 0], "nothing is written at the end");
    assert_all_ended(&world, &open);
}

/// A call without an answer doesn't keep the proxy running.
#[tokio::test]
async fn the_end_of_input_ends_calls_in_flight() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    client.start_request("tools/call", &processes::call("slow", "{}")).await;
    let call = world.upstream.expect("the slow call", |request| request.calls("slow")).await;
    let (status, ..) = client.close().await;
    assert!(status.success());
    world.upstream.expect_abandoned(&call).await;
}

#[tokio::test]
async fn the_death_of_the_proxy_ends_its_broker() {
    for signal in [Signal::TERM, Signal::KILL] {
        let world = World::new().await;
        let mut client = world.client(&["dev"], &[]).await;
        let called = client.call("whoami", "{}").await;
        assert_eq!(text(&called), world.home.identity("dev"));
        let broker = processes::children(client.process().pid())[0];
        client.process().signal(signal);
        client.ended().await;
        gone(broker).await;
    }
}

#[tokio::test]
async fn a_broker_drains_and_removes_its_socket() {
    let world = World::new().await;
    let rule = format!(
        "[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"dev\"]\nendpoints = [\"upstream\"]",
        own_uid()
    );
    let mut broker = world.broker(&world.configuration(&rule)).await;
    let mut client = world.client_of(&world.socket(), &["dev"]).await;
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), world.home.identity("dev"));
    broker.signal(Signal::TERM);
    let (status, errors) = broker.ended().await;
    assert!(status.success(), "{errors}");
    assert!(!Path::new(&world.socket()).exists(), "the socket is removed");
}
