//! Measures the memory of a broker whose configuration, files and sessions change all the time.
//!
//! `cargo run --release -p sigward-tests --bin churn -- --minutes 20` (default: one minute) starts a broker and does
//! the following at the same time: profiles with new names come and go, with a SIGHUP each; the keys in the AWS files
//! are rotated; a person signs in by the device flow, and the session ends; callers connect, list, watch, sign, report
//! rejections and hang up. Every few seconds it prints the broker's memory, threads and descriptors. It fails if one of
//! them grows: it compares the median of the last quarter with that of the second, when each action has been repeated
//! many times.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a program for measurements"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::Signal;
use sigward_proto::v1::broker_client::BrokerClient;
use sigward_proto::v1::login_response::Event;
use sigward_proto::v1::sign_request::Payload;
use sigward_proto::v1::{
    Header, ListProfilesRequest, LoginRequest, ReportRejectionRequest, SignRequest,
    WatchProfilesRequest,
};
use sigward_tests::aws::Aws;
use sigward_tests::aws_home::AwsHome;
use sigward_tests::keys::Key;
use sigward_tests::memory;
use sigward_tests::processes::{self, Process, assert_no_canary};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

const URL: &str = "http://127.0.0.1:9/mcp";
/// How many profiles that come and go exist at a time.
const PASSING: u64 = 8;
/// Growth below this isn't counted: the allocator's own variation.
const SLACK: u64 = 1536 << 10;

#[tokio::main]
async fn main() -> ExitCode {
    let length = Duration::from_secs(minutes() * 60);
    let world = Arc::new(World::start().await);
    let mut activities = JoinSet::new();
    let begin = |activities: &mut JoinSet<()>| {
        let world = &world;
        activities.spawn(reload(Arc::clone(world)));
        activities.spawn(rotate(Arc::clone(world)));
        activities.spawn(sign_in(Arc::clone(world)));
        activities.spawn(watch(Arc::clone(world)));
        for _ in 0..3 {
            activities.spawn(call(Arc::clone(world)));
        }
    };
    begin(&mut activities);
    let every = (length / 60).clamp(Duration::from_secs(1), Duration::from_secs(10));
    let started = Instant::now();
    let mut samples = Vec::new();
    println!("{:>7} {:>10} {:>8} {:>8}  {}", "seconds", "KiB", "threads", "files", Done::HEAD);
    while started.elapsed() < length {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            Some(ended) = activities.join_next() => {
                ended.expect("nothing of this fails");
                unreachable!("nothing of this ends");
            }
        }
        let sample = Sample::of(world.broker.pid());
        println!("{:>7} {sample}  {}", started.elapsed().as_secs(), world.done);
        samples.push(sample);
    }
    activities.shutdown().await;
    assert_no_canary("the broker's log", &world.broker.errors());
    judge(&samples)
}

fn minutes() -> u64 {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => 1,
        ["--minutes", minutes] => minutes.parse().expect("a number of minutes"),
        _ => panic!("churn [--minutes N]"),
    }
}

/// Fails if a value has grown.
fn judge(samples: &[Sample]) -> ExitCode {
    let quarter = samples.len() / 4;
    let median = |samples: &[Sample], of: fn(&Sample) -> u64| {
        let mut values: Vec<_> = samples.iter().map(of).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    let (before, after) = (&samples[quarter..2 * quarter], &samples[samples.len() - quarter..]);
    let mut grown = false;
    for (name, of, slack) in [
        ("memory, bytes", (|it| it.resident) as fn(&Sample) -> u64, SLACK),
        ("threads", |it| it.threads, 1),
        ("descriptors", |it| it.descriptors, 4),
    ] {
        let (before, after) = (median(before, of), median(after, of));
        let grows = after > before + slack;
        grown |= grows;
        println!("{name}: {before}, then {after}: {}", if grows { "IT GROWS" } else { "flat" });
    }
    if grown { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

struct Sample {
    resident: u64,
    threads: u64,
    descriptors: u64,
}

impl Sample {
    fn of(pid: u32) -> Self {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the broker lives").count();
        Self {
            resident: memory::resident(pid).expect("the broker lives"),
            threads: threads as u64,
            descriptors: memory::descriptors(pid).expect("the broker lives") as u64,
        }
    }
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>10} {:>8} {:>8}", self.resident >> 10, self.threads, self.descriptors)
    }
}

/// What was done so far, to show that the broker wasn't idle.
#[derive(Default)]
struct Done {
    reloads: AtomicU64,
    rotations: AtomicU64,
    sign_ins: AtomicU64,
    signatures: AtomicU64,
    refusals: AtomicU64,
    connections: AtomicU64,
}

impl Done {
    const HEAD: &str = "reloads rotations sign-ins signatures refusals connections";
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [reloads, rotations, sign_ins, signatures, refusals, connections] = [
            &self.reloads,
            &self.rotations,
            &self.sign_ins,
            &self.signatures,
            &self.refusals,
            &self.connections,
        ]
        .map(|count| count.load(Ordering::Relaxed));
        write!(
            f,
            "{reloads:>7} {rotations:>9} {sign_ins:>8} {signatures:>10} {refusals:>8} {connections:>11}"
        )
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

struct World {
    home: AwsHome,
    /// The home's AWS config without profiles that come and go.
    aws_config: String,
    aws: Aws,
    broker: Process,
    directory: TempDir,
    /// The number of the first such profile that exists.
    passing: AtomicU64,
    done: Done,
}

impl World {
    async fn start() -> Self {
        let home = AwsHome::new();
        Aws::sign_in(&home, "person", "Developer");
        home.role("role", "dev", "arn:aws:iam::123456789012:role/Churn");
        let aws = Aws::start(home.keys()).await;
        let directory = tempfile::tempdir().unwrap();
        let aws_config = fs::read_to_string(home.config_file()).unwrap();
        let config = configuration(directory.path(), 0);
        replace(&directory.path().join("broker.toml"), &config);
        let mut command = processes::command(&processes::binaries().broker);
        command.envs(home.environment()).envs(aws.environment());
        command.arg("serve").arg("--config").arg(directory.path().join("broker.toml"));
        let broker = Process::start(command);
        broker.logged("listening").await;
        let (passing, done) = (AtomicU64::new(0), Done::default());
        Self { home, aws_config, aws, broker, directory, passing, done }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("broker.sock")
    }

    async fn connect(&self) -> BrokerClient<Channel> {
        let client = sigward_tests::broker::connect(&self.socket()).await;
        count(&self.done.connections);
        client
    }
}

fn passing(number: u64) -> String {
    format!("passing-{number:08}")
}

/// The permanent profiles, and those that come and go, from number `first` on.
fn configuration(directory: &Path, first: u64) -> String {
    let (socket, audit) = (directory.join("broker.sock"), directory.join("audit.jsonl"));
    let uid = rustix::process::getuid().as_raw();
    let mut text = format!(
        r#"
[listen]
unix = {socket:?}
[audit]
file = {audit:?}
sync = "none"
rotate = {{ mib = 1, keep = 2 }}
[metrics]
listen = "127.0.0.1:0"
[[endpoint]]
name = "here"
url = "{URL}"
service = "aws-mcp"
region = "us-east-1"
[[rule]]
name = "rule of {first}"
peer = {{ uid = {uid} }}
profiles = ["*"]
tools = {{ allow = ["aws___*"] }}
rate = {{ per_second = 100000, burst = 100000 }}
login = true
"#
    );
    for name in ["dev", "staging", "role", "person"] {
        text += &format!("[[profile]]\nname = \"{name}\"\nendpoints = [\"here\"]\n");
    }
    for number in first..first + PASSING {
        let (name, source) = (passing(number), ["dev", "role", "staging"][number as usize % 3]);
        text += &format!(
            "[[profile]]\nname = \"{name}\"\naws_profile = \"{source}\"\ndescription = \"Passes\"\nendpoints = [\"here\"]\n"
        );
    }
    text
}

/// Replaces a file atomically.
fn replace(file: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;

    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, file).unwrap();
}

/// One profile is removed and another one added; every tenth file has an error.
async fn reload(world: Arc<World>) {
    let file = world.directory.path().join("broker.toml");
    for first in 1.. {
        let mut text = configuration(world.directory.path(), first);
        if first % 10 == 0 {
            text += "nonsense = 1\n";
        }
        replace(&file, &text);
        world.passing.store(first, Ordering::Relaxed);
        world.broker.signal(Signal::HUP);
        count(&world.done.reloads);
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

/// New keys in the AWS files, and sections that come and go.
async fn rotate(world: Arc<World>) {
    for number in 0_u64.. {
        let mut credentials = String::new();
        for (name, key) in [("dev", Key::user("dev")), ("staging", Key::role("Staging", "s"))] {
            let token = key.session_token.as_deref().unwrap_or_default();
            credentials += &format!(
                "[{name}]\naws_access_key_id = {}\naws_secret_access_key = {}\naws_session_token = {token}\n",
                key.access_key_id, key.secret
            );
            world.home.keys().insert(key);
        }
        let credentials = credentials.replace("aws_session_token = \n", "");
        let config =
            format!("{}[profile passing-{number}]\nregion = us-east-1\n", world.aws_config);
        replace(&world.home.credentials_file(), &credentials);
        replace(&world.home.config_file(), &config);
        count(&world.done.rotations);
        // The broker loads a file that hasn't changed for 300 ms.
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
}

/// A session ends, the broker notices, a person signs in; some persons decline, and some callers hang up.
async fn sign_in(world: Arc<World>) {
    use sigward_tests::aws::Person;

    for number in 0_u64.. {
        world.aws.revoke();
        let mut client = world.connect().await;
        if let Ok(signed) = client.sign(request("person")).await {
            let credential_generation = signed.into_inner().credential_generation;
            let agent = String::new();
            let profile = "person".to_owned();
            let report = ReportRejectionRequest { profile, credential_generation, agent };
            client.report_rejection(report).await.ok();
        }
        let person = match number % 4 {
            1 => Person::Declines,
            _ => Person::Approves,
        };
        world.aws.person(person);
        let mut events = loop {
            match client.login(LoginRequest { profile: "person".to_owned() }).await {
                Ok(begun) => break begun.into_inner(),
                // Sign-ins are rate-limited: the broker says when the next one is possible.
                Err(status) if status.code() == Code::ResourceExhausted => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(status) => panic!("a sign-in begins: {status}"),
            }
        };
        while let Ok(Some(event)) = events.message().await {
            match event.event {
                Some(Event::Done(_)) => count(&world.done.sign_ins),
                _ if number % 4 == 2 => break,
                _ => {}
            }
        }
    }
}

/// Callers that watch for a while.
async fn watch(world: Arc<World>) {
    loop {
        let mut client = world.connect().await;
        let mut lists = client.watch_profiles(WatchProfilesRequest {}).await.unwrap().into_inner();
        for _ in 0..20 {
            lists.message().await.expect("the broker goes on");
        }
    }
}

/// Callers that connect, send a few requests, and leave.
async fn call(world: Arc<World>) {
    loop {
        let mut client = world.connect().await;
        client.list_profiles(ListProfilesRequest {}).await.expect("a list");
        for number in 0..40 {
            let first = world.passing.load(Ordering::Relaxed);
            let passing = passing(first + number % PASSING);
            let profile = ["dev", "staging", "role", "person", &passing][number as usize % 5];
            match client.sign(request(profile)).await {
                Ok(_) => count(&world.done.signatures),
                Err(_) => count(&world.done.refusals),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn request(profile: &str) -> SignRequest {
    SignRequest {
        profile: profile.to_owned(),
        method: "POST".to_owned(),
        uri: URL.to_owned(),
        headers: vec![Header {
            name: "content-type".to_owned(),
            value: Bytes::from_static(b"application/json"),
        }],
        payload: Some(Payload::Body(Bytes::from_static(
            br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"aws___call"}}"#,
        ))),
    }
}
