//! A broker that an attacker can reach: its memory, and the latency of a normal caller.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use sigward_proto::v1::SignResponse;
use sigward_proto::v1::broker_client::BrokerClient;
use sigward_tests::processes::{self, Process};
use sigward_tests::{deadline, memory};
use tokio::process::ChildStdin;
use tonic::Status;
use tonic::transport::Channel;

use crate::setup::{World, connect, copy_program, own_uid, ping};

/// A uid without a user on this machine.
pub(super) const ATTACKER: u32 = 54_321;
/// The most that all callers together can make the broker hold.
const MEMORY_LIMIT: u64 = 48 << 20;
/// The limit of a normal caller's median latency, on an otherwise idle machine.
const LATENCY_LIMIT: Duration = Duration::from_millis(50);
const SAMPLES: usize = 40;

pub(super) struct Scene {
    pub(super) world: World,
    pub(super) broker: Process,
    pub(super) config: String,
    attacker: PathBuf,
    /// The broker's resident size before any attack.
    idle: u64,
}

/// A running attack, which ends on drop.
pub(super) struct Attack {
    process: Process,
    _stdin: ChildStdin,
}

impl Attack {
    /// Waits until the attacker has logged `text`. It sends a lot, and a debug build is slow to read that.
    pub(super) async fn logged(&self, text: &str) {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        let logged = async {
            while !self.has_logged(text) {
                ticks.tick().await;
            }
        };
        deadline::within_long(logged, || format!("no {text:?} in {}", self.process.errors())).await;
    }

    fn has_logged(&self, text: &str) -> bool {
        self.process.errors().contains(text)
    }
}

impl Scene {
    /// A broker with a rule for our own user and `more`, on a socket that the other user may connect to. `None` without
    /// root, as the attacker can't run as another user then.
    pub(super) async fn new(more: &str) -> Option<Self> {
        if own_uid() != 0 {
            return None;
        }
        let world = World::new().await;
        let directory = world.directory.path();
        let attacker = directory.join("attacker");
        copy_program(env!("CARGO_BIN_EXE_attacker").as_ref(), &attacker);
        for path in [directory, &attacker] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let audit = directory.join("audit.jsonl");
        let rules = format!(
            "[audit]\nfile = {audit:?}\n{more}\n[[rule]]\npeer = {{ uid = 0 }}\n\
             profiles = [\"dev\", \"staging\", \"prod\"]\nendpoints = [\"upstream\"]\n"
        );
        let mode = format!("\"0660\"\ngroup = \"{ATTACKER}\"");
        let config = world.configuration(&rules).replace("\"0660\"", &mode);
        let broker = world.broker(&config).await;
        let mut scene = Self { world, broker, config, attacker, idle: 0 };
        // Loads the keys and all else that a normal caller needs.
        scene.median(None).await;
        scene.idle = memory::restart_peak(scene.broker.pid()).unwrap();
        Some(scene)
    }

    pub(super) fn audit(&self) -> PathBuf {
        self.world.directory.path().join("audit.jsonl")
    }

    /// Begins an attack.
    pub(super) fn attack(&self, arguments: &[&str]) -> Attack {
        let mut command = processes::command(&self.attacker);
        command.arg(self.world.socket()).args(arguments).uid(ATTACKER).gid(ATTACKER);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut process = Process::start(command);
        let (stdin, _) = process.pipes();
        Attack { process, _stdin: stdin }
    }

    pub(super) async fn sign(
        &self,
        client: &mut BrokerClient<Channel>,
        profile: &str,
    ) -> Result<SignResponse, Status> {
        client.sign(ping(&self.world, profile)).await.map(tonic::Response::into_inner)
    }

    /// The median latency of a normal caller, over [`SAMPLES`] calls or more, until the attack `until` is in place.
    async fn median(&self, until: Option<&Attack>) -> Duration {
        let mut client = connect(&self.world.socket()).await;
        let mut times = Vec::new();
        let mut sample = async |times: &mut Vec<Duration>| {
            let started = Instant::now();
            self.sign(&mut client, "dev").await.expect("a normal caller gets its signature");
            times.push(started.elapsed());
        };
        if let Some(attack) = until {
            let placing = async {
                while !attack.has_logged("placed") {
                    sample(&mut times).await;
                }
            };
            deadline::within_long(placing, || "the attack is never in place".to_owned()).await;
        }
        while times.len() < SAMPLES {
            sample(&mut times).await;
        }
        times.sort_unstable();
        times[times.len() / 2]
    }

    /// Runs an attack, and checks its cost: memory, a normal caller's latency, and descriptors afterwards. Returns what
    /// the attacker logged, which contains each of `words`.
    pub(super) async fn assert_bounded_cost(&self, arguments: &[&str], words: &[&str]) -> String {
        let pid = self.broker.pid();
        let before = self.median(None).await;
        let descriptors = memory::descriptors(pid).unwrap();
        memory::restart_peak(pid).unwrap();
        let attack = self.attack(arguments);
        let during = self.median(Some(&attack)).await;
        for word in words {
            attack.logged(word).await;
        }
        // Memory that an attack leaves behind counts for the next one.
        let grown = memory::peak(pid).unwrap().saturating_sub(self.idle);
        let logged = attack.process.errors();
        let shown = format!(
            "{arguments:?}: {} KiB above {} KiB, median {during:?} after {before:?}; {logged}",
            grown >> 10,
            self.idle >> 10
        );
        eprintln!("{shown}");
        assert!(grown <= MEMORY_LIMIT, "memory: {shown}");
        // Other processes on this machine slow down the calls before the attack as well.
        assert!(during <= LATENCY_LIMIT + 4 * before, "latency: {shown}");
        drop(attack);
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        let given_back = async {
            while memory::descriptors(pid).unwrap() > descriptors {
                ticks.tick().await;
            }
        };
        deadline::within(given_back, || format!("descriptors stay open: {shown}")).await;
        logged
    }

    /// The last audit record about the attacker.
    pub(super) async fn last_record_of_the_attacker(&self) -> Value {
        let text = fs::read_to_string(self.audit()).unwrap();
        let mut records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        records.rfind(|it| it["uid"] == ATTACKER).unwrap_or_default()
    }
}
