//! One process of a private broker: finds the program, starts it, and reports how it ended.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, WaitStatus};
use tokio::sync::watch;

use super::output::{Closed, ErrorOutput};

/// How to start a broker.
#[derive(Debug, Clone)]
pub struct Start {
    /// The proxy's own executable: the broker's is looked for in the same directory first.
    pub executable: PathBuf,
    /// `PATH`, where it is looked for next.
    pub path: Option<OsString>,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// Why no broker could be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program wasn't found.
    #[error(
        "no sigward-broker beside {} nor in PATH; install both programs in one directory, or name \
         a running broker by --broker",
        beside.display()
    )]
    NotFound {
        /// The proxy's executable, in whose directory the broker was looked for.
        beside: PathBuf,
    },
    /// The system couldn't run it.
    #[error("can't run {}: {source}{}", program.display(), hint(source))]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; make it executable for this user (chmod +x)",
        _ => "",
    }
}

/// A broker that was started: this side of its sockets, and its process.
#[derive(Debug)]
pub struct Started {
    /// The connection.
    pub socket: UnixStream,
    /// Its standard error, which isn't read yet.
    pub errors: UnixStream,
    /// Its process id.
    pub pid: Option<i32>,
}

/// A process that is monitored.
#[derive(Debug)]
pub(super) struct Process {
    served: AtomicBool,
    output: Arc<ErrorOutput>,
    end: watch::Receiver<Option<End>>,
    closed: std::sync::Mutex<Closed>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Code(i32),
    Signal(i32),
    Unknown,
}

impl Start {
    /// `sigward-broker` from the directory of the proxy's executable, or from `PATH`.
    pub(super) fn program(&self) -> Result<PathBuf, StartError> {
        const NAME: &str = "sigward-broker";
        let beside = self.executable.with_file_name(NAME);
        if beside.is_file() {
            return Ok(beside);
        }
        let directories = self.path.iter().flat_map(std::env::split_paths);
        directories
            // The attack: with a relative entry, the working directory would decide which program
            // gets the keys.
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join(NAME))
            .find(|candidate| candidate.is_file())
            .ok_or_else(|| StartError::NotFound { beside: self.executable.clone() })
    }

    /// Starts a broker. `prepare` may change the child's environment.
    ///
    /// # Errors
    /// It isn't found, or can't be run.
    pub fn start(&self, prepare: impl FnOnce(&mut Command)) -> Result<Started, StartError> {
        let program = self.program()?;
        let fail = |source| StartError::Spawn { program: program.clone(), source };
        let (socket, theirs) = UnixStream::pair().map_err(fail)?;
        // A socket pair, because that can be passed to a process that replaces this one.
        let (errors, their_errors) = UnixStream::pair().map_err(fail)?;
        let mut command = Command::new(&program);
        command
            .args(&self.arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::from(OwnedFd::from(their_errors)))
            // Ctrl-C must reach only the proxy: the sessions that it then closes need signatures.
            .process_group(0);
        prepare(&mut command);
        let child = command.spawn().map_err(fail)?;
        Ok(Started { socket, errors, pid: i32::try_from(child.id()).ok() })
    }
}

impl Start {
    /// Runs the program to its end, and returns its output. `prepare` may change the child's environment.
    ///
    /// # Errors
    /// It isn't found, or can't be run.
    pub fn output(&self, prepare: impl FnOnce(&mut Command)) -> Result<Output, StartError> {
        let program = self.program()?;
        let mut command = Command::new(&program);
        command.args(&self.arguments).stdin(Stdio::null());
        prepare(&mut command);
        command.output().map_err(|source| StartError::Spawn { program, source })
    }
}

impl Process {
    /// Forwards its standard error and waits for its exit, on two threads, so that no zombie remains and the broker's
    /// output never blocks.
    pub(super) fn watch(errors: UnixStream, pid: Option<i32>) -> Self {
        let output = Arc::new(ErrorOutput::new());
        let (closing, closed) = Closed::new();
        let forwarded = Arc::clone(&output);
        thread("broker-errors", move || {
            forwarded.forward(errors);
            drop(closing);
        });
        let (ended, end) = watch::channel(None);
        thread("broker-end", move || {
            let status = pid.and_then(Pid::from_raw).and_then(|pid| {
                rustix::process::waitpid(Some(pid), WaitOptions::empty()).ok().flatten()
            });
            ended.send_replace(Some(status.map_or(End::Unknown, |(_, status)| End::of(status))));
        });
        Self { served: AtomicBool::new(false), output, end, closed: closed.into() }
    }

    /// Records that it has answered.
    pub(super) fn has_answered(&self) {
        self.served.store(true, Ordering::Relaxed);
    }

    /// Whether it has ever answered.
    pub(super) fn served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    /// Waits for its exit. `None` if it doesn't exit within `limit`.
    pub(super) async fn ended(&self, limit: Duration) -> Option<End> {
        let mut end = self.end.clone();
        let ended = tokio::time::timeout(limit, end.wait_for(Option::is_some)).await;
        match ended {
            Ok(Ok(end)) => *end,
            Ok(Err(_)) => Some(End::Unknown),
            Err(_) => None,
        }
    }

    /// Its last message, after its exit. A child process may keep its standard error open, so that `limit` bounds the
    /// wait.
    pub(super) async fn last_message(&self, limit: Duration) -> String {
        let _ = tokio::time::timeout(limit, self.output.closed()).await;
        self.output.last_message()
    }

    /// Blocks until all its output has been forwarded, but no longer than `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        self.closed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).wait(limit);
    }
}

impl End {
    fn of(status: WaitStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "it ended with exit status {code}"),
            Self::Signal(signal) => {
                // The signal numbers that are the same on Linux and macOS.
                let name = match signal {
                    4 => " (SIGILL)",
                    6 => " (SIGABRT)",
                    8 => " (SIGFPE)",
                    9 => " (SIGKILL; the machine may be out of memory)",
                    11 => " (SIGSEGV)",
                    15 => " (SIGTERM)",
                    _ => "",
                };
                write!(f, "it was ended by signal {signal}{name}")
            }
            Self::Unknown => f.write_str("it ended"),
        }
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(128 << 10);
    if let Err(error) = thread.spawn(work) {
        tracing::warn!(%error, "the exit of the private broker will be noticed late");
    }
}
