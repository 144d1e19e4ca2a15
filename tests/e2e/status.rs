//! `status` of a running broker, once and with `--watch`: the identity of each profile, in a pipe and on a terminal.

use std::fs::File;
use std::io::Read as _;
use std::process::Stdio;

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};
use sigward_proto::v1::{ListProfilesRequest, OverviewRequest, WatchProfilesRequest};
use sigward_tests::aws::Aws;
use sigward_tests::deadline;
use sigward_tests::processes::{Process, assert_no_canary};
use sigward_tests::workloads::{BROKER, Issued, Workloads};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::pace::broker::{configuration, metrics_address, until_waiting};
use crate::setup::{THREE, World, assert_names, connect, own_uid, ping, text};
use crate::tls::scene::{AGENT, Scene, reason, rule};

/// A broker that asks AWS for the identity of its keys.
pub(crate) async fn broker(world: &World, aws: &Aws) -> Process {
    let rule = format!(
        "[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"dev\", \"staging\"]\nendpoints = [\"upstream\"]\n",
        own_uid()
    );
    let config = world.configuration(&rule).replace("[aws]\n", "[aws]\nidentity = true\n");
    let config = world.write("broker.toml", &config);
    let mut command = world.broker_command(&["serve", "--config", config.to_str().unwrap()]);
    command.envs(aws.environment());
    let broker = Process::start(command);
    broker.logged("listening").await;
    broker
}

fn status(world: &World, options: &[&str]) -> Command {
    let socket = format!("unix:{}", world.socket().display());
    let mut command = world.broker_command(&["status", "--broker", &socket]);
    command.args(options).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command
}

async fn use_dev(world: &World) {
    let mut client = world.client_of(&world.socket(), &["dev"]).await;
    assert_eq!(text(&client.call("whoami", "{}").await), world.home.identity("dev"));
}

#[tokio::test]
async fn the_table_and_json_show_the_identity_of_each_profile() {
    let world = World::new().await;
    let aws = Aws::start(world.home.keys()).await;
    let broker = broker(&world, &aws).await;
    let mut watching = status(&world, &["--json", "--watch"]).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!(first["profiles"][0]["identity_arn"], "");

    use_dev(&world).await;
    let identity = world.home.identity("dev");
    let shown = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("the broker still runs");
            let answer: Value = serde_json::from_str(&line).unwrap();
            let (dev, staging) = (&answer["profiles"][0], &answer["profiles"][1]);
            assert_eq!(staging["identity_arn"], "", "staging wasn't used");
            if dev["identity_arn"] == identity {
                assert_eq!(
                    (&dev["state"], &dev["source"]),
                    (&"fresh".into(), &"static keys".into())
                );
                break;
            }
        }
    };
    deadline::within(shown, || "the identity is never shown".to_owned()).await;
    let asked = aws.issued();
    assert_eq!((asked.len(), asked[0].action.as_str()), (1, "GetCallerIdentity"), "{asked:?}");

    let table = status(&world, &[]).output().await.unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    let row = table.lines().find(|line| line.starts_with("dev")).unwrap();
    assert_names(row, &["static keys", "fresh", &world.home.key("dev").account, "user/dev"]);
    assert_names(table.lines().next().unwrap(), &["ACCOUNT", "IDENTITY", "TIME LEFT"]);

    // `status --watch` ends with the broker.
    broker.signal(Signal::TERM);
    let ended =
        deadline::within(watching.wait(), || "status still runs without a broker".to_owned());
    assert!(ended.await.unwrap().success());
}

/// The broker's operator sees all profiles, and all callers by certificate or by user, without a rule. A caller sees
/// neither.
#[tokio::test]
async fn the_operator_sees_all_callers_and_a_workload_does_not() {
    let scene = Scene::new(&rule("spiffe_id", AGENT)).await;
    let agent = scene.authority.workload(AGENT);
    let mut client = scene.client(&agent).await.unwrap();
    client.sign(ping(&scene.world, "dev")).await.unwrap();
    let mut other = scene.client(&agent).await.unwrap();
    // A stream is a call in progress as long as it lasts.
    let mut watched = other.watch_profiles(WatchProfilesRequest {}).await.unwrap().into_inner();
    watched.message().await.unwrap().expect("a first list");

    let table = status(&scene.world, &[]).output().await.unwrap();
    assert!(table.status.success(), "{}", String::from_utf8_lossy(&table.stderr));
    let table = String::from_utf8(table.stdout).unwrap();
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    // A caller without a rule, like `status` itself, isn't listed.
    let callers = rows.iter().skip_while(|row| row.first() != Some(&"CALLER"));
    let callers: Vec<_> = callers.map(Vec::as_slice).collect();
    let expected = [["CALLER", "CONNECTIONS", "CALLS"], [AGENT, "2", "1"]];
    assert_eq!(callers, expected, "{table}");
    for profile in THREE {
        assert!(rows.iter().any(|row| row.first() == Some(&profile)), "{profile}: {table}");
    }
    let json = status(&scene.world, &["--json"]).output().await.unwrap();
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["callers"][0], json!({ "name": AGENT, "connections": 2, "calls": 1 }));
    assert_eq!(json["other_callers"], 0);

    let refused = client.overview(OverviewRequest { all: true }).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.get_details_error_info().is_none(), "{refused:?}");
    assert_names(refused.message(), &["only for the broker's own user"]);
    // Everything but an overview still needs a rule.
    let refused = connect(&scene.world.socket()).await.list_profiles(ListProfilesRequest {}).await;
    assert_eq!(reason(&refused.unwrap_err()), "PEER_NOT_ALLOWED");
    let stranger = scene.authority.workload("spiffe://test.example/ns/x/sa/other");
    let refused =
        scene.client(&stranger).await.unwrap().overview(OverviewRequest { all: true }).await;
    assert_eq!(reason(&refused.unwrap_err()), "PEER_NOT_ALLOWED");
    drop(watched);
}

/// The same commands over TLS, with the options of the proxy.
#[tokio::test]
async fn status_and_health_over_tls_show_what_the_certificate_permits() {
    let scene = Scene::new(&rule("spiffe_id", AGENT)).await;
    let ask = async |command: &str, issued: &Issued, more: &[&str]| {
        scene.write_agent(issued);
        let mut asking = scene.world.broker_command(&[command, "--broker"]);
        asking.arg(format!("https://{}", scene.address));
        let files = [("cert", "agent.cert"), ("key", "agent.key"), ("ca", "agent.ca")];
        for (option, file) in files {
            asking.arg(format!("--broker-{option}")).arg(scene.path(file));
        }
        let output = asking.args(more).output().await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        scene.assert_no_secret(&text);
        (output.status.success(), text)
    };
    let agent = scene.authority.workload(AGENT);
    let by_name = ["--broker-name", BROKER];
    let (good, table) = ask("status", &agent, &by_name).await;
    assert!(good, "{table}");
    let profiles: Vec<_> = table.lines().map(|line| line.split("  ").next().unwrap()).collect();
    assert_eq!(profiles, ["PROFILE", "dev"], "only its own profile, and no callers: {table}");
    let (good, text) = ask("health", &agent, &by_name).await;
    assert!(good && text.is_empty(), "{text}");

    let stranger = scene.authority.workload("spiffe://test.example/ns/x/sa/other");
    let (good, text) = ask("status", &stranger, &by_name).await;
    assert!(!good && text.contains("no rule matches this peer"), "{text}");
    // A certificate of the right authority isn't enough: the broker's name must match.
    for name in [AGENT, "broker.test.example"] {
        let (good, text) = ask("status", &agent, &["--broker-name", name]).await;
        assert!(!good, "{name}: {text}");
        assert_names(&text, &["https://127.0.0.1", "--broker-name"]);
    }
    let (good, text) = ask("status", &Workloads::new().workload(AGENT), &by_name).await;
    assert!(!good, "{text}");
    assert_names(&text, &["it refuses --broker-cert", "client_ca"]);
    // An incomplete set of options is an error before any connection.
    let mut half = scene.world.broker_command(&["status", "--broker", "https://127.0.0.1:1"]);
    let output = half.output().await.unwrap();
    assert!(!output.status.success());
    assert_names(&String::from_utf8_lossy(&output.stderr), &["needs --broker-cert FILE"]);
}

/// An error while the previous keys still sign is shown until it is resolved.
#[tokio::test]
async fn the_last_error_of_a_profile_that_still_signs_is_shown() {
    let world = World::new().await;
    let aws = Aws::start(world.home.keys()).await;
    let _broker = broker(&world, &aws).await;
    use_dev(&world).await;
    let mut watching = status(&world, &["--json", "--watch"]).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut shown = async |state: &str, error: &str| {
        let shown = async {
            loop {
                let line = lines.next_line().await.unwrap().expect("the broker still runs");
                let answer: Value = serde_json::from_str(&line).unwrap();
                let dev = &answer["profiles"][0];
                if (&dev["state"], &dev["last_error"]) == (&state.into(), &error.into()) {
                    assert_eq!(dev["reason"], "", "it signs");
                    return;
                }
            }
        };
        deadline::within(shown, || format!("{state} {error:?} is never shown")).await;
    };
    shown("fresh", "").await;
    let file = world.home.credentials_file();
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, good.replace("aws_secret_access_key", "aws_secret")).unwrap();
    shown("degraded", "PROFILE_MISCONFIGURED").await;
    use_dev(&world).await;
    let table = status(&world, &[]).output().await.unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    let row = table.lines().find(|line| line.starts_with("dev")).unwrap();
    assert_names(row, &["degraded", "is misconfigured"]);
    std::fs::write(&file, good).unwrap();
    shown("fresh", "").await;
}

/// A terminal and its output, which a thread reads until the other end is closed.
fn terminal() -> (Stdio, mpsc::UnboundedReceiver<String>) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let slave = File::options().read(true).write(true).open(name).unwrap();
    let (shown, frames) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let (mut master, mut bytes) = (File::from(master), vec![0; 8192]);
        // Reading a terminal without a writer is an error, not an end of file.
        while let Ok(count @ 1..) = master.read(&mut bytes) {
            if shown.send(String::from_utf8_lossy(&bytes[..count]).into_owned()).is_err() {
                return;
            }
        }
    });
    (slave.into(), frames)
}

/// The whole output of a terminal.
struct Screen {
    frames: mpsc::UnboundedReceiver<String>,
    text: String,
}

impl Screen {
    /// Waits until the output satisfies `reached`, and returns all of it.
    async fn until(&mut self, reached: impl Fn(&str) -> bool) -> String {
        let shown = async {
            while !reached(&self.text) {
                self.text += &self.frames.recv().await.expect("the terminal is still written to");
            }
            self.text.clone()
        };
        deadline::within(shown, || "the terminal never shows it".to_owned()).await
    }
}

#[tokio::test]
async fn a_watch_on_a_terminal_redraws_the_screen() {
    const HOME: &str = "\u{1b}[H\u{1b}[J";
    let world = World::new().await;
    let aws = Aws::start(world.home.keys()).await;
    let broker = broker(&world, &aws).await;
    let (stdout, frames) = terminal();
    let mut watching = status(&world, &["--watch"]).stdout(stdout).spawn().unwrap();

    let mut screen = Screen { frames, text: String::new() };
    // Even without a change, the time left is updated.
    let drawn = screen.until(|screen| screen.matches(HOME).count() >= 3).await;
    assert!(drawn.starts_with(HOME), "{drawn:?}");
    for frame in drawn.split(HOME).skip(1).take(2) {
        assert_names(frame, &["PROFILE", "dev", "staging", "unloaded"]);
    }
    use_dev(&world).await;
    let shows = |screen: &str| screen.rsplit(HOME).next().is_some_and(|it| it.contains("user/dev"));
    let all = screen.until(shows).await;
    assert_names(all.rsplit(HOME).next().unwrap(), &["fresh", &world.home.key("dev").account]);
    assert_no_canary("the terminal", &all);
    broker.signal(Signal::TERM);
    let ended =
        deadline::within(watching.wait(), || "status still runs without a broker".to_owned());
    assert!(ended.await.unwrap().success());
}

/// The pace of an endpoint changes all the time: a watch shows it as long as it lasts, not only its beginning.
#[tokio::test]
async fn a_watch_shows_the_pace_of_an_endpoint_as_long_as_it_lasts() {
    let world = World::new().await;
    let pace = "pace = { in_flight = 1, wait = \"2m\" }";
    let broker = world.broker(&configuration(&world, pace)).await;
    let metrics = metrics_address(&broker).await;
    let mut watching = status(&world, &["--json", "--watch"]).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut shows = async |waiting: u32, in_flight: u32| {
        let shown = async {
            loop {
                let line = lines.next_line().await.unwrap().expect("the broker still runs");
                let answer: Value = serde_json::from_str(&line).unwrap();
                let paced = &answer["profiles"][0]["paced"];
                if paced.as_array().unwrap().is_empty() {
                    assert_eq!((waiting, in_flight), (0, 0), "{line}");
                    return;
                }
                if (&paced[0]["waiting"], &paced[0]["in_flight"])
                    == (&waiting.into(), &in_flight.into())
                    && (waiting, in_flight) != (0, 0)
                {
                    return;
                }
            }
        };
        deadline::within(shown, || format!("{waiting} and {in_flight} are never shown")).await;
    };
    let mut client = connect(&world.socket()).await;
    client.sign(ping(&world, "dev")).await.unwrap();
    shows(0, 1).await;
    let mut other = connect(&world.socket()).await;
    let (mut asking, request) = (other.clone(), ping(&world, "dev"));
    let waits = tokio::spawn(async move { asking.sign(request).await });
    until_waiting(&metrics, 1).await;
    shows(1, 1).await;
    // The end of the pace is shown, too.
    world.write("broker.toml", &configuration(&world, ""));
    waits.await.unwrap().expect("there is no pace");
    other.sign(ping(&world, "dev")).await.unwrap();
    shows(0, 0).await;
}
