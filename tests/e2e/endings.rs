//! Endings: of the client, of the proxy, of the brokers. Nobody is left behind.

mod listening;
mod stdio;

use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use sigward_tests::{deadline, processes};

use crate::setup::{THREE, World, own_uid, text};

/// Waits until a process that isn't our child is gone, by what the kernel offers for that.
async fn gone(pid: u32) {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
    let Ok(handle) = pidfd_open(raw, PidfdFlags::empty()) else { return };
    let limit = Timespec { tv_sec: deadline::DEADLINE.as_secs().try_into().unwrap(), tv_nsec: 0 };
    let waiting = tokio::task::spawn_blocking(move || {
        poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit))
    });
    assert_eq!(waiting.await.unwrap(), Ok(1), "process {pid} lives on");
}

/// How long an end may take.
const LIMIT: Duration = Duration::from_secs(2);

/// The sessions that are open, of all profiles.
fn sessions(world: &World) -> Vec<String> {
    THREE.iter().flat_map(|name| world.upstream.sessions_of(world.home.identity(name))).collect()
}

/// Fails unless each of `sessions` was ended by a signed DELETE.
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

/// At the end there is nothing more to say.
#[tokio::test]
async fn the_end_of_input_ends_everything() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    for profile in THREE {
        let called = client.call("whoami", &format!(r#"{{"aws_profile":"{profile}"}}"#)).await;
        assert_eq!(text(&called), world.home.identity(profile));
    }
    let open = sessions(&world);
    let (status, unread, errors) = client.close().await;
    assert!(status.success(), "{errors}");
    assert_eq!(unread, [""; 0], "nothing is said at the end");
    assert_all_ended(&world, &open);
}

/// A call that never ends doesn't keep the proxy.
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
async fn the_proxy_s_death_ends_its_broker() {
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
async fn a_broker_drains_and_takes_its_socket_along() {
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
    assert!(!Path::new(&world.socket()).exists(), "the socket is gone");
}
