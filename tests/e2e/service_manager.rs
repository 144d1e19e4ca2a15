//! The shipped units, as systemd checks them; and what a broker sends to the service manager that runs it
//! (sd_notify(3)).

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use sigward_tests::deadline;
use sigward_tests::processes::{self, Process};

use crate::setup::World;

/// The directory of the units.
fn shipped() -> PathBuf {
    processes::workspace().join("broker/deploy/systemd")
}

/// Runs `systemd-analyze ARGUMENTS`: whether it succeeds, and its output.
fn analyze(arguments: &[&str]) -> (bool, String) {
    let output =
        Command::new("systemd-analyze").env("SYSTEMD_COLORS", "0").args(arguments).output();
    let output = output.expect("systemd-analyze starts: install the Debian package systemd");
    let shown = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&shown).into_owned())
}

/// Copies the units, with the path of the program under test.
fn copy_units(directory: &Path) {
    let program = processes::binaries().broker.display().to_string();
    for entry in fs::read_dir(shipped()).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap().replace("/usr/bin/sigward-broker", &program);
        fs::write(directory.join(path.file_name().unwrap()), text).unwrap();
    }
}

#[test]
fn systemd_understands_the_units() {
    let directory = tempfile::tempdir().unwrap();
    copy_units(directory.path());
    let at = |name: &str| directory.path().join(name).display().to_string();
    for unit in ["sigward-broker", "sigward-broker@1000"] {
        for kind in ["service", "socket"] {
            let file = at(&format!("{unit}.{kind}"));
            let template = at(&format!("sigward-broker@.{kind}"));
            if unit.ends_with("1000") {
                fs::copy(template, &file).unwrap();
            }
            let (passed, shown) = analyze(&["verify", "--man=no", "--recursive-errors=no", &file]);
            assert!(passed && !shown.contains("sigward"), "{file}: {shown}");
        }
    }
    // The control: an error is found.
    let broken = at("broken.service");
    let text = fs::read_to_string(at("sigward-broker.service")).unwrap();
    fs::write(&broken, text.replace("ProtectHome=yes", "ProtectHome=perhaps")).unwrap();
    let (_, shown) = analyze(&["verify", "--man=no", "--recursive-errors=no", &broken]);
    assert!(shown.contains("protect home"), "{shown}");
}

/// The exposure level of `systemd-analyze security`: 0 is best, 10 is worst.
fn exposure(unit: &str) -> f64 {
    let (_, shown) = analyze(&["security", "--offline=true", unit]);
    let line = shown.lines().find(|line| line.contains("Overall exposure level"));
    let line = line.unwrap_or_else(|| panic!("{unit}: {shown}"));
    let number = line.split(": ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("{line}"))
}

#[test]
fn the_units_are_hardened() {
    let directory = tempfile::tempdir().unwrap();
    copy_units(directory.path());
    let offline = fs::read_to_string(directory.path().join("offline.conf")).unwrap();
    for name in ["sigward-broker.service", "sigward-broker@.service"] {
        let file = directory.path().join(name);
        let open = exposure(file.to_str().unwrap());
        assert!(open <= 1.2, "{name}: {open}");
        // The part of the drop-in, appended where systemd-analyze reads it.
        let text = fs::read_to_string(&file).unwrap();
        let closed = directory.path().join(format!("closed-{name}"));
        fs::write(&closed, format!("{text}\n{offline}")).unwrap();
        let closed = exposure(closed.to_str().unwrap());
        assert!(closed < open, "{name} without a network: {closed}, with: {open}");
        // The control: weaker hardening raises the level.
        let bare = directory.path().join(format!("bare-{name}"));
        fs::write(&bare, text.replace("ProtectSystem=strict", "ProtectSystem=no")).unwrap();
        assert!(exposure(bare.to_str().unwrap()) > 1.2);
    }
}

#[test]
fn the_property_list_of_launchd_is_valid() {
    let program = "import plistlib, sys; print(plistlib.load(open(sys.argv[1], 'rb'))['ProgramArguments'][1])";
    let file = processes::workspace().join("broker/deploy/launchd/dev.sigward.broker.plist");
    let output = Command::new("python3").args(["-c", program]).arg(file).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "serve\n", "{output:?}");
}

/// A service manager's notification socket, read message by message.
pub(crate) struct Manager {
    socket: tokio::net::UnixDatagram,
    path: PathBuf,
}

impl Manager {
    /// Binds the socket at `path`.
    pub(crate) fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::UnixDatagram::from_std(socket).unwrap();
        Self { socket, path: path.to_owned() }
    }

    /// Waits for the next message with the line `what`.
    pub(crate) async fn message_with(&self, what: &str) -> String {
        let message = async {
            loop {
                let mut bytes = vec![0; 4096];
                let length = self.socket.recv(&mut bytes).await.unwrap();
                let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                if text.lines().any(|line| line == what) {
                    return text;
                }
                assert!(text.starts_with("WATCHDOG=1"), "{text:?} before {what}");
            }
        };
        deadline::within(message, || format!("{what} never came")).await
    }
}

#[tokio::test]
async fn the_service_manager_is_notified() {
    let world = World::new().await;
    let manager = Manager::at(&world.directory.path().join("notify"));
    let config = world.write("broker.toml", &world.configuration(""));
    let mut command = world.broker_command(&["serve", "--config", config.to_str().unwrap()]);
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "100000");
    let mut broker = Process::start(command);
    let ready = manager.message_with("READY=1").await;
    assert!(ready.contains("STATUS=3 profiles, 1 endpoints"), "{ready}");
    // Now it must listen.
    crate::setup::connect(&world.socket()).await;

    // The operator reloads a configuration with an error.
    world.write("broker.toml", "nonsense");
    broker.signal(Signal::HUP);
    let reloading = manager.message_with("RELOADING=1").await;
    assert!(reloading.lines().any(|line| line.starts_with("MONOTONIC_USEC=")), "{reloading}");
    let ready = manager.message_with("READY=1").await;
    assert!(ready.contains("STATUS=the configuration has errors"), "{ready}");

    // Signs of life must come while it runs.
    for _ in 0..3 {
        manager.message_with("WATCHDOG=1").await;
    }
    broker.signal(Signal::TERM);
    manager.message_with("STOPPING=1").await;
    broker.ended().await;
}

/// The broker must serve without the service manager's socket.
#[tokio::test]
async fn a_broker_without_a_service_manager_serves() {
    let world = World::new().await;
    let config = world.write("broker.toml", &world.configuration(""));
    let mut command = world.broker_command(&["serve", "--config", config.to_str().unwrap()]);
    command.env("NOTIFY_SOCKET", world.directory.path().join("nobody"));
    let broker = Process::start(command);
    broker.logged("the service manager can't be notified").await;
    crate::setup::connect(&world.socket()).await;
}

/// The broker gets its socket from systemd's own program, which starts the broker for the first caller.
#[tokio::test]
async fn socket_activation_starts_the_broker_for_the_first_caller() {
    let world = World::new().await;
    let config = world.configuration("").replace("mode = \"0660\"\n", "");
    let config = world.write("broker.toml", &config);
    let program = Path::new("/usr/bin/systemd-socket-activate");
    let mut command = processes::command(program);
    command.envs(world.home.environment()).arg("--listen").arg(world.socket());
    command.arg(&processes::binaries().broker).args(["serve", "--config"]).arg(config);
    let activator = Process::start(command);
    activator.logged("Listening on").await;
    let mut client = world.client_of(&world.socket(), &["dev"]).await;
    let called = client.call("whoami", "{}").await;
    assert_eq!(crate::setup::text(&called), world.home.identity("dev"));
}
