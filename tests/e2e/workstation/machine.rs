//! A machine for one test: this one with other users, homes and services, in a mount namespace that ends with the test.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sigward_tests::processes::{self, Process};
use tempfile::TempDir;
use tokio::process::Command;

use crate::service_manager::Manager;
use crate::setup::PASS_SOCKET;

/// The directories that the namespace has for itself.
const OWN: [&str; 6] = ["/etc", "/home", "/run", "/var/lib", "/var/log", "/usr/local/bin"];

/// A user of the machine.
#[derive(Clone, Copy)]
pub(super) struct User {
    pub(super) name: &'static str,
    pub(super) uid: u32,
}

impl User {
    pub(super) const ROOT: Self = Self { name: "root", uid: 0 };
}

/// The machine ends, with its mounts, on drop.
pub(super) struct Machine {
    directory: TempDir,
    holder: std::process::Child,
}

impl Machine {
    /// A machine with these users, and both programs in `/usr/local/bin`.
    pub(super) fn new(users: &[User]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path.trim_start_matches('/').replace('/', "-"));
        for own in OWN {
            fs::create_dir(at(own)).unwrap();
            fs::set_permissions(at(own), fs::Permissions::from_mode(0o755)).unwrap();
        }
        shell(&format!("cp -a /etc/. {}", at("/etc").display()));
        let programs = at("/usr/local/bin");
        for program in [&processes::binaries().broker, &processes::binaries().proxy] {
            shell(&format!("install -m 0755 {} {}", program.display(), programs.display()));
        }
        let binds: Vec<_> =
            OWN.iter().map(|own| format!("mount --bind {} {own}", at(own).display())).collect();
        // The script reports when the mounts are ready, and ends with its standard input.
        let script = format!("set -e; {}; echo ready; exec cat", binds.join("; "));
        let mut holder = std::process::Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare starts");
        let mut line = String::new();
        let printed = holder.stdout.as_mut().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(printed), &mut line).unwrap();
        assert_eq!(line, "ready\n", "the mounts of the machine failed");
        let machine = Self { directory, holder };
        for user in users {
            let home = format!("/home/{}", user.name);
            let arguments =
                ["--uid", &user.uid.to_string(), "--create-home", "--home-dir", &home, user.name];
            let (made, printed) = machine.run(User::ROOT, "useradd", &arguments);
            assert!(made, "{printed}");
        }
        machine
    }

    /// The path for this process of a path in the machine.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        let own = OWN.iter().filter(|own| path.starts_with(*own)).max_by_key(|own| own.len());
        let own = own.unwrap_or_else(|| panic!("{path} is no path of the machine's own"));
        let root = self.directory.path().join(own.trim_start_matches('/').replace('/', "-"));
        root.join(path[own.len()..].trim_start_matches('/'))
    }

    /// `program ARGUMENTS` as a user of the machine, without the environment of the tests.
    pub(super) fn command(&self, user: User, program: &str, arguments: &[&str]) -> Command {
        let (uid, gid) = (user.uid.to_string(), self.gid_of(user.name).to_string());
        let mut command = self.enter(&uid, &gid);
        let home = if user.uid == 0 { "/root".to_owned() } else { format!("/home/{}", user.name) };
        command.env("HOME", home).arg(program).args(arguments);
        command
    }

    fn enter(&self, uid: &str, gid: &str) -> Command {
        let mut command = processes::command(Path::new("/usr/bin/nsenter"));
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
        command.args(["--mount", "--target", &self.holder.id().to_string(), "--wd=/", "--"]);
        command.args(["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", "--"]);
        command
    }

    /// Runs such a command: whether it succeeded, and its output.
    pub(super) fn run(&self, user: User, program: &str, arguments: &[&str]) -> (bool, String) {
        let mut command = self.command(user, program, arguments).into_std();
        let output = command.stdin(Stdio::null()).output().unwrap();
        let printed = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&printed).into_owned())
    }

    /// Makes a user the owner of everything at `path`.
    pub(super) fn give(&self, path: &str, uid: u32) {
        shell(&format!("chown -R {uid}:{uid} {}", self.path(path).display()));
    }

    /// Copies a file by running `cp`: a file that is open for writing in this process can't be run.
    pub(super) fn copy(&self, from: &str, to: &str) {
        shell(&format!("cp -p {} {}", self.path(from).display(), self.path(to).display()));
    }

    pub(super) fn uid_of(&self, name: &str) -> u32 {
        self.account(name, 2)
    }

    fn gid_of(&self, name: &str) -> u32 {
        self.account(name, 3)
    }

    fn account(&self, name: &str, field: usize) -> u32 {
        let users = fs::read_to_string(self.path("/etc/passwd")).unwrap();
        let line = users.lines().find(|line| line.starts_with(&format!("{name}:")));
        let value = line.and_then(|line| line.split(':').nth(field)?.parse().ok());
        value.unwrap_or_else(|| panic!("there is no user {name}"))
    }

    /// The socket of a user's broker, as the socket unit creates it.
    pub(super) fn socket(&self, user: User) -> UnixListener {
        let path = self.path(&format!("/run/sigward/{}/broker.sock", user.uid));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let socket = UnixListener::bind(&path).unwrap();
        chown(&path, Some(user.uid), Some(0)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        socket
    }

    /// Starts Alice's service as its unit does: with its user, command, home and socket, and without privileges.
    /// Returns when it is ready.
    pub(super) async fn broker(
        &self,
        socket: &UnixListener,
        environment: &[(String, String)],
    ) -> Process {
        let unit =
            fs::read_to_string(self.path("/etc/systemd/system/sigward-broker@.service")).unwrap();
        let unit = unit.replace("%i", "61001");
        let setting = |key: &str| {
            let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_else(|| panic!("the unit has no {key}")).to_owned()
        };
        let user = setting("User");
        let logs = self.path(&format!("/var/log/{}", setting("LogsDirectory")));
        fs::create_dir_all(&logs).unwrap();
        chown(&logs, Some(self.uid_of(&user)), Some(self.gid_of(&user))).unwrap();
        let notify = self.path("/run/notify");
        fs::remove_file(&notify).ok();
        let manager = Manager::at(&notify);
        fs::set_permissions(&notify, fs::Permissions::from_mode(0o666)).unwrap();

        let (uid, gid) = (self.uid_of(&user).to_string(), self.gid_of(&user).to_string());
        let mut command = self.enter(&uid, &gid);
        command.envs(environment.iter().cloned());
        let home = setting("Environment");
        let (name, value) = home.split_once('=').unwrap();
        command.env(name, value).env("NOTIFY_SOCKET", "/run/notify");
        command.args(["sh", "-c", PASS_SOCKET, "sh"]);
        command.args(["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]);
        command.args(setting("ExecStart").split(' '));
        command.stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
        let broker = Process::start(command);
        manager.message_with("READY=1").await;
        broker
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}

fn shell(script: &str) {
    let status = std::process::Command::new("sh").args(["-c", script]).status().unwrap();
    assert!(status.success(), "{script}");
}
