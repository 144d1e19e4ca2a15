//! One broker with mTLS and the proxies of a whole node, each with a certificate of its own.
//!
//! `cargo run --release -p sigward-tests --bin scale` starts a broker, opens 1,000 connections from this process, one
//! for each simulated proxy, and prints one table: all connections at once, as after a restart of the broker; the
//! memory of a connection; the rate and the median, with few and with many connections. Then AWS doesn't answer for 100
//! profiles for a while, and it measures calls with another profile.
//!
//! Both sides share this machine, so a broker on its own machine reaches at least this rate; the processor time of a
//! signature is only the broker's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for developers, which prints its measurements"
)]

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit};
use sigward_proto::v1::SignRequest;
use sigward_proto::v1::broker_client::BrokerClient;
use sigward_tests::aws::Aws;
use sigward_tests::aws_home::AwsHome;
use sigward_tests::broker::{client_on, post, shake_hands};
use sigward_tests::measure::{median, processor_time};
use sigward_tests::memory;
use sigward_tests::processes::{self, Process};
use sigward_tests::workloads::{Workloads, uri};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_rustls::rustls::ClientConfig;
use tonic::transport::Channel;

const URL: &str = "http://127.0.0.1:9/mcp";
/// The largest number of proxies, and smaller ones to compare with.
const PROXIES: [usize; 4] = [1, 10, 100, 1000];
/// The concurrent calls over all connections.
const IN_FLIGHT: usize = 32;
/// The calls for each rate and each median, and the number of measurements.
const CALLS: usize = 8000;
const CALLS_ONE_BY_ONE: usize = 1500;
const TURNS: usize = 3;
/// The number of profiles for which AWS doesn't answer.
const SLOW_PROFILES: usize = 100;
/// How often a proxy reconnects after the broker has closed its connection, like the real proxy.
const ATTEMPTS: usize = 5;

type Client = BrokerClient<Channel>;

#[tokio::main]
async fn main() {
    raise_descriptors();
    println!("building …");
    processes::binaries();
    println!("issuing {} certificates …", PROXIES[PROXIES.len() - 1]);
    let node = Node::new();
    println!(
        "\n{:>8} {:>12} {:>12} {:>12} {:>12} {:>10} {:>14} {:>12}",
        "proxies",
        "all at once",
        "half of them",
        "memory",
        "a connection",
        "a second",
        "one at a time",
        "processor"
    );
    for proxies in PROXIES {
        let broker = Broker::start(&node, "").await;
        println!("{}", Row::measured(&node, &broker, proxies).await);
    }
    slow_profiles(&node).await;
}

/// One descriptor for each connection, in this process and in the broker, which inherits the limit.
fn raise_descriptors() {
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    rustix::process::setrlimit(Resource::Nofile, raised).expect("a limit up to the hard one");
}

/// The proxies of a node, each with its own certificate.
struct Node {
    authority: Workloads,
    proxies: Vec<Arc<ClientConfig>>,
}

impl Node {
    fn new() -> Self {
        let authority = Workloads::new();
        let config = |number| {
            let id = format!("spiffe://test.example/ns/agents/sa/agent-{number}");
            Arc::new(authority.caller(Some(&authority.issue(&[uri(&id)]))))
        };
        let proxies = (0..PROXIES[PROXIES.len() - 1]).map(config).collect();
        Self { authority, proxies }
    }
}

/// A broker in its own process.
struct Broker {
    process: Process,
    address: SocketAddr,
    aws: Aws,
    _home: AwsHome,
    _directory: TempDir,
}

impl Broker {
    /// Starts a broker with `more` profiles.
    async fn start(node: &Node, more: &str) -> Self {
        let home = AwsHome::new();
        for number in 0..SLOW_PROFILES {
            let role = format!("arn:aws:iam::123456789012:role/Slow{number}");
            home.role(&slow(number), "dev", &role);
        }
        let aws = Aws::start(home.keys()).await;
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let issued = node.authority.broker();
        write(&at("cert"), &issued.cert);
        write(&at("key"), &issued.key);
        write(&at("client_ca"), &node.authority.pem());
        let text = format!(
            r#"
[listen]
unix = {socket:?}
tcp = "127.0.0.1:0"
tls = {{ cert = {cert:?}, key = {key:?}, client_ca = {client_ca:?} }}
[audit]
file = {audit:?}
[[endpoint]]
name = "here"
url = "{URL}"
service = "aws-mcp"
region = "us-east-1"
[[profile]]
name = "dev"
endpoints = ["here"]
{more}
[[rule]]
peer = {{ spiffe_id = "spiffe://test.example/ns/agents/sa/*" }}
profiles = ["*"]
"#,
            socket = at("broker.sock"),
            cert = at("cert"),
            key = at("key"),
            client_ca = at("client_ca"),
            audit = at("audit.jsonl"),
        );
        write(&at("broker.toml"), &text);
        let mut command = processes::command(&processes::binaries().broker);
        command.envs(home.environment()).envs(aws.environment());
        command.arg("serve").arg("--config").arg(at("broker.toml"));
        let process = Process::start(command);
        let line = process.logged("serving over TLS").await;
        let address = line.split("address=").nth(1).expect("an address").trim().parse().unwrap();
        Self { process, address, aws, _home: home, _directory: directory }
    }

    fn resident(&self) -> u64 {
        memory::resident(self.process.pid()).expect("the broker runs")
    }

    /// A connection after the first call's signature, and the number of connections that were closed before.
    async fn proxy(&self, config: &Arc<ClientConfig>) -> io::Result<(Client, usize)> {
        let mut failed = 0;
        loop {
            match self.try_proxy(config).await {
                Ok(client) => return Ok((client, failed)),
                Err(error) if failed == ATTEMPTS => return Err(error),
                Err(_) => failed += 1,
            }
            tokio::time::sleep(Duration::from_millis(50) * u32::try_from(failed).unwrap()).await;
        }
    }

    async fn try_proxy(&self, config: &Arc<ClientConfig>) -> io::Result<Client> {
        let stream = shake_hands(self.address, config).await?;
        let mut client = client_on(stream).await.map_err(io::Error::other)?;
        client.sign(request("dev")).await.map_err(io::Error::other)?;
        Ok(client)
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn request(profile: &str) -> SignRequest {
    const CALL: &[u8] = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"aws___call_aws","arguments":{"cli_command":"aws s3 ls"}}}"#;
    post(URL, profile, &[("accept", "application/json, text/event-stream")], CALL)
}

/// The measurements for one number of proxies.
struct Row {
    proxies: usize,
    /// The time until the last proxy has the first call's signature, the time until half of them have it, and the
    /// number of connections that were closed before.
    start: Duration,
    half: Duration,
    closed: usize,
    /// The broker's memory when all are connected and idle, and before any was.
    resident: u64,
    before: u64,
    /// Calls a second with [`IN_FLIGHT`] concurrent ones, and the processor time of each.
    rate: f64,
    work: f64,
    /// The median of sequential calls.
    alone: Duration,
}

impl Row {
    async fn measured(node: &Node, broker: &Broker, proxies: usize) -> Self {
        // A first connection isn't measured: it loads the credentials, and lets the allocator grow to its usual size.
        drop(broker.proxy(&node.proxies[0]).await.expect("a connection"));
        let before = broker.resident();
        let begun = Instant::now();
        let starts = node.proxies[..proxies].iter().map(async |config| {
            let connected = broker.proxy(config).await.expect("every proxy comes in");
            (connected, begun.elapsed())
        });
        let started = join_all(starts).await;
        let start = begun.elapsed();
        let half = median(&started.iter().map(|(_, took)| *took).collect::<Vec<_>>());
        let closed = started.iter().map(|((_, failed), _)| failed).sum();
        let clients: Vec<Client> = started.into_iter().map(|((client, _), _)| client).collect();
        let resident = broker.resident();
        let (mut rates, mut works, mut alone) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..TURNS {
            let spent = processor_time(broker.process.pid());
            rates.push(in_flight(&clients).await);
            let spent = processor_time(broker.process.pid()) - spent;
            works.push(spent.as_secs_f64() / CALLS as f64);
            alone.push(one_by_one(&clients, CALLS_ONE_BY_ONE).await);
        }
        let (rate, work, alone) = (median(&rates), median(&works), median(&alone));
        Self { proxies, start, half, closed, resident, before, rate, work, alone }
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let each = self.resident.saturating_sub(self.before) as f64 / self.proxies as f64;
        write!(
            f,
            "{:>8} {:>10.0}ms {:>10.0}ms {:>10.1}MB {:>10.1}KB {:>10.0} {:>12.0}µs {:>10.0}µs",
            self.proxies,
            self.start.as_secs_f64() * 1e3,
            self.half.as_secs_f64() * 1e3,
            self.resident as f64 / 1e6,
            each / 1e3,
            self.rate,
            self.alone.as_secs_f64() * 1e6,
            self.work * 1e6,
        )?;
        if self.closed > 0 {
            write!(f, "  ({} connections were closed and made again)", self.closed)?;
        }
        Ok(())
    }
}

/// Calls a second with [`IN_FLIGHT`] concurrent ones, each over the next connection.
async fn in_flight(clients: &[Client]) -> f64 {
    let begun = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 0..IN_FLIGHT {
        // This caller's share of the connections; callers share connections if there are fewer connections than
        // callers.
        let mut own: Vec<Client> =
            clients.iter().skip(caller % clients.len()).step_by(IN_FLIGHT).cloned().collect();
        callers.spawn(async move {
            let count = own.len();
            for number in 0..CALLS / IN_FLIGHT {
                own[number % count].sign(request("dev")).await.expect("a signature");
            }
        });
    }
    callers.join_all().await;
    CALLS as f64 / begun.elapsed().as_secs_f64()
}

/// The median of sequential calls, each over the next connection.
async fn one_by_one(clients: &[Client], calls: usize) -> Duration {
    let mut clients = clients.to_vec();
    let (mut times, count) = (Vec::with_capacity(calls), clients.len());
    for number in 0..calls {
        let begun = Instant::now();
        clients[number % count].sign(request("dev")).await.expect("a signature");
        times.push(begun.elapsed());
    }
    median(&times)
}

fn slow(number: usize) -> String {
    format!("slow-{number}")
}

/// AWS doesn't answer for a hundred profiles; meanwhile the time of calls with another one is measured.
async fn slow_profiles(node: &Node) {
    let profiles: String = (0..SLOW_PROFILES)
        .map(|number| format!("[[profile]]\nname = \"{}\"\nendpoints = [\"here\"]\n", slow(number)))
        .collect();
    let broker = Broker::start(node, &profiles).await;
    let connected = join_all(
        node.proxies[..SLOW_PROFILES]
            .iter()
            .map(async |config| broker.proxy(config).await.expect("every proxy comes in").0),
    );
    let clients: Vec<Client> = connected.await;
    let before = one_by_one(&clients, CALLS_ONE_BY_ONE).await;
    broker.aws.hold();
    let mut waiting = JoinSet::new();
    for (number, client) in clients.iter().enumerate() {
        let mut client = client.clone();
        waiting.spawn(async move { client.sign(request(&slow(number))).await });
    }
    broker.aws.held_requests(SLOW_PROFILES).await;
    let during = one_by_one(&clients, CALLS_ONE_BY_ONE).await;
    let none_is_done = waiting.try_join_next().is_none();
    let released = Instant::now();
    broker.aws.release();
    for signed in waiting.join_all().await {
        signed.expect("AWS answers after all");
    }
    println!(
        "\n{SLOW_PROFILES} profiles wait for AWS at once: a call of another profile takes {:.0} µs, and {:.0} µs without \
         them; all {SLOW_PROFILES} are signed for {:.0} ms after AWS answers",
        during.as_secs_f64() * 1e6,
        before.as_secs_f64() * 1e6,
        released.elapsed().as_secs_f64() * 1e3
    );
    assert!(none_is_done, "AWS has answered too early: nothing was measured");
}
