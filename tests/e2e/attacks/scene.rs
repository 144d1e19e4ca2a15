//! A broker that an attacker reaches, what it holds, and a polite caller's time.

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

/// A uid that is nobody's here.
pub(super) const ATTACKER: u32 = 54_321;
/// What all callers together can make the broker hold (design.md).
const MOST: u64 = 48 << 20;
/// A polite caller's median, on a machine that does nothing else.
const PATIENCE: Duration = Duration::from_millis(50);
const SAMPLES: usize = 40;

pub(super) struct Scene {
    pub(super) world: World,
    pub(super) broker: Process,
    pub(super) config: String,
    attacker: PathBuf,
    /// The broker's resident size before anybody had attacked it.
    idle: u64,
}

/// A running attack, which ends on drop.
pub(super) struct Attack {
    process: Process,
    _stdin: ChildStdin,
}

impl Attack {
    /// Waits until it has said `text`. It sends a lot, and a debug build reads that.
    pub(super) async fn logged(&self, text: &str) {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        let said = async {
            while !self.said(text) {
                ticks.tick().await;
            }
        };
        deadline::within_long(said, || format!("no {text:?} in {}", self.process.errors())).await;
    }

    fn said(&self, text: &str) -> bool {
        self.process.errors().contains(text)
    }
}

impl Scene {
    /// A broker with a rule for our own user and `more`, on a socket that the other user may connect to. None: nobody here
    /// can be the other user.
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
        // Keys are loaded, and everything that a polite caller needs is there.
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

    /// The median time of a polite caller, of [`SAMPLES`] calls or as many as there are until `until` is done.
    async fn median(&self, until: Option<&Attack>) -> Duration {
        let mut client = connect(&self.world.socket()).await;
        let mut times = Vec::new();
        let mut sample = async |times: &mut Vec<Duration>| {
            let started = Instant::now();
            self.sign(&mut client, "dev").await.expect("a polite caller gets its signature");
            times.push(started.elapsed());
        };
        if let Some(attack) = until {
            let placing = async {
                while !attack.said("placed") {
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

    /// Holds an attack, and checks what it costs: memory, a polite caller's time, and descriptors afterwards. Gives what
    /// the attacker says, each of `words` in it.
    pub(super) async fn calm_during(&self, arguments: &[&str], words: &[&str]) -> String {
        let pid = self.broker.pid();
        let before = self.median(None).await;
        let descriptors = memory::descriptors(pid).unwrap();
        memory::restart_peak(pid).unwrap();
        let attack = self.attack(arguments);
        let during = self.median(Some(&attack)).await;
        for word in words {
            attack.logged(word).await;
        }
        // What one attack leaves behind counts for the next one.
        let grown = memory::peak(pid).unwrap().saturating_sub(self.idle);
        let said = attack.process.errors();
        let shown = format!(
            "{arguments:?}: {} KiB above {} KiB, median {during:?} after {before:?}; {said}",
            grown >> 10,
            self.idle >> 10
        );
        eprintln!("{shown}");
        assert!(grown <= MOST, "memory: {shown}");
        // Others work on this machine, and slow down the time before as well.
        assert!(during <= PATIENCE + 4 * before, "latency: {shown}");
        drop(attack);
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        let given_back = async {
            while memory::descriptors(pid).unwrap() > descriptors {
                ticks.tick().await;
            }
        };
        deadline::within(given_back, || format!("descriptors are kept: {shown}")).await;
        said
    }

    /// The audit log's last record about the attacker.
    pub(super) async fn last_record_of_the_attacker(&self) -> Value {
        let text = fs::read_to_string(self.audit()).unwrap();
        let mut records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        records.rfind(|it| it["uid"] == ATTACKER).unwrap_or_default()
    }
}
