//! The real programs as child processes: built once, started with a clean environment, killed on drop.

mod stdio;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;

pub use self::stdio::{StdioClient, call};
use crate::deadline;
use crate::keys::{CANARY, TOKEN_CANARY};

/// The paths of the two programs.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `sigward-broker`.
    pub broker: PathBuf,
    /// `sigward-proxy`.
    pub proxy: PathBuf,
}

/// The binaries, built in the profile and the target directory of the running program.
///
/// # Panics
/// If they don't build; the compiler's output is in the message.
pub fn binaries() -> &'static Binaries {
    static BUILT: OnceLock<Binaries> = OnceLock::new();
    BUILT.get_or_init(|| {
        let directory = profile_directory();
        let profile = match directory.file_name().and_then(OsStr::to_str) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        // All packages are named, so that dependencies are built with the features that they already have.
        let output = std::process::Command::new(env!("CARGO"))
            .current_dir(workspace())
            .args(["build", "--locked", "--profile", profile, "--target-dir"])
            .arg(target_directory())
            .args(["-p", "sigward-proto", "-p", "sigward-broker"])
            .args(["-p", "sigward-proxy", "-p", "sigward-tests"])
            .args(["--bin", "sigward-broker", "--bin", "sigward-proxy"])
            .output()
            .expect("cargo starts");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the binaries don't build:\n{log}");
        Binaries {
            broker: directory.join("sigward-broker"),
            proxy: directory.join("sigward-proxy"),
        }
    })
}

/// The root of the workspace.
///
/// # Panics
/// Never: the manifest of this crate has a parent.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// The `target/` of the running program.
///
/// # Panics
/// If the program isn't in a target directory.
#[must_use]
pub fn target_directory() -> PathBuf {
    profile_directory().parent().expect("a target directory").to_owned()
}

/// The directory of the running program, such as `target/debug`; the parent of `deps` for a program in it.
fn profile_directory() -> PathBuf {
    let program = std::env::current_exe().expect("the path of this program");
    let mut directory = program.parent().expect("a directory");
    if directory.ends_with("deps") {
        directory = directory.parent().expect("a directory");
    }
    directory.to_owned()
}

/// A command that inherits nothing from the environment of the tests.
#[must_use]
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command
}

/// A running child process with captured standard error. It is killed on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: u32,
    name: String,
    errors: Captured,
}

impl Process {
    /// Starts `command`, which decides about standard input and output.
    ///
    /// # Panics
    /// If it doesn't start.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        command.stderr(Stdio::piped()).kill_on_drop(true);
        let program = Path::new(command.as_std().get_program()).to_owned();
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let pid = child.id().expect("a process that was just started has an id");
        let errors = Captured::default();
        errors.keep(child.stderr.take().expect("piped"));
        Self { child, pid, name, errors }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its standard error so far.
    #[must_use]
    pub fn errors(&self) -> String {
        self.errors.text()
    }

    /// Waits until standard error has a line with `text`, and returns that line.
    pub async fn logged(&self, text: &str) -> String {
        let line = |all: &str| all.lines().find(|line| line.contains(text)).map(str::to_owned);
        let found = async {
            tokio::select! {
                found = self.errors.until(line) => Some(found),
                () = self.errors.until_closed() => line(&self.errors()),
            }
        };
        let explain = || format!("{} never wrote {text:?}; it wrote\n{}", self.name, self.errors());
        deadline::within(found, explain).await.unwrap_or_else(|| panic!("{}", explain()))
    }

    /// Waits until the process has ended; returns its status and its whole standard error.
    pub async fn ended(&mut self) -> (ExitStatus, String) {
        let name = self.name.clone();
        let errors = self.errors.clone();
        let waiting = self.child.wait();
        let explain = || format!("{name} doesn't end; it wrote\n{}", errors.text());
        let status = deadline::within(waiting, explain).await.expect("a child can be waited for");
        deadline::within(errors.until_closed(), explain).await;
        (status, errors.text())
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If the process is gone.
    pub fn signal(&self, signal: rustix::process::Signal) {
        self::signal(self.pid, signal);
    }

    /// Takes its standard input and output; works once.
    ///
    /// # Panics
    /// If they aren't pipes, or were taken.
    pub fn pipes(&mut self) -> (ChildStdin, ChildStdout) {
        let pipes = (self.child.stdin.take(), self.child.stdout.take());
        (pipes.0.expect("a piped input"), pipes.1.expect("a piped output"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_no_canary(&format!("standard error of {}", self.name), &self.errors());
        }
    }
}

/// Sends a signal to any process.
///
/// # Panics
/// If there is no such process.
pub fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("a process id"), signal)
        .expect("the process is there");
}

/// The processes whose parent is `pid`.
///
/// # Panics
/// If there is no `/proc`.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("Linux") {
        let path = entry.expect("an entry of /proc").path();
        let child = path.file_name().and_then(OsStr::to_str).and_then(|name| name.parse().ok());
        let Some(child) = child else { continue };
        // "PID (NAME) STATE PARENT …", where NAME can contain anything; processes may end meanwhile.
        let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        if parent == Some(pid.to_string().as_str()) {
            found.push(child);
        }
    }
    found
}

/// Fails if `text` contains a secret or a session token.
///
/// # Panics
/// If it does.
pub fn assert_no_canary(place: &str, text: &str) {
    for canary in [CANARY, TOKEN_CANARY] {
        assert!(!text.contains(canary), "{canary} stands in {place}:\n{text}");
    }
}

/// Text that a task collects from a pipe.
#[derive(Clone, Debug, Default)]
struct Captured(Arc<(Mutex<String>, watch::Sender<bool>)>);

impl Captured {
    fn keep(&self, mut pipe: impl AsyncRead + Unpin + Send + 'static) {
        let captured = self.clone();
        tokio::spawn(async move {
            let mut bytes = vec![0; 8192];
            while let Ok(count) = pipe.read(&mut bytes).await
                && count > 0
            {
                captured.lock().push_str(&String::from_utf8_lossy(&bytes[..count]));
                captured.0.1.send_modify(|_| {});
            }
            captured.0.1.send_replace(true);
        });
    }

    fn text(&self) -> String {
        self.lock().clone()
    }

    async fn until<T>(&self, found: impl Fn(&str) -> Option<T>) -> T {
        let mut changed = self.0.1.subscribe();
        loop {
            if let Some(found) = found(&self.lock()) {
                return found;
            }
            let _ = changed.changed().await;
        }
    }

    async fn until_closed(&self) {
        let _ = self.0.1.subscribe().wait_for(|closed| *closed).await;
    }

    fn lock(&self) -> MutexGuard<'_, String> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
