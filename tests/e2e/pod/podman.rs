//! podman and buildah with a store of their own, on a machine that may itself be a container.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

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
"#;

/// podman can't use hybrid cgroups: in its own mount namespace, it doesn't see the second hierarchy.
const UNSHARED: &str = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";

/// A store of images and containers, which is removed on drop.
pub(super) struct Podman {
    directory: TempDir,
}

impl Podman {
    /// An empty store.
    pub(super) fn new() -> Self {
        assert_eq!(own_uid(), 0, "podman runs the pod as root: run the tests as root");
        for program in ["podman", "buildah", "crun", "catatonit"] {
            let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output();
            let found = found.expect("a shell").status.success();
            let all = "apt-get install --no-install-recommends podman buildah crun catatonit";
            assert!(found, "there is no {program} to run the pod: {all}");
        }
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("containers.conf"), CONTAINERS_CONF).expect("a file");
        Self { directory }
    }

    /// The directory of everything that belongs to this pod.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `program` with the options of this store.
    pub(super) fn command(&self, program: &str) -> Command {
        let path = |name| self.directory.path().join(name);
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", UNSHARED, "sh", program]);
        command.arg("--root").arg(path("store")).arg("--runroot").arg(path("run"));
        command.args(["--storage-driver", "vfs"]);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
        command.env("HOME", self.directory.path());
        command.env("CONTAINERS_CONF", path("containers.conf"));
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

    /// The process id of a container's first process, on this machine.
    pub(super) fn pid(&self, container: &str) -> u32 {
        self.inspect(container, "{{.State.Pid}}").parse().expect("a process id")
    }

    pub(super) fn exit_code(&self, container: &str) -> i32 {
        self.inspect(container, "{{.State.ExitCode}}").parse().expect("a code")
    }

    fn inspect(&self, container: &str, format: &str) -> String {
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
        let mut podman = self.command("podman");
        drop(podman.args(["pod", "rm", "--all", "--force", "--time", "0"]).output());
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
