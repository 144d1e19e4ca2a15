//! Before anything else: which broker, and a process without AWS variables.
//!
//! Order matters. The private broker is started while this process still has the variables that are
//! the broker's; then the process replaces itself by itself without them, and finds the broker's
//! socket where it left it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Pid;

use crate::broker::{PrivateBroker, Restart, Route, Start, StartError, start};
use crate::cli::BrokerChoice;
use crate::config::Config;
use crate::environment::{Environment, HANDOVER, Handover, KEPT_PREFIX};

/// Why there is no broker to ask.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The private broker can't be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// This process can't replace itself.
    #[error("can't continue without the AWS variables of the environment: {0}")]
    Reexecute(io::Error),
    /// The socket was lost on the way.
    #[error("the private broker's socket didn't survive the re-execution: {0}")]
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
        // A process that started a private broker doesn't look again.
        BrokerChoice::Any if handover.as_ref().is_some_and(|it| it.broker.is_some()) => None,
        BrokerChoice::Any => answering(environment),
    };
    let executable = std::env::current_exe().map_err(LaunchError::Reexecute)?;
    let must_leave = handover.is_none() && !environment.aws_names().is_empty();
    if let Some(path) = found {
        return if must_leave {
            Err(reexecute(&executable, environment, None))
        } else {
            Ok(Route::Unix(path))
        };
    }
    let arguments = arguments(config, log_level);
    let program = Start::find(&executable, environment.os("PATH"), arguments)?;
    let restart = Restart {
        environment: environment.settings(),
        forget: environment.handover_names(),
        keys_are_gone: handover.as_ref().is_some_and(|it| it.keys_are_gone),
    };
    match handover {
        None if must_leave => {
            let (socket, child) = start(&program, |_| {})?;
            let pid = i32::try_from(child.id()).ok();
            Err(reexecute(&executable, environment, Some((socket, pid))))
        }
        Some(Handover { broker: Some(pid), .. }) => {
            let socket = inherited_socket().map_err(LaunchError::Handover)?;
            let pid = Pid::from_raw(pid);
            Ok(Route::Private(PrivateBroker::inherited(program, restart, socket, pid)))
        }
        None | Some(_) => Ok(Route::Private(PrivateBroker::new(program, restart))),
    }
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
    broker: Option<(UnixStream, Option<i32>)>,
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
    for (name, value) in environment.settings() {
        command.env(format!("{KEPT_PREFIX}{name}"), value);
    }
    let handover = Handover {
        broker: broker.as_ref().and_then(|(_, pid)| *pid),
        keys_are_gone: environment.has_keys(),
    };
    command.env(HANDOVER, handover.to_value());
    let socket: Option<OwnedFd> = broker.map(|(socket, _)| socket.into());
    if let Some(socket) = &socket {
        // The convention of systemd's socket activation, with a first number of our own.
        if let Err(error) = rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty()) {
            return LaunchError::Reexecute(error.into());
        }
        command.env("LISTEN_PID", std::process::id().to_string());
        command.env("LISTEN_FDS", "1");
        command.env("LISTEN_FDS_FIRST_FD", socket.as_raw_fd().to_string());
    }
    LaunchError::Reexecute(command.exec())
}

/// The socket that [`reexecute`] left open.
fn inherited_socket() -> io::Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketType};
    let (family, kind) = (AddressFamily::UNIX.as_raw(), SocketType::STREAM.as_raw());
    listenfd::ListenFd::from_env()
        .take_custom(0, family.into(), kind.try_into().unwrap_or(1), "unix stream socket")?
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}
