//! podman and buildah with a store of their own, on a machine that may itself be a container.

use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;

use serde_json::Value;
use sigward_tests::{deadline, memory, processes};
use tempfile::TempDir;

use crate::setup::own_uid;

/// cgroups without systemd, and limits that an unprivileged machine can set.
const CONTAINERS_CONF: &str = r#"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "crun"
[network]
network_backend = "netavark"
"#;

/// podman can't use hybrid cgroups: here it doesn't see the second hierarchy. Its name server is one for all that share
/// `/run/containers`.
const NAMESPACES: &str = "umount /sys/fs/cgroup/unified 2>/dev/null
    mkdir -p /run/containers && mount -t tmpfs tmpfs /run/containers && ip link set lo up && echo up && exec cat";

/// A store of images and containers, which is removed on drop. Bridges and the mounts of network namespaces are in
/// namespaces of its own, so this machine's addresses and firewall stay as they are.
pub(super) struct Podman {
    directory: TempDir,
    /// The process whose namespaces all commands share.
    namespaces: Child,
}

impl Podman {
    /// An empty store.
    pub(super) fn new() -> Self {
        assert_eq!(own_uid(), 0, "podman runs the containers as root: run the tests as root");
        require_programs();
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name| directory.path().join(name);
        let networks = format!("network_config_dir = {:?}\n", path("networks"));
        fs::write(path("containers.conf"), CONTAINERS_CONF.to_owned() + &networks).expect("a file");
        let (store, run) = (path("store"), path("run"));
        let storage =
            format!("[storage]\ndriver = \"vfs\"\ngraphroot = {store:?}\nrunroot = {run:?}\n");
        fs::write(path("storage.conf"), storage).expect("a file");
        // It ends with this process, whose end of the pipe closes then.
        let mut namespaces = Command::new("unshare");
        namespaces.args(["--mount", "--net", "sh", "-c", NAMESPACES]);
        namespaces.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut namespaces = namespaces.spawn().expect("unshare runs");
        let mut up = [0; 3];
        let output = namespaces.stdout.as_mut().expect("a pipe");
        output.read_exact(&mut up).expect("root may make namespaces");
        Self { directory, namespaces }
    }

    /// The directory of everything that belongs to this store.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A process in the network of the bridges, which is the machine's for the containers.
    pub(super) fn machine(&self) -> u32 {
        self.namespaces.id()
    }

    /// `program`, which is podman or runs it, with this store. Its working directory is `/`.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let path = |name| self.directory.path().join(name);
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--net", "--target"]).arg(self.namespaces.id().to_string());
        command.arg(program);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
        command.env("HOME", self.directory.path());
        command.env("CONTAINERS_CONF", path("containers.conf"));
        command.env("CONTAINERS_STORAGE_CONF", path("storage.conf"));
        // Timers for health checks need systemd; the tests run the checks themselves.
        command.env("DISABLE_HC_SYSTEMD", "true");
        command
    }

    /// Runs podman, which must succeed. Returns its output.
    pub(super) fn run(&self, arguments: &[&str]) -> String {
        succeed(self.command("podman").args(arguments))
    }

    /// Runs a program in a container. Its standard input is a pipe: crun 1.8 changes the owner of that file to the
    /// container's user, and without `--interactive` it is `/dev/null` of the whole machine.
    pub(super) fn exec(&self, container: &str, command: &[&str]) -> Output {
        let mut podman = self.command("podman");
        podman.args(["exec", "--interactive", container]).args(command).stdin(Stdio::piped());
        podman.output().expect("podman runs")
    }

    /// Waits until the health check of a container, run in it, succeeds.
    pub(super) async fn healthy(&self, container: &str, check: &[&str]) {
        let healthy = async {
            while !self.exec(container, check).status.success() {
                tokio::task::yield_now().await;
            }
        };
        deadline::within_long(healthy, || self.logs(container)).await;
    }

    /// The report of the program `probe` in a container, which must succeed.
    pub(super) fn probe(&self, container: &str, arguments: &[&str]) -> Value {
        let output = self.exec(container, &[&["/probe/probe"], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("a report")
    }

    /// How often a text is in the memory of a container's first process.
    pub(super) fn in_memory(&self, container: &str, text: &str) -> usize {
        memory::count(self.pid(container), &[text.as_bytes()]).expect("root may read it")[0]
    }

    /// The process id of a container's first process, on this machine.
    pub(super) fn pid(&self, container: &str) -> u32 {
        self.inspect(container, "{{.State.Pid}}").parse().expect("a process id")
    }

    pub(super) fn exit_code(&self, container: &str) -> i32 {
        self.inspect(container, "{{.State.ExitCode}}").parse().expect("a code")
    }

    /// A property of a container, by a Go template.
    pub(super) fn inspect(&self, container: &str, format: &str) -> String {
        self.run(&["inspect", "--type", "container", "--format", format, container])
            .trim()
            .to_owned()
    }

    /// The logs of a container.
    pub(super) fn logs(&self, container: &str) -> String {
        let output = self.command("podman").args(["logs", container]).output();
        let output = output.expect("podman runs");
        [output.stdout, output.stderr].map(|it| String::from_utf8_lossy(&it).into_owned()).concat()
    }

    /// The logs of several containers, each with its name.
    pub(super) fn all_logs(&self, containers: &[&str]) -> String {
        let logs: Vec<_> =
            containers.iter().map(|name| format!("{name}:\n{}", self.logs(name))).collect();
        logs.join("\n")
    }

    /// Asserts that the containers have logs without a test secret, and that the machine's `/dev/null` is root's.
    pub(super) fn assert_clean(&self, containers: &[&str]) {
        let logs = self.all_logs(containers);
        processes::assert_no_canary("the logs of the containers", &logs);
        assert!(logs.contains("listening"), "the control: there are logs: {logs}");
        let null = fs::metadata("/dev/null").unwrap();
        assert_eq!((null.uid(), null.gid()), (0, 0), "the test changed this machine");
    }

    /// Sends SIGTERM to one container after the other, and SIGKILL to those that still run five seconds later.
    pub(super) fn stop(&self, containers: &[&str]) -> JoinHandle<()> {
        let mut commands = Vec::new();
        for container in containers {
            let mut podman = self.command("podman");
            podman.args(["stop", "--time", "5", container]);
            commands.push(podman);
        }
        std::thread::spawn(move || {
            for mut command in commands {
                succeed(&mut command);
            }
        })
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        for containers in [&["pod", "rm"][..], &["rm"]] {
            let mut podman = self.command("podman");
            podman.args(containers).args(["--all", "--force", "--time", "0"]);
            drop(podman.output());
        }
        drop(self.namespaces.kill().and_then(|()| self.namespaces.wait()));
    }
}

/// Fails, with the packages to install, if a program is missing.
fn require_programs() {
    const PACKAGES: &str = "podman buildah crun catatonit netavark aardvark-dns iptables iproute2";
    let networks = ["/usr/lib/podman/netavark", "/usr/lib/podman/aardvark-dns", "iptables", "ip"];
    for program in ["podman", "buildah", "crun", "catatonit"].into_iter().chain(networks) {
        let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output();
        let found = found.expect("a shell").status.success();
        assert!(found, "no {program}: apt-get install --no-install-recommends {PACKAGES}");
    }
}

/// Runs a command that must succeed. Returns its output.
pub(super) fn succeed(command: &mut Command) -> String {
    let shown = format!("{command:?}");
    let output = command.output().unwrap_or_else(|error| panic!("{shown}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{shown}\n{out}{errors}");
    out
}
