//! compose.yaml of broker/deploy/container, run by podman-compose: the agent has a network of its own with the proxy. The
//! MCP server that verifies signatures is on the machine, which only the network `aws` reaches.
//!
//! All is run as shipped, but for a second compose file, and these differences:
//! - the endpoint is the server's, in the proxy's command and in broker.toml, whose rule has no rate
//! - the proxy gets the server's address and its certificate authority
//! - the image is the one just built; the agent runs the probe of the tests
//! - the test runs the health checks: podman would need systemd

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::{Value, json};
use sigward_tests::authority::{Authority, HOST};
use sigward_tests::aws_home::AwsHome;
use sigward_tests::keys::{CANARY, Key, TOKEN_CANARY};
use sigward_tests::upstream::{REGION, SERVICE, Upstream};
use sigward_tests::{processes, tools};

use super::image;
use super::network::{self, Network};
use super::played::{AGENT_TOKEN, PORT, SHIPPED, with_endpoint};
use super::podman::{Podman, succeed};
use super::session::{self, Session};
use crate::manifests::rendered::directory;
use crate::setup::text;
use crate::yaml::documents;

/// The addresses of the network `aws`: podman chooses others on each run.
const AWS_NETWORK: &str = "10.89.64.0/24";
const MACHINE: &str = "10.89.64.1";
/// The group of the token's file, as in the commands of compose.yaml.
const TOKEN_GROUP: u32 = 65_533;
const BROKER: &str = "sigward_broker_1";
const PROXY: &str = "sigward_proxy_1";
const AGENT: &str = "sigward_agent_1";
const CONTAINERS: [&str; 3] = [BROKER, PROXY, AGENT];
const PROFILES: [&str; 2] = ["prod-readonly", "dev"];

/// A running compose project, and the server that it uses.
struct Project {
    podman: Podman,
    home: AwsHome,
    upstream: Upstream,
    /// The network of the server.
    _machine: Network,
    /// The network of the agent.
    agent: Network,
}

impl Project {
    async fn up() -> Self {
        let podman = Podman::new();
        image::build(&podman);
        let home = home(&podman.directory().join("home"));
        let machine = Network::of(podman.machine());
        let authority = Authority::new(&["http/1.1"]);
        let upstream = Upstream::builder(home.keys()).port(PORT).vouched_for_by(&authority);
        let upstream = machine.run(upstream.start()).await;
        machine.run(network::forward(443, PORT)).await;
        write(&project(&podman), &authority);
        compose(&podman, &home, &["up", "--detach", "--no-build"]);
        for container in [BROKER, PROXY] {
            let check = podman.inspect(container, "{{json .Config.Healthcheck.Test}}");
            let check: Vec<String> = serde_json::from_str(&check).expect("a command");
            assert_eq!(check[0], "CMD");
            let check: Vec<&str> = check[1..].iter().map(String::as_str).collect();
            podman.healthy(container, &check).await;
        }
        let agent = Network::of(podman.pid(AGENT));
        Self { podman, home, upstream, _machine: machine, agent }
    }

    /// What the agent's container finds when it connects to each `HOST:PORT`.
    fn reach(&self, hosts: &[&str]) -> Value {
        self.podman.probe(AGENT, &[&["reach"], hosts].concat())
    }

    /// The address of a container in a network of the project.
    fn address(&self, container: &str, network: &str) -> String {
        let path =
            format!("{{{{(index .NetworkSettings.Networks \"sigward_{network}\").IPAddress}}}}");
        let address = self.podman.inspect(container, &path);
        assert!(address.parse::<IpAddr>().is_ok(), "{container} in {network}: {address:?}");
        address
    }

    fn logs(&self) -> String {
        self.podman.all_logs(&CONTAINERS)
    }

    /// A session of the agent.
    async fn session(&self) -> Session {
        let address = format!("{}:8080", self.address(PROXY, "agent"));
        self.agent.run(async move { Session::open(&address, AGENT_TOKEN).await }).await
    }
}

/// A person's AWS files, which only the broker's user can read.
fn home(path: &Path) -> AwsHome {
    let mut home = AwsHome::at(path);
    home.config("[profile prod-readonly]\nregion = us-east-1\n");
    home.static_keys("prod-readonly", &Key::user("prod-readonly"));
    let broker = documents(&shipped())[0]["services"]["broker"]["user"].clone();
    let broker = broker.as_str().and_then(|it| it.split(':').next()).and_then(|it| it.parse().ok());
    for file in [home.config_file(), home.credentials_file()] {
        std::os::unix::fs::chown(&file, broker, None).expect("root may do that");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    home
}

fn shipped() -> String {
    fs::read_to_string(directory().join("compose.yaml")).expect("a file")
}

fn project(podman: &Podman) -> PathBuf {
    podman.directory().join("project")
}

/// Writes the project: the shipped files, and what differs from them.
fn write(project: &Path, authority: &Authority) {
    fs::create_dir_all(project.join("pod")).expect("a directory");
    fs::write(project.join("compose.yaml"), shipped()).expect("a file");
    let endpoint = format!("https://{HOST}/mcp");
    let broker = fs::read_to_string(directory().join("pod/broker.toml")).expect("a file");
    assert!(broker.contains(SHIPPED), "{broker}");
    fs::write(project.join("pod/broker.toml"), with_endpoint(&broker, &endpoint)).expect("a file");
    let token = project.join("agent-token");
    fs::write(&token, AGENT_TOKEN).expect("a file");
    std::os::unix::fs::chown(&token, None, Some(TOKEN_GROUP)).expect("root may do that");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o640)).expect("a mode");
    fs::write(project.join("authority.pem"), &authority.pem).expect("a file");
    image::place(env!("CARGO_BIN_EXE_probe").as_ref(), &project.join("probe"));

    let services = &documents(&shipped())[0]["services"];
    let mut command = services["proxy"]["command"].as_array().expect("a command").clone();
    let shipped = command.iter_mut().find(|it| **it == SHIPPED).expect("the endpoint");
    *shipped = endpoint.into();
    let more = [
        format!("--service={SERVICE}"),
        format!("--region={REGION}"),
        "--ca-bundle=/etc/sigward/authority.pem".to_owned(),
    ];
    command.extend(more.map(Value::from));
    let differences = json!({
        "services": {
            "proxy": {
                "command": command,
                "volumes": ["./authority.pem:/etc/sigward/authority.pem:ro"],
                "extra_hosts": [format!("{HOST}:{MACHINE}")],
            },
            "agent": {
                "image": "sigward",
                "command": ["/probe/probe", "wait"],
                "volumes": ["./probe:/probe/probe:ro"],
            },
        },
        "networks": { "aws": { "ipam": { "config": [{ "subnet": AWS_NETWORK, "gateway": MACHINE }] } } },
    });
    // JSON is valid YAML.
    fs::write(project.join("test.yaml"), differences.to_string()).expect("a file");
}

/// Runs podman-compose, which must succeed.
fn compose(podman: &Podman, home: &AwsHome, arguments: &[&str]) -> String {
    let mut command = podman.command(tools::compose());
    for file in ["compose.yaml", "test.yaml"] {
        command.arg("--file").arg(project(podman).join(file));
    }
    command.args(arguments).env("AWS_FILES", home.path().join(".aws"));
    succeed(&mut command)
}

#[tokio::test]
async fn compose_isolates_keys_and_networks_and_survives_a_broker_kill() {
    let project = Project::up().await;
    let session = project.session().await;
    for profile in PROFILES {
        let session = session.clone();
        let called = project.agent.run(async move { session.call("whoami", profile).await }).await;
        assert_eq!(text(&called), project.home.identity(profile), "{}", project.logs());
    }
    the_token_is_required(&project).await;
    the_agent_reaches_the_proxy_alone(&project).await;
    the_agent_finds_no_key(&project);
    a_killed_broker_loses_no_call(&project, &session).await;

    compose(&project.podman, &project.home, &["stop", "--timeout", "5"]);
    for name in CONTAINERS {
        // Killed after 5 seconds it would be 137.
        assert_eq!(project.podman.exit_code(name), 0, "{name}\n{}", project.logs());
    }
    project.podman.assert_clean(&CONTAINERS);
}

async fn the_token_is_required(project: &Project) {
    let address = format!("{}:8080", project.address(PROXY, "agent"));
    let ping = r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#;
    let refused = project
        .agent
        .run(async move { session::post(&address, "0123456789abcdef0123", "", ping).await })
        .await;
    assert_eq!(refused.status, 401);
}

/// By name and by address. The proxy's network shows that the others are there.
async fn the_agent_reaches_the_proxy_alone(project: &Project) {
    let metrics = format!("{}:9464", project.address(BROKER, "aws"));
    let server = format!("{MACHINE}:443");
    let closed = ["broker:9464", &metrics, &server, "169.254.169.254:80"];
    // A limit that compose.yaml names: the machine is at the first address of each of its networks.
    let agent = project.address(AGENT, "agent");
    let machine = format!("{}.1:443", agent.rsplit_once('.').expect("an address").0);
    let report = project.reach(&[&["proxy:8080", &machine], &closed[..]].concat());
    assert_eq!(report[&machine], "open", "{report:#}");
    assert_eq!(report["proxy:8080"], "open", "{report:#}");
    for host in closed {
        assert!(report[host].as_str().is_some_and(|it| it != "open"), "{host}: {report:#}");
    }
    let proxy = Network::of(project.podman.pid(PROXY));
    for open in [metrics, server] {
        let connected = proxy.run(tokio::net::TcpStream::connect(open.clone())).await;
        assert!(connected.is_ok(), "the control: {open}: {connected:?}");
    }
}

fn the_agent_finds_no_key(project: &Project) {
    let secrets = PROFILES.map(|it| project.home.key(it).secret.clone());
    let needles = [CANARY, TOKEN_CANARY, AGENT_TOKEN].into_iter();
    let needles: Vec<String> =
        needles.chain(secrets.iter().map(String::as_str)).map(hex::encode).collect();
    let needles = needles.iter().map(String::as_str);
    let command: Vec<&str> = ["search"].into_iter().chain(needles).collect();
    let report = project.podman.probe(AGENT, &command);
    // The control: the token for the proxy, which is the agent's.
    assert_eq!(report["found"], json!(["/run/secrets/agent-token"]), "{report:#}");
    assert_eq!(report["metadata"], json!([]), "{report:#}");
    assert_eq!(report["open_sockets"], json!([]), "{report:#}");

    for secret in &secrets {
        assert!(
            project.podman.in_memory(BROKER, secret) > 0,
            "the control: the broker has the key"
        );
        for name in [PROXY, AGENT] {
            assert_eq!(project.podman.in_memory(name, secret), 0, "{name}");
        }
    }
}

async fn a_killed_broker_loses_no_call(project: &Project, session: &Session) {
    let broker = project.podman.pid(BROKER);
    processes::signal(broker, Signal::KILL);
    for profile in PROFILES {
        let session = session.clone();
        let called = project.agent.run(async move { session.call("whoami", profile).await }).await;
        assert_eq!(text(&called), project.home.identity(profile), "{}", project.logs());
    }
    assert_ne!(project.podman.pid(BROKER), broker, "podman has started another");
    assert!(project.upstream.requests().len() > 4, "the server has seen the calls");
}
