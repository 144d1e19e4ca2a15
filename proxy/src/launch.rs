//! Before anything else: which broker, and a process without AWS variables.
//!
//! Order matters. The private broker is started while this process still has the variables that are
//! the broker's; then the process replaces itself by itself without them, and finds the broker's
//! connection and its standard error where it left them.
//!
//! A broker that can't be started is no reason to end: the client is told why when it asks.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::io::FdFlags;

use crate::broker::{PrivateBroker, Restart, Route, Start, StartError, Started};
use crate::cli::BrokerChoice;
use crate::config::Config;
use crate::environment::{Environment, HANDOVER, Handover, KEPT_PREFIX, Keys};

/// Why there is nothing to run.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// This process can't replace itself.
    #[error("can't continue without the AWS variables of the environment: {0}")]
    Reexecute(io::Error),
    /// A socket was lost on the way.
    #[error("the private broker's sockets didn't survive the re-execution: {0}")]
    Handover(io::Error),
}

/// The way to the broker. Where the environment holds AWS variables this doesn't return: the
/// process starts over without them, and comes here again.
pub fn route(
    config: &Config,
    choice: &BrokerChoice,
    log_level: &str,
    environment: &Environment,
) -> Result<Route, LaunchError> {
    let handover = environment.handover();
    let found = match choice {
        BrokerChoice::Unix(path) => Some(path.clone()),
        BrokerChoice::Private => None,
        // A process that wanted a private broker doesn't look again.
        BrokerChoice::Any if handover.is_some_and(Handover::wanted_broker) => None,
        BrokerChoice::Any => answering(environment),
    };
    let executable = std::env::current_exe().map_err(LaunchError::Reexecute)?;
    // Whatever else the environment says: with keys in it, this process must not go on.
    let must_leave = !environment.aws_names().is_empty();
    if let Some(path) = found {
        return if must_leave {
            Err(reexecute(&executable, environment, None))
        } else {
            Ok(Route::Unix(path))
        };
    }
    let start = Start {
        executable: executable.clone(),
        path: environment.os("PATH").map(OsString::from),
        arguments: arguments(config, log_level),
    };
    let restart = Restart {
        environment: environment.settings(),
        forget: environment.handover_names(),
        keys_are_gone: environment.keys() != Keys::None,
    };
    if must_leave {
        let started = start.start(|command| {
            for name in &restart.forget {
                command.env_remove(name);
            }
        });
        return Err(reexecute(&executable, environment, Some(started)));
    }
    let broker = match handover {
        Some(Handover { broker: Some(pid), .. }) => {
            let mut inherited = listenfd::ListenFd::from_env();
            let mut socket = |at| inherited_socket(&mut inherited, at);
            let (socket, errors) = (
                socket(0).map_err(LaunchError::Handover)?,
                socket(1).map_err(LaunchError::Handover)?,
            );
            PrivateBroker::inherited(start, restart, Started { socket, errors, pid: Some(*pid) })
        }
        Some(Handover { failure: Some(why), .. }) => PrivateBroker::failed(start, restart, why),
        Some(_) if restart.keys_are_gone => {
            let why = "the broker that listened on this machine is gone";
            PrivateBroker::failed(start, restart, why)
        }
        None | Some(_) => PrivateBroker::new(start, restart),
    };
    Ok(Route::Private(Arc::new(broker)))
}

/// What a private broker is told: our endpoint and profiles, nothing else.
fn arguments(config: &Config, log_level: &str) -> Vec<OsString> {
    // An endpoint is a place; `?qualifier=…` of an AgentCore runtime belongs to each request.
    let mut endpoint = config.endpoint.clone();
    endpoint.set_query(None);
    let audited = matches!(log_level, "DEBUG" | "INFO");
    let mut arguments: Vec<OsString> = ["serve", "--connection-on-stdin", "--endpoint"]
        .map(OsString::from)
        .into_iter()
        .chain([endpoint.as_str().into(), "--log-level".into(), log_level.into()])
        .chain(["--audit".into(), if audited { "stderr" } else { "none" }.into()])
        .collect();
    let settings = [("--service", &config.service), ("--region", &config.region)];
    for (option, value) in settings {
        if let Some(value) = value {
            arguments.push(format!("{option}={value}").into());
        }
    }
    for profile in config.named_profiles() {
        arguments.push(format!("--profile={profile}").into());
    }
    arguments
}

/// The first of the usual sockets behind which somebody listens.
fn answering(environment: &Environment) -> Option<PathBuf> {
    let runtime = environment.path("XDG_RUNTIME_DIR").filter(|path| path.is_absolute());
    let own = runtime.map(|directory| directory.join("sigward/broker.sock"));
    let sockets = own.into_iter().chain([PathBuf::from("/run/sigward/broker.sock")]);
    sockets.into_iter().find(|path| UnixStream::connect(path).is_ok())
}

/// Replaces this process by itself without AWS variables. Returns only if that fails.
fn reexecute(
    executable: &Path,
    environment: &Environment,
    broker: Option<Result<Started, StartError>>,
) -> LaunchError {
    let mut arguments = std::env::args_os();
    let mut command = Command::new(executable);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments);
    for name in environment.aws_names() {
        command.env_remove(name);
    }
    // Of another process.
    for name in environment.handover_names() {
        command.env_remove(name);
    }
    for (name, value) in environment.settings() {
        command.env(format!("{KEPT_PREFIX}{name}"), value);
    }
    let (started, failure) = match broker {
        Some(Ok(started)) => (Some(started), None),
        Some(Err(error)) => (None, Some(error.to_string())),
        None => (None, None),
    };
    let pid = started.as_ref().and_then(|started| started.pid);
    let handover = Handover { broker: pid, keys: environment.keys(), failure };
    command.env(HANDOVER, handover.to_value(std::process::id()));
    let sockets = match started.map(|started| adjacent(started.socket, started.errors)) {
        Some(Ok(sockets)) => Some(sockets),
        Some(Err(error)) => return LaunchError::Reexecute(error),
        None => None,
    };
    if let Some([first, _]) = &sockets {
        // The convention of systemd's socket activation, with a first number of our own.
        command.env("LISTEN_PID", std::process::id().to_string());
        command.env("LISTEN_FDS", "2");
        command.env("LISTEN_FDS_FIRST_FD", first.as_raw_fd().to_string());
    }
    LaunchError::Reexecute(command.exec())
}

/// Both under numbers that follow each other, and left open for the process that replaces this one.
fn adjacent(first: UnixStream, second: UnixStream) -> io::Result<[OwnedFd; 2]> {
    let mut from = 3;
    loop {
        let one = rustix::io::fcntl_dupfd_cloexec(&first, from)?;
        let other = rustix::io::fcntl_dupfd_cloexec(&second, one.as_raw_fd() + 1)?;
        if other.as_raw_fd() == one.as_raw_fd() + 1 {
            for socket in [&one, &other] {
                rustix::io::fcntl_setfd(socket, FdFlags::empty())?;
            }
            return Ok([one, other]);
        }
        from = other.as_raw_fd();
    }
}

/// A socket that [`reexecute`] left open.
fn inherited_socket(inherited: &mut listenfd::ListenFd, at: usize) -> io::Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketType};
    let (family, kind) = (AddressFamily::UNIX.as_raw(), SocketType::STREAM.as_raw());
    inherited
        .take_custom(at, family.into(), kind.try_into().unwrap_or(1), "unix stream socket")?
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}
