//! A broker of our own: a child process over an inherited socket pair.
//!
//! It allows exactly our endpoint and profiles, to us alone: nobody else can reach the socket pair.
//! It ends when its socket does, which is when this process ends, however it ends.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::WaitOptions;

/// How to start it.
#[derive(Debug, Clone)]
pub struct Start {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// What a second start needs.
#[derive(Debug, Clone)]
pub struct Restart {
    /// The AWS settings that the environment held and that are no secret.
    pub environment: BTreeMap<String, OsString>,
    /// The variables by which this process was handed over to itself.
    pub forget: Vec<String>,
    /// Whether keys came from the environment: this process no longer has them.
    pub keys_are_gone: bool,
}

/// Why no broker could be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It isn't where it should be.
    #[error(
        "no sigward-broker beside {} nor in PATH; install both programs in one directory, or name \
         a running broker by --broker",
        beside.display()
    )]
    NotFound {
        /// Where it was looked for.
        beside: PathBuf,
    },
    /// The system said no.
    #[error("can't start {}: {source}", program.display())]
    Spawn {
        /// What was started.
        program: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// How long a broker may take to say what is wrong with its arguments.
const OBJECTION: Duration = Duration::from_secs(2);

/// The process and our end of its socket.
#[derive(Debug)]
pub struct PrivateBroker {
    start: Start,
    restart: Restart,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// A connection that nobody uses yet.
    ready: Option<UnixStream>,
    failure: Option<String>,
}

impl Start {
    /// `sigward-broker` from beside `executable`, else from the directories of `path`.
    pub fn find(
        executable: &std::path::Path,
        path: Option<&std::ffi::OsStr>,
        arguments: Vec<OsString>,
    ) -> Result<Self, StartError> {
        const NAME: &str = "sigward-broker";
        let beside = executable.with_file_name(NAME);
        let program = if beside.is_file() {
            beside
        } else {
            path.into_iter()
                .flat_map(std::env::split_paths)
                // A relative entry would let the working directory choose who gets the keys.
                .filter(|directory| directory.is_absolute())
                .map(|directory| directory.join(NAME))
                .find(|candidate| candidate.is_file())
                .ok_or_else(|| StartError::NotFound { beside: executable.to_owned() })?
        };
        Ok(Self { program, arguments })
    }
}

/// Starts a broker. `prepare` may change the child's environment.
pub fn start(
    start: &Start,
    prepare: impl FnOnce(&mut Command),
) -> Result<(UnixStream, Child), StartError> {
    let fail = |source| StartError::Spawn { program: start.program.clone(), source };
    let (ours, theirs) = UnixStream::pair().map_err(fail)?;
    let mut command = Command::new(&start.program);
    command
        .args(&start.arguments)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        // A Ctrl-C is for us: the sessions that we then close still need signatures.
        .process_group(0);
    prepare(&mut command);
    let child = command.spawn().map_err(fail)?;
    Ok((ours, child))
}

impl PrivateBroker {
    /// One that is started at the first question.
    #[must_use]
    pub fn new(start: Start, restart: Restart) -> Self {
        Self { start, restart, state: Mutex::default() }
    }

    /// One that this process started before it re-executed itself.
    #[must_use]
    pub fn inherited(
        start: Start,
        restart: Restart,
        socket: UnixStream,
        pid: Option<rustix::process::Pid>,
    ) -> Self {
        if let Some(pid) = pid {
            reap(move || {
                let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
            });
        }
        let state = State { ready: Some(socket), failure: None };
        Self { start, restart, state: Mutex::new(state) }
    }

    /// A connection: the one that is ready, else that of a new process.
    pub(super) fn connect(&self) -> io::Result<UnixStream> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = state.ready.take() {
            socket.set_nonblocking(true)?;
            return Ok(socket);
        }
        if self.restart.keys_are_gone {
            let failure = "it ended, and the AWS keys that it had came from the environment, which \
                           this process no longer holds; restart the MCP server in your client";
            state.failure = Some(failure.to_owned());
            return Err(io::Error::other(failure));
        }
        let started = start(&self.start, |command| {
            for name in &self.restart.forget {
                command.env_remove(name);
            }
            command.envs(&self.restart.environment);
        });
        match started {
            Ok((socket, mut child)) => {
                tracing::info!(pid = child.id(), "started a private broker");
                reap(move || {
                    let _ = child.wait();
                });
                state.failure = None;
                socket.set_nonblocking(true)?;
                Ok(socket)
            }
            Err(error) => {
                state.failure = Some(error.to_string());
                Err(io::Error::other(error))
            }
        }
    }

    /// Why there is no connection: the failure of the last start, or what a broker with the same
    /// arguments has to say against them.
    pub(super) async fn failure(&self) -> Option<String> {
        match self.known_failure() {
            Some(failure) => Some(failure),
            None => self.objection().await,
        }
    }

    /// The failure of the last start.
    pub(super) fn known_failure(&self) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failure.clone()
    }

    /// Starts a broker without a connection. One that accepts its arguments ends for want of it; one
    /// that doesn't says why, and that is what the person at the client needs to read: the standard
    /// error of both programs is in some log file.
    async fn objection(&self) -> Option<String> {
        let mut command = tokio::process::Command::new(&self.start.program);
        command
            .args(&self.start.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .envs(&self.restart.environment);
        for name in &self.restart.forget {
            command.env_remove(name);
        }
        let output = tokio::time::timeout(OBJECTION, command.output()).await.ok()?.ok()?;
        let words = String::from_utf8_lossy(&output.stderr);
        let line = words.lines().rfind(|line| !line.trim().is_empty())?;
        // That it has no connection is what it was asked to find.
        (!output.status.success() && !line.contains("standard input")).then_some(())?;
        Some(line.trim_start_matches("sigward-broker: ").to_owned())
    }
}

/// Waits for a broker's end on a thread of its own, so that none stays as a zombie. Asking now and
/// then whether it ended would miss one whose socket is closed already, but which isn't gone yet.
fn reap(wait: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name("reaper".to_owned()).stack_size(64 << 10);
    if let Err(error) = thread.spawn(wait) {
        tracing::debug!(%error, "nobody waits for the private broker's end");
    }
}
