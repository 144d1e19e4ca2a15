//! Commands and brokers whose other side has stopped or gone: they end, and say so.

use std::process::Stdio;
use std::time::Instant;

use rustix::process::Signal;
use sigward_proto::v1::{ListProfilesRequest, SignRequest};
use sigward_tests::deadline;
use sigward_tests::processes::{self, Process};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::setup::{World, assert_names, connect, own_uid};

fn rule() -> String {
    let uid = own_uid();
    format!(
        "[[rule]]\npeer = {{ uid = {uid} }}\nprofiles = [\"dev\"]\nendpoints = [\"upstream\"]\nlogin = true\n"
    )
}

#[tokio::test]
async fn login_at_a_stopped_broker_says_so() {
    let world = World::new().await;
    let broker = world.broker(&world.configuration(&rule())).await;
    broker.signal(Signal::STOP);
    let address = format!("unix:{}", world.socket().display());
    let mut login = Process::start(world.broker_command(&["login", "dev", "--broker", &address]));
    let (status, errors) = login.ended().await;
    broker.signal(Signal::CONT);
    assert!(!status.success());
    assert_names(&errors, &["the broker doesn't answer: is it stopped?"]);
}

/// `status --watch | head -1`: nothing changes, and there is nobody to tell of it.
#[tokio::test]
async fn status_ends_when_its_reader_is_gone() {
    let world = World::new().await;
    let _broker = world.broker(&world.configuration(&rule())).await;
    let address = format!("unix:{}", world.socket().display());
    let mut command = world.broker_command(&["status", "--watch", "--broker", &address]);
    let mut status = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(status.stdout.take().unwrap()).lines();
    let first = deadline::within(lines.next_line(), || "no line".to_owned()).await.unwrap();
    assert_names(&first.unwrap(), &["PROFILE"]);
    drop(lines);
    let ended = deadline::within(status.wait(), || "status doesn't end".to_owned()).await;
    assert!(ended.unwrap().success());
}

/// The first signal waits for a call in flight, the second doesn't.
#[tokio::test]
async fn a_second_signal_ends_a_broker_that_drains() {
    let world = World::new().await;
    // Its end comes with that of the test.
    let started = world.directory.path().join("started");
    let hangs =
        world.write("hangs", &format!("#!/bin/sh\n: > {}\nexec sleep 60\n", started.display()));
    let config = world.home.config_file();
    let mut text = std::fs::read_to_string(&config).unwrap();
    text += &format!("\n[profile hangs]\ncredential_process = sh {}\n", hangs.display());
    std::fs::write(&config, text).unwrap();
    let profile = "[[profile]]\nname = \"hangs\"\nendpoints = [\"upstream\"]\npreload = false\n";
    let more = format!(
        "[metrics]\nlisten = \"127.0.0.1:0\"\n{profile}{}",
        rule().replace("[\"dev\"]", "[\"hangs\"]")
    );
    let mut broker = world.broker(&world.configuration(&more)).await;
    let line = broker.logged("serving metrics").await;
    let address = line.split("address=").nth(1).unwrap().trim().to_owned();
    let mut client = connect(&world.socket()).await;
    let request = sigward_proto::v1::SignRequest {
        profile: "hangs".to_owned(),
        method: "GET".to_owned(),
        uri: world.upstream.url(),
        ..Default::default()
    };
    let call = tokio::spawn(async move { client.sign(request).await });
    let running = async {
        while !started.exists() {
            tokio::task::yield_now().await;
        }
    };
    deadline::within(running, || format!("no load: {}", broker.errors())).await;
    let health = crate::metrics::get(&address, "/healthz").await;
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    broker.signal(Signal::TERM);
    broker.logged("draining").await;
    // Whoever sends callers here learns that it is about to end.
    let draining = async {
        while !crate::metrics::get(&address, "/healthz").await.starts_with("HTTP/1.1 503") {}
    };
    deadline::within(draining, || "it never says that it drains".to_owned()).await;
    let second = Instant::now();
    processes::signal(broker.pid(), Signal::TERM);
    broker.ended().await;
    // A drain would take 10 s.
    assert!(second.elapsed().as_secs() < 5, "it took {:?}", second.elapsed());
    assert!(call.await.unwrap().is_err());
}

/// A home on a disk that hangs: whoever reads a terminal that nobody writes to waits for ever. What is loaded goes on
/// signing, the list is answered, and the broker ends in time.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_home_that_hangs_holds_up_nobody_else() {
    let world = World::new().await;
    // Where a profile names a file, a confined broker may open those beside it.
    world.home.config(
        "[profile tool]\nrole_arn = arn:aws:iam::123456789012:role/X\nweb_identity_token_file = /dev/null\n",
    );
    let rule = rule().replace("[\"dev\"]", "[\"dev\", \"staging\"]");
    let tool = "[[profile]]\nname = \"tool\"\nendpoints = [\"upstream\"]\n";
    let mut broker = world.broker(&world.configuration(&format!("{tool}{rule}"))).await;
    let client = connect(&world.socket()).await;
    let sign = |profile: &str| {
        let mut client = client.clone();
        let request = SignRequest {
            profile: profile.to_owned(),
            method: "GET".to_owned(),
            uri: world.upstream.url(),
            ..Default::default()
        };
        async move { client.sign(request).await }
    };
    sign("dev").await.unwrap();

    let credentials = world.home.credentials_file();
    std::fs::remove_file(&credentials).unwrap();
    std::os::unix::fs::symlink("/dev/ptmx", &credentials).unwrap();
    // It has to read the file, like the watch, which sees the change.
    let hangs = tokio::spawn(sign("staging"));
    for _ in 0..100 {
        deadline::within(sign("dev"), || "nothing is signed".to_owned()).await.unwrap();
    }
    let mut other = connect(&world.socket()).await;
    let listed = other.list_profiles(ListProfilesRequest {});
    let listed = deadline::within(listed, || "no list".to_owned()).await.unwrap().into_inner();
    assert_eq!(listed.profiles.len(), 2);
    assert!(!hangs.is_finished(), "the home doesn't hang: {}", broker.errors());

    // Whoever waits for it is not waited for, once it is gone; and the disk is never.
    hangs.abort();
    drop((hangs.await, other));
    let signalled = Instant::now();
    broker.signal(Signal::TERM);
    broker.ended().await;
    // The contract says 2 s; a drain that waited would take 10.
    assert!(signalled.elapsed().as_secs() < 5, "it took {:?}", signalled.elapsed());
}
