//! The broker is killed under 32 calls in flight, ten times, and restarted. No call fails.
//!
//! In every other round it is stopped before the calls are sent: all of them wait for it when it is killed, even on a
//! busy machine. In the other rounds, some calls are at the broker, some at the server, and some are answered.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use rustix::process::Signal;
use sigward_tests::processes::{self, Process, StdioClient};
use sigward_tests::workloads::BROKER;
use tokio::process::Command;

use super::relay::Relay;
use super::{Notes, rule};
use crate::setup::{PASS_SOCKET, THREE, World, text};
use crate::tls::scene::{AGENT, Scene};

const ROUNDS: usize = 10;

/// One round: 32 calls, during which the broker `pid` is killed; `restart` starts it again.
async fn round(
    client: &mut StdioClient,
    world: &World,
    profiles: &[&str],
    number: usize,
    pid: u32,
    restart: impl AsyncFnOnce(),
) {
    let all_wait = number.is_multiple_of(2);
    if all_wait {
        processes::signal(pid, Signal::STOP);
    }
    let notes = Notes::send(client, profiles, number).await;
    processes::signal(pid, Signal::KILL);
    restart().await;
    notes.assert_written_once(client, world).await;
}

/// Opens a session of each profile.
async fn open_sessions(client: &mut StdioClient, world: &World, profiles: &[&str]) {
    for profile in profiles {
        let called = client.call("whoami", &format!(r#"{{"aws_profile":"{profile}"}}"#)).await;
        assert_eq!(text(&called), world.home.identity(profile));
    }
}

#[tokio::test]
async fn a_killed_private_broker_loses_no_call() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    open_sessions(&mut client, &world, &THREE).await;
    let mut seen = Vec::new();
    for number in 0..ROUNDS {
        // If all calls were signed before the kill, none has needed a broker since.
        let called = client.call("whoami", "{}").await;
        assert_eq!(text(&called), world.home.identity(THREE[0]));
        let brokers = processes::children(client.process().pid());
        assert_eq!(brokers.len(), 1, "one broker, and no zombie");
        assert!(!seen.contains(&brokers[0]), "a new broker each time");
        seen.push(brokers[0]);
        // The proxy restarts its broker by itself.
        round(&mut client, &world, &THREE, number, brokers[0], async || {}).await;
    }
}

/// A broker of a service manager: it inherits a socket that stays open when the broker is gone.
fn inheriting(world: &World, socket: &UnixListener) -> Command {
    let mut command = processes::command("/bin/sh".as_ref());
    command.envs(world.home.environment());
    command.args(["-c", PASS_SOCKET, "sh"]).arg(&processes::binaries().broker);
    command.arg("serve").arg("--config").arg(world.directory.path().join("broker.toml"));
    command.stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
    command
}

#[tokio::test]
async fn a_killed_broker_with_an_inherited_socket_loses_no_call() {
    let world = World::new().await;
    // The service manager has set the mode.
    let config = world.configuration(&rule(&THREE)).replace("mode = \"0660\"\n", "");
    world.write("broker.toml", &config);
    let socket = UnixListener::bind(world.socket()).unwrap();
    let mut broker = Process::start(inheriting(&world, &socket));
    broker.logged("listening").await;
    let mut client = world.client_of(&world.socket(), &THREE).await;
    open_sessions(&mut client, &world, &THREE).await;
    for number in 0..ROUNDS {
        let pid = broker.pid();
        let restart = async || {
            broker.ended().await;
            broker = Process::start(inheriting(&world, &socket));
        };
        round(&mut client, &world, &THREE, number, pid, restart).await;
    }
}

#[tokio::test]
async fn a_killed_broker_over_tls_loses_no_call() {
    let rule = crate::tls::scene::rule("spiffe_id", AGENT).replace("[\"dev\"]", "[\"*\"]");
    let mut scene = Scene::new(&rule).await;
    // The address changes with each start: another test may have taken the port.
    let relay = Relay::to(Some(scene.address)).await;
    scene.write_agent(&scene.authority.workload(AGENT));
    let mut client =
        StdioClient::start(scene.proxy_of(relay.address, &THREE, &["--broker-name", BROKER]));
    client.initialize().await;
    open_sessions(&mut client, &scene.world, &THREE).await;
    for number in 0..ROUNDS {
        if number.is_multiple_of(2) {
            scene.broker.signal(Signal::STOP);
        }
        let notes = Notes::send(&mut client, &THREE, number).await;
        relay.set_target(None);
        scene.broker.signal(Signal::KILL);
        scene.start_again().await;
        relay.set_target(Some(scene.address));
        notes.assert_written_once(&mut client, &scene.world).await;
    }
}
