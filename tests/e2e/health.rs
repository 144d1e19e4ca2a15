//! `health` of both programs, which probes of containers without a shell run; and a broker that is restarted while
//! calls wait for it.

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

fn assert_healthy(output: &Output) {
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty());
}

/// Asserts exit code 1, and one line with the reason.
fn assert_unhealthy(output: &Output, why: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(output.stdout.is_empty() && errors.lines().count() == 1, "{errors}");
    assert!(errors.contains(why), "{errors}");
}

/// A probe needs no rule: it runs as the user of the container.
#[tokio::test]
async fn a_broker_is_healthy_while_it_runs() {
    let world = World::new().await;
    let program = &processes::binaries().broker;
    let socket = format!("unix:{}", world.socket().display());
    assert_unhealthy(&health(program, &["--broker", &socket]).await, "No such file");
    let rule = format!("[[rule]]\npeer = {{ uid = {OTHER_UID} }}\nprofiles = [\"dev\"]\n");
    let mut broker = world.broker(&world.configuration(&rule)).await;
    assert_healthy(&health(program, &["--broker", &socket]).await);
    broker.signal(Signal::KILL);
    broker.ended().await;
    assert_unhealthy(&health(program, &["--broker", &socket]).await, "Connection refused");
}

#[tokio::test]
async fn a_listening_proxy_is_healthy_while_it_runs() {
    let world = World::new().await;
    let program = &processes::binaries().proxy;
    let socket = format!("unix:{}", world.directory.path().join("mcp.sock").display());
    for listen in ["127.0.0.1:0", &socket] {
        let mut proxy = Listening::start(&world, &["dev"], &["--listen", listen]).await;
        assert_healthy(&health(program, &[&proxy.address]).await);
        proxy.proxy.signal(Signal::KILL);
        proxy.proxy.ended().await;
        assert_unhealthy(&health(program, &[&proxy.address]).await, "Connection refused");
    }
    let wrong = health(program, &["example.com:80"]).await;
    assert_eq!(wrong.status.code(), Some(2));
}

/// Closes connections at once, as a broker does that is about to die; more often than a call is retried after a broken
/// connection.
async fn hang_up(socket: &Path, times: usize) {
    let listener = UnixListener::bind(socket).unwrap();
    for _ in 0..times {
        drop(listener.accept().await.unwrap());
    }
    drop(listener);
    std::fs::remove_file(socket).unwrap();
}

/// systemd and the kubelet restart a broker that died: calls wait for it meanwhile.
#[tokio::test]
async fn a_restarted_broker_loses_no_call() {
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

/// A broker that isn't restarted is reported in the end.
#[tokio::test]
async fn a_broker_that_is_not_restarted_is_an_error() {
    let world = World::new().await;
    let mut broker: Process = world.broker(&world.configuration("")).await;
    let mut client = world.client_of(&world.socket(), &["dev"]).await;
    text(&client.call("whoami", "{}").await);
    broker.signal(Signal::KILL);
    broker.ended().await;
    let called = client.call("whoami", "{}").await;
    assert_names(failure(&called), &["broker.sock", "sigward-broker serve"]);
}
