//! Sigward and the reference proxy side by side: one machine, one run, the same server, the same client.
//!
//! `cargo bench -p sigward-tests` starts the verifying server as a process of its own, drives first one and then the
//! other proxy over stdio, and prints one table. The load is bounded: some thousand calls. It judges nothing but its
//! own sanity; the numbers to reach stand beside those that were measured.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a program for developers, which prints its measurements"
)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use sigward_tests::processes::{self, StdioClient, call};
use sigward_tests::upstream::{REGION, SERVICE};
use sigward_tests::{memory, tools};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// How many calls are in flight at once where many are.
const IN_FLIGHT: usize = 32;

/// How much each of the two is asked for: enough for a steady median, and over in a minute.
struct Load {
    starts: usize,
    calls: usize,
    in_flight: usize,
}

/// What was measured.
struct Measured {
    start: Duration,
    call: Duration,
    per_second: f64,
    bytes: u64,
}

#[tokio::main]
async fn main() {
    println!("building both programs, and installing mcp-proxy-for-aws 1.7.0 under target/tools …");
    let ours = processes::binaries().proxy.clone();
    let theirs = tools::reference_proxy();
    let home = tempfile::tempdir().unwrap();
    let (url, _server) = server(home.path()).await;

    let command = |program: &Path, broker: &[&str]| {
        let mut command = processes::command(program);
        command.env("HOME", home.path()).env("XDG_RUNTIME_DIR", home.path());
        command.arg(&url).args(["--service", SERVICE, "--region", REGION]);
        command.args(broker).args(["--profile", "dev"]);
        command
    };
    println!("measuring; each side is alone with the server …\n");
    let load = Load { starts: 15, calls: 1000, in_flight: 8000 };
    let sigward = measure(&load, || command(&ours, &["--broker", "private"])).await;
    let load = Load { starts: 5, calls: 200, in_flight: 400 };
    let reference = measure(&load, || command(theirs, &[])).await;
    print(&sigward, &reference);
}

/// The server, in a process of its own so that its work isn't counted as the client's.
async fn server(home: &Path) -> (String, (Child, TempDir)) {
    let mut command = processes::command(Path::new(env!("CARGO_BIN_EXE_upstream")));
    command.args(["--forgetful", "--home"]).arg(home).stdout(Stdio::piped()).kill_on_drop(true);
    let mut server = command.spawn().expect("the server starts");
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let url = lines.next_line().await.unwrap().expect("the server prints its URL");
    (url, (server, tempfile::tempdir().unwrap()))
}

async fn measure(load: &Load, command: impl Fn() -> Command) -> Measured {
    let mut starts = Vec::new();
    for _ in 0..load.starts {
        let started = Instant::now();
        let mut client = StdioClient::start(command());
        client.initialize().await;
        starts.push(started.elapsed());
        client.close().await;
    }

    let mut client = StdioClient::start(command());
    client.initialize().await;
    client.request("tools/list", "{}").await;
    let mut calls = Vec::new();
    for number in 0..load.calls + 20 {
        let started = Instant::now();
        send(&mut client, number).await;
        answered(&mut client).await;
        calls.push(started.elapsed());
    }
    // The first ones warm caches, connections and the Python interpreter.
    let calls = calls.split_off(20);

    let started = Instant::now();
    for number in 0..load.in_flight + IN_FLIGHT {
        if number >= IN_FLIGHT {
            answered(&mut client).await;
        }
        if number < load.in_flight {
            send(&mut client, number).await;
        }
    }
    let per_second = load.in_flight as f64 / started.elapsed().as_secs_f64();

    let bytes =
        tree(client.process().pid()).iter().map(|pid| memory::resident(*pid).unwrap()).sum();
    client.close().await;
    Measured { start: median(starts), call: median(calls), per_second, bytes }
}

async fn send(client: &mut StdioClient, number: usize) {
    let params = call("echo", r#"{"text":"a call of the usual size","n":1}"#);
    client
        .send(&format!(
            r#"{{"jsonrpc":"2.0","id":"call-{number}","method":"tools/call","params":{params}}}"#
        ))
        .await;
}

async fn answered(client: &mut StdioClient) {
    let line = client.expect_line("an answer", |line| line.contains("\"call-")).await;
    assert!(line.contains("usual size") && !line.contains("\"isError\":true"), "{line}");
}

/// A process and all below it.
fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut seen = 0;
    while seen < all.len() {
        all.extend(processes::children(all[seen]));
        seen += 1;
    }
    all
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn print(ours: &Measured, theirs: &Measured) {
    let milliseconds = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1000.0);
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let faster = |ours: Duration, theirs: Duration| theirs.as_secs_f64() / ours.as_secs_f64();
    println!("{:28} {:>12} {:>12} {:>9} {:>9}", "", "sigward", "reference", "ratio", "to reach");
    for (name, ours, theirs, ratio, reach) in [
        (
            "start to the first answer",
            milliseconds(ours.start),
            milliseconds(theirs.start),
            faster(ours.start, theirs.start),
            40.0,
        ),
        (
            "one call, median",
            milliseconds(ours.call),
            milliseconds(theirs.call),
            faster(ours.call, theirs.call),
            25.0,
        ),
        (
            "32 calls in flight",
            format!("{:.0} /s", ours.per_second),
            format!("{:.0} /s", theirs.per_second),
            ours.per_second / theirs.per_second,
            80.0,
        ),
        (
            "memory, all processes",
            megabytes(ours.bytes),
            megabytes(theirs.bytes),
            theirs.bytes as f64 / ours.bytes as f64,
            4.0,
        ),
    ] {
        let verdict = if ratio >= reach { "yes" } else { "NO" };
        println!("{name:28} {ours:>12} {theirs:>12} {ratio:>8.1}x {reach:>8.0}x  {verdict}");
    }
}
