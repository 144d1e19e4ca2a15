//! `health` of both programs: what probes of containers run, which have no shell. And a broker that is started again
//! while calls wait for it.

use std::path::Path;
use std::process::Output;

use rustix::process::Signal;
use sigward_tests::processes::{self, Process};
use tokio::net::UnixListener;

use crate::broker::OTHER_UID;
use crate::http::Listening;
use crate::setup::{World, assert_names, failure, text};

async fn health(program: &Path, arguments: &[&str]) -> Output {
    let mut command = processes::command(program);
    command.arg("health").args(arguments);
    command.output().await.unwrap()
}

fn assert_well(output: &Output) {
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty());
}

/// Exit code 1, and one line that says why.
fn assert_ill(output: &Output, why: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(output.stdout.is_empty() && errors.lines().count() == 1, "{errors}");
    assert!(errors.contains(why), "{errors}");
}

/// A probe needs no rule: it runs as whoever the container is.
#[tokio::test]
async fn a_broker_is_well_as_long_as_it_lives() {
    let world = World::new().await;
    let program = &processes::binaries().broker;
    let socket = format!("unix:{}", world.socket().display());
    assert_ill(&health(program, &["--broker", &socket]).await, "No such file");
    let rule = format!("[[rule]]\npeer = {{ uid = {OTHER_UID} }}\nprofiles = [\"dev\"]\n");
    let mut broker = world.broker(&world.configuration(&rule)).await;
    assert_well(&health(program, &["--broker", &socket]).await);
    broker.signal(Signal::KILL);
    broker.ended().await;
    assert_ill(&health(program, &["--broker", &socket]).await, "Connection refused");
}

#[tokio::test]
async fn a_listening_proxy_is_well_as_long_as_it_lives() {
    let world = World::new().await;
    let program = &processes::binaries().proxy;
    let socket = format!("unix:{}", world.directory.path().join("mcp.sock").display());
    for listen in ["127.0.0.1:0", &socket] {
        let mut proxy = Listening::start(&world, &["dev"], &["--listen", listen]).await;
        assert_well(&health(program, &[&proxy.address]).await);
        proxy.proxy.signal(Signal::KILL);
        proxy.proxy.ended().await;
        assert_ill(&health(program, &[&proxy.address]).await, "Connection refused");
    }
    let wrong = health(program, &["example.com:80"]).await;
    assert_eq!(wrong.status.code(), Some(2));
}

/// Connections that end at once, as those to a broker that is about to die; more of them than a broken connection is
/// asked again for.
async fn hang_up(socket: &Path, times: usize) {
    let listener = UnixListener::bind(socket).unwrap();
    for _ in 0..times {
        drop(listener.accept().await.unwrap());
    }
    drop(listener);
    std::fs::remove_file(socket).unwrap();
}

/// systemd and the kubelet start a broker again that died: calls wait for it meanwhile.
#[tokio::test]
async fn a_broker_that_is_started_again_loses_no_call() {
    let world = World::new().await;
    let config = world.configuration("");
    let mut broker = world.broker(&config).await;
    let mut client = world.client_of(&world.socket(), &["dev"]).await;
    text(&client.call("whoami", "{}").await);
    broker.signal(Signal::KILL);
    broker.ended().await;
    std::fs::remove_file(world.socket()).unwrap();
    let socket = world.socket();
    let restarted = async {
        hang_up(&socket, 6).await;
        world.broker(&config).await
    };
    let (called, _broker) = tokio::join!(client.call("whoami", "{}"), restarted);
    assert_eq!(text(&called), world.home.identity("dev"));
}

/// One that stays away is named in the end.
#[tokio::test]
async fn a_broker_that_is_gone_is_an_error() {
    let world = World::new().await;
    let mut broker: Process = world.broker(&world.configuration("")).await;
    let mut client = world.client_of(&world.socket(), &["dev"]).await;
    text(&client.call("whoami", "{}").await);
    broker.signal(Signal::KILL);
    broker.ended().await;
    let called = client.call("whoami", "{}").await;
    assert_names(failure(&called), &["broker.sock", "sigward-broker serve"]);
}
