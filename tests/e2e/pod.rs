//! The pod of broker/deploy/container, run by podman from an image of the shipped Containerfile: an agent, a proxy and
//! a broker in three containers. On the network of the pod there are also an STS and the MCP server that verifies
//! signatures.
//!
//! Needs root and the programs that `podman` names; its settings are read from the manifest.

mod compose;
mod image;
mod network;
mod played;
mod podman;
mod session;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sigward_tests::aws::{Aws, WEB_IDENTITY_TOKEN};
use sigward_tests::keys::{CANARY, KeyTable, TOKEN_CANARY};
use sigward_tests::upstream::Upstream;
use sigward_tests::{deadline, processes};

use self::network::Network;
use self::played::{AGENT_TOKEN, PORT, STS_PORT};
use self::podman::Podman;
use self::session::Session;
use crate::setup::text;

/// A port on which a key can be found, to show that the search finds one.
const CONTROL_PORT: u16 = 8099;
/// The concurrent callers while the broker is killed, and how often it is killed.
const CALLERS: usize = 32;
const KILLS: usize = 10;
/// The proxy's address, in the pod.
const PROXY: &str = "127.0.0.1:8080";
/// How long the pod may take to stop.
const END: Duration = Duration::from_secs(5);
const CONTAINERS: [&str; 3] = ["agent-broker", "agent-proxy", "agent-agent"];
const PROFILES: [&str; 2] = ["prod-readonly", "dev"];

/// A running pod, and the servers that it uses.
struct Pod {
    podman: Podman,
    network: Network,
    upstream: Upstream,
    _aws: Aws,
}

impl Pod {
    async fn play() -> Self {
        let podman = Podman::new();
        let scene = podman.directory();
        image::build(&podman);
        let pod = played::write(scene);
        podman.run(&["kube", "play", "--network", "none", "--log-driver", "k8s-file", &pod]);
        let network = Network::of(podman.pid("agent-agent"));
        let keys = KeyTable::default();
        let known = keys.clone();
        let upstream = network.run(Upstream::builder(known).port(PORT).start()).await;
        let aws = network.run(Aws::at(keys, STS_PORT)).await;
        let pod = Self { podman, network, upstream, _aws: aws };
        // The kubelet does this before it starts the next container.
        for (container, probe) in [
            ("agent-broker", &["sigward-broker", "health"][..]),
            ("agent-proxy", &["sigward-proxy", "health", "127.0.0.1:8080"]),
        ] {
            pod.podman.healthy(container, probe).await;
        }
        pod
    }

    /// The logs of all containers.
    fn all_logs(&self) -> String {
        self.podman.all_logs(&CONTAINERS)
    }

    /// A session of the agent.
    async fn session(&self) -> Session {
        self.network.run(Session::open(PROXY, AGENT_TOKEN)).await
    }

    /// How many calls of `tool` have reached the server.
    fn calls(&self, tool: &str) -> usize {
        self.upstream.requests().iter().filter(|it| it.calls(tool)).count()
    }

    async fn called(&self, tool: &'static str, times: usize) {
        let waiting = async {
            while self.calls(tool) < times {
                tokio::task::yield_now().await;
            }
        };
        deadline::within(waiting, || format!("{}\n{}", self.calls(tool), self.all_logs())).await;
    }
}

/// The identity that the server sees when a profile signs: the role of aws-config.
fn role(profile: &str) -> String {
    format!(":assumed-role/agent-{profile}/sigward")
}

/// One pod for all parts, from its start to its end.
#[tokio::test]
async fn the_pod_isolates_keys_survives_broker_kills_and_stops_cleanly() {
    let pod = Pod::play().await;
    two_profiles_are_two_roles(&pod).await;
    the_agent_finds_no_key(&pod).await;
    a_broker_killed_ten_times_loses_no_call(&pod).await;
    a_stop_loses_no_answer(&pod).await;
    pod.podman.assert_clean(&CONTAINERS);
}

async fn two_profiles_are_two_roles(pod: &Pod) {
    let session = pod.session().await;
    for profile in PROFILES {
        let session = session.clone();
        let called = pod.network.run(async move { session.call("whoami", profile).await }).await;
        assert!(text(&called).ends_with(&role(profile)), "{called}");
    }
    // Without the token there is no access, not even from within the pod.
    let hello = r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#;
    let refused = pod.network.run(session::post(PROXY, "0123456789abcdef0123", "", hello)).await;
    assert_eq!(refused.status, 401);
}

/// A program of the agent's user, in the agent's container, searches everything that it can read and reach.
async fn the_agent_finds_no_key(pod: &Pod) {
    let control = pod.network.spawn(network::answer_always(CONTROL_PORT, CANARY));
    let key = {
        let requests = pod.upstream.requests();
        let signed = requests.iter().rev().find_map(|it| it.signature.as_ref().ok());
        signed.expect("a signature").key.clone()
    };
    let needles = [CANARY, TOKEN_CANARY, WEB_IDENTITY_TOKEN, &key.secret].map(hex::encode);
    let needles = needles.iter().map(String::as_str);
    let command: Vec<&str> = ["search"].into_iter().chain(needles).collect();
    let report = pod.podman.probe("agent-agent", &command);
    control.abort();

    // The planted keys, and nothing else.
    let found: BTreeSet<String> = serde_json::from_value(report["found"].clone()).unwrap();
    let expected = ["environment CONTROL", "environment of /probe/probe wait", "/control/key"]
        .map(str::to_owned)
        .into_iter()
        .chain(
            ["/", "/mcp", "/metrics", "/healthz", "/v1/credentials", "/latest/meta-data/iam/info"]
                .map(|path| format!("port {CONTROL_PORT} {path}")),
        )
        .collect::<BTreeSet<_>>();
    let mut found = found;
    // The memory of the probe contains its environment.
    found.remove("memory of /probe/probe wait");
    assert_eq!(found, expected, "{report:#}");
    // The control: it has searched where there is something.
    assert!(report["files"].as_u64().is_some_and(|files| files > 5), "{report:#}");
    assert_eq!(report["processes"], serde_json::json!(["/probe/probe wait"]), "{report:#}");
    let ports: BTreeSet<u16> = serde_json::from_value(report["ports"].clone()).unwrap();
    assert!(ports.is_superset(&[8080, 9464, PORT, STS_PORT, CONTROL_PORT].into()), "{report:#}");
    // The broker's socket has a name on this network, but no path leads to it.
    let named: Vec<String> = serde_json::from_value(report["named_sockets"].clone()).unwrap();
    assert!(named.contains(&"/run/sigward/broker.sock".to_owned()), "{report:#}");
    assert_eq!(report["open_sockets"], serde_json::json!([]), "{report:#}");
    assert_eq!(report["metadata"], serde_json::json!([]), "{report:#}");

    // The key is in the broker's memory, and in no other.
    let count = |name| pod.podman.in_memory(name, &key.secret);
    assert!(count("agent-broker") > 0, "the control: the broker has the key");
    for name in ["agent-proxy", "agent-agent"] {
        assert_eq!(count(name), 0, "{name}");
    }
}

/// The broker is killed repeatedly during concurrent calls, and restarted by podman, as the kubelet does.
async fn a_broker_killed_ten_times_loses_no_call(pod: &Pod) {
    let is_over = Arc::new(AtomicBool::new(false));
    let done: Arc<[AtomicUsize; CALLERS]> = Arc::new([const { AtomicUsize::new(0) }; CALLERS]);
    let mut callers = Vec::new();
    for number in 0..CALLERS {
        let (session, is_over) = (pod.session().await, Arc::clone(&is_over));
        let done = Arc::clone(&done);
        callers.push(pod.network.spawn(async move {
            let profile = PROFILES[number % 2];
            // Each caller always has a call in flight.
            while !is_over.load(Ordering::SeqCst) {
                let called = session.call("whoami", profile).await;
                assert!(text(&called).ends_with(&role(profile)), "{called}");
                done[number].fetch_add(1, Ordering::SeqCst);
            }
        }));
    }
    // The call in flight may have been signed before the restart; the next one wasn't.
    let two_more = async || {
        let before = done.each_ref().map(|done| done.load(Ordering::SeqCst));
        let is_done = |number: usize| {
            assert!(!callers[number].is_finished(), "a call failed: {}", pod.all_logs());
            done[number].load(Ordering::SeqCst) >= before[number] + 2
        };
        let all = async {
            while !(0..CALLERS).all(&is_done) {
                tokio::task::yield_now().await;
            }
        };
        deadline::within_long(all, || pod.all_logs()).await;
    };
    let mut brokers = BTreeSet::new();
    for _ in 0..KILLS {
        two_more().await;
        let broker = pod.podman.pid("agent-broker");
        assert!(brokers.insert(broker), "another process each time");
        processes::signal(broker, Signal::KILL);
    }
    two_more().await;
    assert!(brokers.insert(pod.podman.pid("agent-broker")), "another process at the end");
    is_over.store(true, Ordering::SeqCst);
    for caller in callers {
        let finished = deadline::within_long(caller, || pod.all_logs()).await;
        finished.unwrap_or_else(|error| panic!("{error}\n{}", pod.all_logs()));
    }
}

/// SIGTERM, in the order in which the kubelet stops sidecars: calls in progress are answered, and nothing has to be
/// killed. From the signal to the end of the last process, both programs take less than [`END`] together.
async fn a_stop_loses_no_answer(pod: &Pod) {
    let mut callers = Vec::new();
    for profile in PROFILES {
        let session = pod.session().await;
        callers.push(pod.network.spawn(async move { session.call("slow", profile).await }));
    }
    pod.called("slow", PROFILES.len()).await;
    // The broker ends last, and shows the network until then.
    let (proxy, broker) = (pod.podman.pid("agent-proxy"), pod.podman.pid("agent-broker"));
    let stopping = pod.podman.stop(&["agent-agent", "agent-proxy", "agent-broker"]);
    // podman's own time between the two doesn't count: each begins with the signal, at which it stops listening.
    until(pod, || !listens(broker, 8080)).await;
    let begun = Instant::now();
    pod.upstream.slow().open();
    for caller in callers {
        let called = deadline::within(caller, || pod.all_logs()).await.expect("an answer");
        assert_ne!(called["result"]["isError"], true, "{called}");
        assert!(called["result"].is_object(), "{called}");
    }
    until(pod, || !runs(proxy)).await;
    let of_proxy = begun.elapsed();
    until(pod, || !has_socket(broker)).await;
    let begun = Instant::now();
    until(pod, || !runs(broker)).await;
    let of_broker = begun.elapsed();
    assert!(of_proxy + of_broker < END, "{of_proxy:?} and {of_broker:?}");
    stopping.join().expect("podman stops them");
    for name in ["agent-agent", "agent-proxy", "agent-broker"] {
        // Killed after 5 seconds it would be 137.
        assert_eq!(pod.podman.exit_code(name), 0, "{name}\n{}", pod.all_logs());
    }
}

async fn until(pod: &Pod, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    deadline::within(waiting, || pod.all_logs()).await;
}

/// Whether the process `pid` has not ended.
fn runs(pid: u32) -> bool {
    // A process that has ended and wasn't reaped has no files any more.
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

/// Whether the broker's socket is open in the network of the process `pid`; false when the process has ended.
fn has_socket(pid: u32) -> bool {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    // The listening socket (__SO_ACCEPTCON).
    let listens = |line: &str| line.split_whitespace().nth(3) == Some("00010000");
    table.lines().any(|line| line.ends_with("/run/sigward/broker.sock") && listens(line))
}

/// Whether anything listens on `port` in the network of the process `pid`.
fn listens(pid: u32, port: u16) -> bool {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("a network");
    let local = format!(":{port:04X}");
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .any(|fields| matches!(fields[..], [_, address, _, "0A", ..] if address.ends_with(&local)))
}
