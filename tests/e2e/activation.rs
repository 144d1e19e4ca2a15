//! A listening socket that the service manager passes, as systemd does: `LISTEN_FDS` and `LISTEN_PID`
//! (sd_listen_fds(3)).

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use rustix::process::Signal;
use sigward_proto::v1::ListProfilesRequest;
use sigward_tests::processes::{self, Process};
use sigward_tests::tools;

use crate::setup::{PASS_SOCKET, World, connect, own_uid};

/// The broker takes the socket before it has a second thread: taking it removes the variables from the environment, and
/// `getenv` in another thread (e.g. in the C library's resolver) could read freed memory.
#[tokio::test]
async fn an_inherited_socket_is_taken_before_a_second_thread_starts() {
    let world = World::new().await;
    let rule = format!("[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"dev\"]\n", own_uid());
    // The service manager has set the mode.
    let config = world.configuration(&rule).replace("mode = \"0660\"\n", "");
    let config = world.write("broker.toml", &config);
    let trace = world.directory.path().join("trace");
    let strace = tools::strace();
    let mut command = processes::command(&strace.program);
    command.envs(world.home.environment());
    if let Some(libraries) = &strace.libraries {
        command.env("LD_LIBRARY_PATH", libraries);
        command.args(["-E", "LD_LIBRARY_PATH"]);
    }
    command.args(["-f", "-e", "trace=execve,clone,clone3,fstat,getsockname,getsockopt", "-o"]);
    command.arg(&trace);
    command.args(["/bin/sh", "-c", PASS_SOCKET, "sh"]).arg(&processes::binaries().broker);
    command.arg("serve").arg("--config").arg(config);
    let listener = UnixListener::bind(world.socket()).unwrap();
    command.stdin(Stdio::from(OwnedFd::from(listener)));
    let mut traced = Process::start(command);
    traced.logged("listening").await;
    let listed = connect(&world.socket()).await.list_profiles(ListProfilesRequest {}).await;
    assert_eq!(listed.unwrap().into_inner().profiles.len(), 1);
    let broker = processes::children(traced.pid())[0];
    processes::signal(broker, Signal::TERM);
    traced.ended().await;

    let trace = fs::read_to_string(trace).unwrap();
    let lines: Vec<_> = trace.lines().collect();
    let started = lines.iter().rposition(|line| line.contains("execve(") && line.contains("= 0"));
    let lines = &lines[started.expect("the broker was started")..];
    assert!(lines[0].contains("sigward-broker"), "{}", lines[0]);
    let first =
        |calls: &[&str]| lines.iter().position(|line| calls.iter().any(|call| line.contains(call)));
    let taken =
        first(&["getsockname(3,", "getsockopt(3,"]).expect("the broker inspects the socket");
    let thread = first(&["clone(", "clone3("]).expect("control: the broker starts threads");
    assert!(taken < thread, "{}", lines[..=taken].join("\n"));
}
