//! Compares `Sign` with a bare tonic unary call on the same kind of socket: on one machine, in one run, with one
//! client.
//!
//! `cargo run --release -p sigward-tests --bin rate` starts that server (this program again) and two brokers, one whose
//! records reach the disk before the response and one whose records don't, calls them in turns, and prints one table.
//! Each ratio is that of one turn, so that other load on the machine affects both sides; the table shows the median.
//! `-- small`, `-- large` or `-- reader` measures only that part; `SIGWARD_RATE_BROKER` names another binary of the
//! broker, to measure it before and after a change.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program for developers, which prints its measurements and reads its environment"
)]

use std::ffi::OsString;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use sigward_proto::call;
use sigward_proto::v1::SignRequest;
use sigward_proto::v1::broker_client::BrokerClient;
use sigward_proto::v1::sign_request::Payload;
use sigward_tests::aws_home::AwsHome;
use sigward_tests::broker::post;
use sigward_tests::echo;
use sigward_tests::measure::{median, processor_time};
use sigward_tests::processes::{self, Process};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tonic::transport::Channel;

const URL: &str = "http://127.0.0.1:9/mcp";
/// The concurrent calls, for measurements with many.
const IN_FLIGHT: usize = 32;
/// The turns of each side, and the calls in each turn.
const TURNS: usize = 9;
const CALLS: usize = 1500;
const CALLS_IN_FLIGHT: usize = 12_000;
const LARGE_CALLS: usize = 40;
const LARGE: usize = 1_000_000;

#[tokio::main]
async fn main() {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let [word, socket] = &arguments[..]
        && word == "echo"
    {
        return echo::serve(Path::new(socket)).await;
    }
    let parts = ["small", "large", "reader"];
    let named = |argument: &OsString| parts.iter().any(|part| argument == part);
    if !arguments.iter().all(named) {
        eprintln!("usage: rate [{}]", parts.join("] ["));
        return;
    }
    let wanted = |part: &str| arguments.is_empty() || arguments.iter().any(|it| it == part);
    println!("building …");
    let home = AwsHome::new();
    let directory = tempfile::tempdir().unwrap();
    let echo = Server::echo(&directory).await;
    let quick = Server::broker(&directory, &home, "none").await;
    let durable = Server::broker(&directory, &home, "batch").await;
    println!("measuring; each side has its turn {TURNS} times …\n");
    let mut table = Table::default();
    if wanted("small") {
        small(&mut table, &echo, &quick, &durable).await;
    }
    if wanted("large") {
        large(&mut table, &quick).await;
    }
    if wanted("reader") {
        reader(&mut table);
    }
    table.print();
}

/// Small calls: a usual tool call.
async fn small(table: &mut Table, echo: &Server, quick: &Server, durable: &Server) {
    let request = || request("dev", Bytes::from_static(CALL));
    let servers = [echo, quick, durable];
    let (mut rates, mut medians) = ([const { Vec::new() }; 3], [const { Vec::new() }; 3]);
    let mut work = [const { Vec::new() }; 3];
    for _ in 0..TURNS {
        for (server, found) in servers.into_iter().zip(&mut medians) {
            found.push(one_by_one(&server.client, CALLS, request).await.as_secs_f64());
        }
        for ((server, found), work) in servers.into_iter().zip(&mut rates).zip(&mut work) {
            let before = server.processor_time();
            found.push(in_flight(&server.client, CALLS_IN_FLIGHT, request).await);
            let spent = server.processor_time() - before;
            work.push(spent.as_secs_f64() / CALLS_IN_FLIGHT as f64);
        }
    }
    let names = ["echo", "Sign, sync = \"none\"", "Sign, sync = \"batch\""];
    for (((name, rate), time), work) in names.into_iter().zip(&rates).zip(&medians).zip(&work) {
        println!(
            "{name:24} {:>8.0} calls a second, {IN_FLIGHT} in flight, {:>5.1} µs of a processor each; \
             one at a time {:>6.1} µs",
            median(rate),
            median(work) * 1e6,
            median(time) * 1e6
        );
    }
    println!();
    table.ratio("rate of Sign to that of the echo", &rates[1], &rates[0], AtLeast(0.6));
    table.ratio("median of Sign to that of the echo", &medians[1], &medians[0], AtMost(1.5));
    table.ratio("rate with sync = \"batch\" to that without", &rates[2], &rates[1], AtLeast(0.5));
}

/// A body of 1 MB.
async fn large(table: &mut Table, broker: &Server) {
    let body = Bytes::from(large_call());
    let hash = |body: &Bytes| Bytes::copy_from_slice(&Sha256::digest(body));
    let (mut read, mut unread, mut hashed, mut alone) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut added = Vec::new();
    for _ in 0..TURNS {
        let with_body = |profile: &'static str| {
            let body = body.clone();
            move || request(profile, body.clone())
        };
        let time = one_by_one(&broker.client, LARGE_CALLS, with_body("read")).await;
        read.push(time.as_secs_f64() * 1e3);
        let time = one_by_one(&broker.client, LARGE_CALLS, with_body("dev")).await;
        unread.push(time.as_secs_f64() * 1e3);
        // As the proxy does when no rule needs the body.
        let by_hash = |hash: Bytes| SignRequest {
            payload: Some(Payload::BodySha256(hash)),
            ..request("dev", Bytes::new())
        };
        let whole = || by_hash(hash(&body));
        let time = one_by_one(&broker.client, LARGE_CALLS, whole).await;
        hashed.push(time.as_secs_f64() * 1e3);
        let hashing = |_| timed(|| black_box(hash(black_box(&body))));
        let times: Vec<_> = (0..LARGE_CALLS).map(hashing).collect();
        alone.push(median(&times).as_secs_f64() * 1e3);
        // A small call after a pause of the same length, during which the processors of both sides sleep or do
        // something else.
        let mut pauses = Vec::new();
        let mut client = broker.client.clone();
        for _ in 0..LARGE_CALLS {
            black_box(hash(black_box(&body)));
            let started = Instant::now();
            client.sign(request("dev", Bytes::from_static(CALL))).await.expect("an answer");
            pauses.push(started.elapsed());
        }
        added.push(time.as_secs_f64() * 1e3 - median(&pauses).as_secs_f64() * 1e3);
    }
    table.row("1 MB, a rule reads it", median(&read), "ms", Some(AtMost(2.5)));
    table.row("1 MB, no rule reads it, the body is sent", median(&unread), "ms", None);
    table.row("1 MB, no rule reads it, its hash is sent", median(&hashed), "ms", None);
    table.row("1 MB, hashing alone", median(&alone), "ms", None);
    // Each call has a round trip, however little is signed: what the megabyte adds to a small call is the hash.
    table.ratio("what 1 MB adds without a rule, to hashing alone", &added, &alone, AtMost(1.25));
}

/// The strict reader alone, on the inputs with the most work.
fn reader(table: &mut Table) {
    let keys: String = (0..).map(|key| format!("\"{key:x}\":0,")).take(LARGE / 9).collect();
    let fill = |piece: &str| piece.repeat(LARGE / piece.len());
    for (name, params) in [
        ("a long text", format!(r#"{{"name":"t","arguments":{{"code":"{}"}}}}"#, fill("a"))),
        ("text beyond ASCII", format!(r#"{{"name":"t","arguments":{{"code":"{}"}}}}"#, fill("é"))),
        ("escapes", format!(r#"{{"name":"t","arguments":{{"code":"{}"}}}}"#, fill("line\\n"))),
        ("small objects", format!(r#"{{"name":"t","arguments":[{}0]}}"#, fill("{},"))),
        ("objects", format!(r#"{{"name":"t","arguments":[{}0]}}"#, fill(r#"{"a":1,"b":"c"},"#))),
        ("numbers", format!(r#"{{"name":"t","arguments":[{}0]}}"#, fill("0,"))),
        ("longer numbers", format!(r#"{{"name":"t","arguments":[{}0]}}"#, fill("-12.5e3,"))),
        ("words", format!(r#"{{"name":"t","arguments":[{}0]}}"#, fill("true,"))),
        ("small texts", format!(r#"{{"name":"t","arguments":[{}0]}}"#, fill("\"\","))),
        ("keys of params", format!(r#"{{{keys}"name":"t"}}"#)),
        ("white space", format!(r#"{{{}"name":"t"}}"#, fill(" "))),
    ] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        let times =
            (0..TURNS * 5).map(|_| timed(|| black_box(call::read(black_box(text.as_bytes())))));
        let time = median(&times.collect::<Vec<_>>()).as_secs_f64() * 1e3 * LARGE as f64
            / text.len() as f64;
        table.row(&format!("the reader, 1 MB of {name}"), time, "ms", Some(AtMost(2.5)));
    }
}

const CALL: &[u8] = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"aws___call_aws","arguments":{"cli_command":"aws s3 ls","region":"eu-west-1"}}}"#;

/// A script with escapes, as a model would write it.
fn large_call() -> Vec<u8> {
    let line = r#"for name in bucket.names(prefix=\"logs/2026\"):  # größere zuerst\n    print(name, \"\\t\", size(name))\n"#;
    let code = line.repeat(LARGE / line.len());
    let text = format!(
        r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"aws___run_script","arguments":{{"code":"{code}"}}}}}}"#
    );
    text.into_bytes()
}

fn request(profile: &str, body: Bytes) -> SignRequest {
    let headers = [
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2025-11-25"),
        ("mcp-session-id", "1868a90c-2b1f-4f0e-9c53-3d3a9b0b8d0e"),
    ];
    post(URL, profile, &headers, body)
}

/// The median time of sequential calls.
async fn one_by_one(
    client: &BrokerClient<Channel>,
    calls: usize,
    request: impl Fn() -> SignRequest,
) -> Duration {
    let mut client = client.clone();
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let started = Instant::now();
        let answer = client.sign(request()).await.expect("an answer").into_inner();
        times.push(started.elapsed());
        assert!(!answer.headers.is_empty());
    }
    median(&times)
}

/// Calls a second, with [`IN_FLIGHT`] concurrent calls.
async fn in_flight(
    client: &BrokerClient<Channel>,
    calls: usize,
    request: impl Fn() -> SignRequest + Copy + Send + 'static,
) -> f64 {
    let left = Arc::new(AtomicUsize::new(calls));
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (mut client, left) = (client.clone(), Arc::clone(&left));
        tasks.spawn(async move {
            let one = |left| usize::checked_sub(left, 1);
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one).is_ok() {
                client.sign(request()).await.expect("an answer");
            }
        });
    }
    tasks.join_all().await;
    calls as f64 / started.elapsed().as_secs_f64()
}

/// A server on a socket, in its own process.
struct Server {
    client: BrokerClient<Channel>,
    process: Process,
}

impl Server {
    fn processor_time(&self) -> Duration {
        processor_time(self.process.pid())
    }

    async fn echo(directory: &TempDir) -> Self {
        let socket = directory.path().join("echo.sock");
        let mut command = processes::command(&std::env::current_exe().unwrap());
        command.arg("echo").arg(&socket);
        let process = Process::start(command);
        while UnixStream::connect(&socket).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self { client: connect(&socket).await, process }
    }

    async fn broker(directory: &TempDir, home: &AwsHome, sync: &str) -> Self {
        let path = |name: &str| directory.path().join(format!("{sync}-{name}"));
        let (socket, config, audit) =
            (path("broker.sock"), path("broker.toml"), path("audit.jsonl"));
        let uid = rustix::process::getuid().as_raw();
        let text = format!(
            r#"
[listen]
unix = {socket:?}
[audit]
file = {audit:?}
sync = "{sync}"
[[endpoint]]
name = "here"
url = "{URL}"
service = "aws-mcp"
region = "us-east-1"
[[profile]]
name = "dev"
endpoints = ["here"]
[[profile]]
name = "read"
aws_profile = "dev"
endpoints = ["here"]
[[rule]]
peer = {{ uid = {uid} }}
profiles = ["dev"]
[[rule]]
peer = {{ uid = {uid} }}
profiles = ["read"]
tools = {{ allow = ["aws___*"] }}
arguments = [{{ path = "/region", absent = true }}]
"#
        );
        std::fs::write(&config, text).unwrap();
        let other = std::env::var_os("SIGWARD_RATE_BROKER").map(PathBuf::from);
        let program = other.unwrap_or_else(|| processes::binaries().broker.clone());
        let mut command = processes::command(&program);
        command.envs(home.environment()).arg("serve").arg("--config").arg(&config);
        let process = Process::start(command);
        process.logged("listening").await;
        let client = connect(&socket).await;
        for profile in ["dev", "read"] {
            // Loads the credentials.
            client.clone().sign(request(profile, Bytes::from(large_call()))).await.unwrap();
        }
        Self { client, process }
    }
}

async fn connect(socket: &Path) -> BrokerClient<Channel> {
    sigward_tests::broker::connect(socket)
        .await
        .max_encoding_message_size(sigward_proto::MAX_MESSAGE_BYTES)
        .max_decoding_message_size(sigward_proto::MAX_MESSAGE_BYTES)
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let started = Instant::now();
    drop(work());
    started.elapsed()
}

/// A goal for a value.
#[derive(Clone, Copy)]
enum Reach {
    AtLeast(f64),
    AtMost(f64),
}

use Reach::{AtLeast, AtMost};

#[derive(Default)]
struct Table {
    rows: Vec<(String, String, Option<Reach>, bool)>,
}

impl Table {
    fn ratio(&mut self, name: &str, these: &[f64], those: &[f64], reach: Reach) {
        let ratios: Vec<_> = these.iter().zip(those).map(|(this, that)| this / that).collect();
        self.row(name, median(&ratios), "", Some(reach));
    }

    fn row(&mut self, name: &str, value: f64, unit: &str, reach: Option<Reach>) {
        let reached = match reach {
            Some(AtLeast(least)) => value >= least,
            Some(AtMost(most)) => value <= most,
            None => true,
        };
        self.rows.push((name.to_owned(), format!("{value:.2} {unit}"), reach, reached));
    }

    fn print(&self) {
        println!("{:48} {:>10} {:>10}", "", "", "to reach");
        for (name, value, reach, reached) in &self.rows {
            let (reach, verdict) = match reach {
                Some(AtLeast(least)) => {
                    (format!(">= {least}"), if *reached { "yes" } else { "NO" })
                }
                Some(AtMost(most)) => (format!("<= {most}"), if *reached { "yes" } else { "NO" }),
                None => (String::new(), ""),
            };
            println!("{name:48} {value:>10} {reach:>10}  {verdict}");
        }
    }
}
