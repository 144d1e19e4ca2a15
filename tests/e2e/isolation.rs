//! The proxy has no key: it opens no AWS file, its memory and environment hold no secret, and no output of any process
//! does either.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use sigward_tests::keys::CANARY;
use sigward_tests::processes::{self, StdioClient};
use sigward_tests::upstream::{REGION, SERVICE};
use sigward_tests::{memory, tools};
use tokio::process::Command;

use crate::commands::run;
use crate::setup::{THREE, World, assert_names, own_uid, text};

/// One traced process: the programs that it ran, and its calls that name files.
#[derive(Default)]
struct Traced {
    programs: Vec<String>,
    lines: Vec<String>,
}

/// Reads the trace of `strace -ff`, one file per thread, by process. The first one is the traced command.
fn read_trace(directory: &Path, root: u32) -> Vec<Traced> {
    let mut threads = HashMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let id: u32 = path.extension().unwrap().to_str().unwrap().parse().unwrap();
        threads.insert(id, fs::read_to_string(path).unwrap());
    }
    let mut processes: Vec<Traced> = Vec::new();
    let mut waiting = vec![(root, None)];
    while let Some((thread, process)) = waiting.pop() {
        let process = process.unwrap_or_else(|| {
            processes.push(Traced::default());
            processes.len() - 1
        });
        for line in threads.remove(&thread).unwrap_or_default().lines() {
            if ["clone", "clone3", "fork", "vfork"]
                .iter()
                .any(|call| line.strip_prefix(call).is_some_and(|rest| rest.starts_with('(')))
            {
                let child = line.rsplit("= ").next().and_then(|id| id.trim().parse().ok());
                let same = line.contains("CLONE_THREAD").then_some(process);
                waiting.extend(child.map(|child| (child, same)));
            } else if let Some(rest) = line.strip_prefix("execve(\"") {
                let program = rest.split('"').next().unwrap_or_default();
                processes[process].programs.push(program.to_owned());
            }
            processes[process].lines.push(line.to_owned());
        }
    }
    assert!(threads.is_empty(), "threads of unknown parents: {:?}", threads.keys());
    processes
}

/// Whether a call of the trace names a file that may hold credentials.
fn touches_aws(line: &str) -> bool {
    [".aws", "/sso/", "credentials"].iter().any(|name| line.contains(name))
}

#[tokio::test]
async fn the_proxy_opens_no_aws_file() {
    let world = World::new().await;
    let directory = world.directory.path().join("trace");
    fs::create_dir(&directory).unwrap();
    let command = traced(&directory, &world.private_proxy(&THREE, &[]));
    let mut client = StdioClient::start(command);
    client.initialize().await;
    let root = processes::children(client.process().pid())[0];
    client.request("tools/list", "{}").await;
    for profile in THREE {
        let called = client.call("whoami", &format!(r#"{{"aws_profile":"{profile}"}}"#)).await;
        assert_eq!(text(&called), world.home.identity(profile));
    }
    client.call("whoami", r#"{"aws_profile":"nobody"}"#).await;
    let (status, ..) = client.close().await;
    assert!(status.success());

    assert_only_the_broker_opens_aws_files(&read_trace(&directory, root));
}

/// `command` under `strace`, after a program that opens a file that the proxy must not open: the control.
fn traced(directory: &Path, traced: &Command) -> Command {
    let strace = tools::strace();
    let mut command = processes::command(&strace.program);
    command.args(["-ff", "-e", "trace=%file,clone,clone3,fork,vfork", "-o"]);
    command.arg(directory.join("t"));
    if let Some(libraries) = &strace.libraries {
        command.env("LD_LIBRARY_PATH", libraries);
        command.args(["-E", "LD_LIBRARY_PATH"]);
    }
    for (name, value) in traced.as_std().get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let script = "/bin/cat \"$AWS_SHARED_CREDENTIALS_FILE\" >/dev/null; exec \"$@\"";
    command.args(["/bin/sh", "-c", script, "sh"]);
    command.arg(traced.as_std().get_program()).args(traced.as_std().get_args());
    command
}

fn assert_only_the_broker_opens_aws_files(traced: &[Traced]) {
    let runs = |name: &'static str| {
        move |process: &&Traced| process.programs.iter().any(|program| program.ends_with(name))
    };
    let opened = |process: &Traced| -> Vec<String> {
        // Its arguments and the search for the broker's program name no AWS files.
        let calls = process.lines.iter().filter(|line| !line.starts_with("execve("));
        calls.filter(|line| touches_aws(line)).cloned().collect()
    };
    let cat = traced.iter().find(runs("/cat")).expect("the control was traced");
    assert!(!opened(cat).is_empty(), "the control opened no AWS file: {:#?}", cat.lines);
    let proxy = traced.iter().find(runs("/sigward-proxy")).expect("the proxy was traced");
    assert_eq!(opened(proxy), [""; 0], "the proxy touched AWS files");
    let broker = traced.iter().find(runs("/sigward-broker")).expect("the broker was traced");
    if own_uid() == 0 {
        assert!(!opened(broker).is_empty(), "the broker opened none: {:#?}", broker.lines);
    }
}

/// The other commands of the proxy open none either: they get profiles and credentials from the broker.
#[tokio::test]
async fn the_commands_of_the_proxy_open_no_aws_file() {
    let world = World::new().await;
    let url = world.upstream.url();
    let check = ["check", &url, "--service", SERVICE, "--region", REGION, "--broker", "private"];
    let config = ["config", "--client", "cursor", "--write", &url, "--broker", "private"];
    for (number, arguments) in
        [&[&check[..], &["--profile", "dev"]].concat()[..], &config].iter().enumerate()
    {
        let directory = world.directory.path().join(format!("trace-{number}"));
        fs::create_dir(&directory).unwrap();
        let mut command = processes::command(&processes::binaries().proxy);
        command.envs(world.home.environment()).env("XDG_RUNTIME_DIR", world.directory.path());
        command.args(*arguments);
        let (good, output, errors) = run(traced(&directory, &command)).await;
        assert!(good, "{output}{errors}");
        assert_names(&output, &[if number == 0 { "Everything works" } else { "mcp.json" }]);
        // The first one is the shell, which runs the control.
        let is_root =
            |path: &Path| fs::read_to_string(path).unwrap().starts_with("execve(\"/bin/sh\"");
        let roots = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
        let root = roots.into_iter().find(|path| is_root(path)).expect("the shell was traced");
        let root = root.extension().unwrap().to_str().unwrap().parse().unwrap();
        assert_only_the_broker_opens_aws_files(&read_trace(&directory, root));
    }
}

#[tokio::test]
async fn the_memory_of_the_proxy_holds_no_secret() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    for profile in THREE {
        let called = client.call("whoami", &format!(r#"{{"aws_profile":"{profile}"}}"#)).await;
        assert_eq!(text(&called), world.home.identity(profile));
    }
    let proxy = client.process().pid();
    let secrets: Vec<_> = THREE.iter().map(|name| world.home.key(name).secret.clone()).collect();
    let url = world.upstream.url();
    let mut needles: Vec<&[u8]> = vec![url.as_bytes(), CANARY.as_bytes()];
    needles.extend(secrets.iter().map(|secret| &secret.as_bytes()[CANARY.len()..]));
    let counts = memory::count(proxy, &needles).unwrap();
    assert!(counts[0] > 0, "the control: the endpoint is in the proxy's memory");
    assert_eq!(counts[1..], [0, 0, 0, 0], "canary, dev, staging, prod");

    let broker = processes::children(proxy);
    assert_eq!(broker.len(), 1, "one private broker");
    // Only root can read the memory of another user's process, or of one that isn't dumpable.
    match memory::count(broker[0], &needles) {
        Ok(counts) => assert!(counts[2..].iter().all(|count| *count > 0), "{counts:?}"),
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            assert_ne!(own_uid(), 0);
        }
    }
}

#[tokio::test]
async fn keys_of_the_environment_go_to_the_broker() {
    let world = World::new().await;
    let key = world.home.key("staging").clone();
    let mut command = world.proxy(&["--broker", "private"]);
    command.env_remove("AWS_CONFIG_FILE").env_remove("AWS_SHARED_CREDENTIALS_FILE");
    command.env("HOME", world.directory.path());
    command.env("AWS_ACCESS_KEY_ID", &key.access_key_id);
    command.env("AWS_SECRET_ACCESS_KEY", &key.secret);
    command.env("AWS_SESSION_TOKEN", key.session_token.as_deref().unwrap());
    command.env("UNRELATED", "kept");
    let mut client = StdioClient::start(command);
    client.initialize().await;
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), key.identity);

    let proxy = client.process().pid();
    let variables = memory::environment(proxy).unwrap();
    assert!(variables.contains(&"UNRELATED=kept".to_owned()), "{variables:?}");
    let shown = variables.join("\n");
    processes::assert_no_canary("the proxy's environment", &shown);
    assert!(!shown.contains("AWS_ACCESS_KEY_ID"), "{shown}");
    let needles: [&[u8]; 3] = [b"UNRELATED=kept", key.secret.as_bytes(), CANARY.as_bytes()];
    let counts = memory::count(proxy, &needles).unwrap();
    assert!(counts[0] > 0, "the control");
    assert_eq!(counts[1..], [0, 0]);
}

/// All output of both programs at the highest log level, in good and in bad calls. [`StdioClient`] and `Process` search
/// each line for a canary; here the output is long, and the files on disk are searched too.
#[tokio::test]
async fn no_output_holds_a_secret() {
    let world = World::new().await;
    let audit = world.directory.path().join("audit.jsonl");
    let rules = format!(
        "[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"dev\", \"staging\"]\nendpoints = [\"upstream\"]\n[audit]\nfile = {audit:?}",
        own_uid()
    );
    let config = world.write("broker.toml", &world.configuration(&rules));
    let arguments = ["serve", "--config", config.to_str().unwrap(), "--log-level", "debug"];
    let mut broker = processes::Process::start(world.broker_command(&arguments));
    broker.logged("listening").await;
    let socket = format!("unix:{}", world.socket().display());
    let mut command = world.proxy(&["--broker", &socket, "--log-level", "DEBUG", "--profile"]);
    command.args(THREE);
    let mut client = StdioClient::start(command);
    client.initialize().await;
    for profile in ["dev", "staging", "prod", "nobody"] {
        client.call("whoami", &format!(r#"{{"aws_profile":"{profile}"}}"#)).await;
    }
    world.upstream.refuse_signatures(3);
    client.call("whoami", r#"{"aws_profile":"staging"}"#).await;
    let (status, _, errors) = client.close().await;
    assert!(status.success());
    assert!(errors.lines().count() > 3, "the proxy logs at DEBUG: {errors}");
    broker.signal(rustix::process::Signal::TERM);
    let (status, errors) = broker.ended().await;
    assert!(status.success(), "{errors}");
    for (place, text) in
        [("the broker's log", errors), ("audit", fs::read_to_string(audit).unwrap())]
    {
        assert!(!text.is_empty(), "{place}");
        processes::assert_no_canary(place, &text);
    }
}
