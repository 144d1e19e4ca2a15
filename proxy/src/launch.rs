//! The first steps of the process: choose the broker, and continue without AWS variables.
//!
//! The order matters. The private broker is started while this process still has the variables that
//! the broker needs. Then the process re-executes itself without them, and takes over the broker's
//! connection and standard error.
//!
//! The proxy doesn't exit if its broker can't be started: the client gets the reason as an error.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::io::FdFlags;
use sigward_proto::sockets;

use crate::broker::{PrivateBroker, Restart, Route, Start, StartError, Started};
use crate::cli::BrokerChoice;
use crate::config::Config;
use crate::environment::{Environment, HANDOVER, Handover, KEPT_PREFIX, Keys};

/// Why the proxy can't run.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// This process can't replace itself.
    #[error("can't continue without the AWS variables of the environment: {0}")]
    Reexecute(io::Error),
    /// A socket was lost by the re-execution.
    #[error("the private broker's sockets didn't survive the re-execution: {0}")]
    Handover(io::Error),
}

/// The route to the broker. If the environment has AWS variables, this doesn't return: the process
/// re-executes itself without them, and calls this again.
pub fn route(
    config: &Config,
    choice: &BrokerChoice,
    log_level: &str,
    environment: &Environment,
) -> Result<Route, LaunchError> {
    let handover = environment.handover();
    let found = running(choice, environment);
    let executable = std::env::current_exe().map_err(LaunchError::Reexecute)?;
    // In any case, a process with keys in its environment must not continue.
    let must_leave = !environment.aws_names().is_empty();
    if let Some(route) = found {
        return if must_leave { Err(reexecute(&executable, environment, None)) } else { Ok(route) };
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
            let why = "the broker that was listening on this machine is gone";
            PrivateBroker::failed(start, restart, why)
        }
        None | Some(_) => PrivateBroker::new(start, restart),
    };
    Ok(Route::Private(Arc::new(broker)))
}

/// The route to a running broker; `None` if a private one is needed.
#[must_use]
pub fn running(choice: &BrokerChoice, environment: &Environment) -> Option<Route> {
    match choice {
        BrokerChoice::Unix(path) => Some(Route::Unix(path.clone())),
        BrokerChoice::Tls(broker) => Some(Route::Tls(broker.clone())),
        BrokerChoice::Private => None,
        // A process that wanted a private broker doesn't search again.
        BrokerChoice::Any if environment.handover().is_some_and(Handover::wanted_broker) => None,
        BrokerChoice::Any => listening_socket(environment).map(Route::Unix),
    }
}

/// Re-executes this process without AWS variables, if the environment has any, for a command that needs none of them.
///
/// # Errors
/// The re-execution failed. If it succeeds, this doesn't return.
pub fn leave_aws_variables(environment: &Environment) -> Result<(), LaunchError> {
    if environment.aws_names().is_empty() {
        return Ok(());
    }
    let executable = std::env::current_exe().map_err(LaunchError::Reexecute)?;
    Err(reexecute(&executable, environment, None))
}

/// The names of the profiles in the AWS files, as listed by the broker's program.
///
/// # Errors
/// The program's error message, or why it can't be run.
pub fn profile_names(environment: &Environment) -> Result<Vec<String>, String> {
    let executable = std::env::current_exe().map_err(|error| error.to_string())?;
    let path = environment.os("PATH").map(OsString::from);
    let start = Start { executable, path, arguments: vec!["profiles".into()] };
    let output = start.output(|command| {
        for name in environment.handover_names() {
            command.env_remove(name);
        }
        command.envs(environment.settings());
    });
    let output = output.map_err(|error| error.to_string())?;
    let words = |text: &[u8]| String::from_utf8_lossy(text).trim().to_owned();
    if !output.status.success() {
        return Err(format!(
            "the names of the profiles can't be listed: {}",
            words(&output.stderr)
        ));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|_| "sigward-broker doesn't list profiles; update it".to_owned())
}

/// The arguments of a private broker: only this proxy's endpoint and profiles.
fn arguments(config: &Config, log_level: &str) -> Vec<OsString> {
    // The endpoint without its query: `?qualifier=…` of an AgentCore runtime belongs to each
    // request.
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
    if config.asks_identity {
        arguments.push("--identity".into());
    }
    for profile in config.named_profiles() {
        arguments.push(format!("--profile={profile}").into());
    }
    arguments
}

/// The first default socket with a listening broker.
fn listening_socket(environment: &Environment) -> Option<PathBuf> {
    let runtime = environment.path("XDG_RUNTIME_DIR").filter(|path| path.is_absolute());
    let kept = sockets::kept_for(rustix::process::getuid().as_raw());
    let own = runtime.map(|directory| sockets::of_user(&directory));
    let mut usual = own.into_iter().chain([kept, sockets::OF_THE_MACHINE.into()]);
    usual.find(|path| UnixStream::connect(path).is_ok())
}

/// Replaces this process with itself, without AWS variables. Returns only if that fails.
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
    // State that another process left.
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
        // The convention of systemd's socket activation, with an explicit first number.
        command.env("LISTEN_PID", std::process::id().to_string());
        command.env("LISTEN_FDS", "2");
        command.env("LISTEN_FDS_FIRST_FD", first.as_raw_fd().to_string());
    }
    LaunchError::Reexecute(command.exec())
}

/// Duplicates both to adjacent descriptors that stay open for the process that replaces this one.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn broker_arguments(arguments: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
        let url = "https://aws-mcp.us-east-1.api.aws/mcp?x=1";
        let program = ["sigward-proxy", url];
        let arguments = program.iter().chain(arguments).map(OsString::from);
        let parsed = crate::cli::parse(arguments, &Environment::with(variables)).unwrap();
        let arguments = super::arguments(&parsed.config, "ERROR");
        arguments.into_iter().map(|argument| argument.into_string().unwrap()).collect()
    }

    #[test]
    fn a_private_broker_gets_each_name_unchanged() {
        let names = ["my profile", "-x", "it's", "Zürich", "--endpoint=https://evil.example/"];
        let given = names.map(|name| format!("--profile={name}"));
        // One argument for both: a parser that gets `--profile=a b` reads one name.
        let (first, rest) = names.split_first().unwrap();
        let list: Vec<String> = rest.iter().map(|name| format!("\"{name}\"")).collect();
        let list = format!("\"{first}\" {}", list.join(" "));
        let broker_arguments = broker_arguments(&[], &[("AWS_MCP_PROXY_PROFILES", &list)]);
        assert_eq!(broker_arguments[broker_arguments.len() - names.len()..], given);
        assert_eq!(broker_arguments.iter().filter(|argument| *argument == "--endpoint").count(), 1);
        assert!(
            broker_arguments.contains(&"https://aws-mcp.us-east-1.api.aws/mcp".to_owned()),
            "{broker_arguments:?}"
        );
    }

    #[test]
    fn the_default_chain_has_no_name() {
        let key = ("AWS_ACCESS_KEY_ID", "AKID");
        for variables in [&[][..], &[key], &[key, ("AWS_DEFAULT_PROFILE", "d")]] {
            assert!(!broker_arguments(&[], variables).iter().any(|it| it.starts_with("--profile")));
        }
        let default = [("AWS_DEFAULT_PROFILE", "d")];
        assert!(broker_arguments(&[], &default).contains(&"--profile=d".to_owned()));
    }

    #[test]
    fn both_sockets_get_adjacent_descriptors() {
        let (first, second) = UnixStream::pair().unwrap();
        // Leaves a gap between free descriptors.
        let gap = rustix::io::fcntl_dupfd_cloexec(&first, 40).unwrap();
        let [one, other] = adjacent(first, second).unwrap();
        assert_eq!(one.as_raw_fd() + 1, other.as_raw_fd());
        for socket in [&one, &other] {
            assert_eq!(rustix::io::fcntl_getfd(socket).unwrap(), FdFlags::empty());
        }
        let (one, other) = (UnixStream::from(one), UnixStream::from(other));
        std::io::Write::write_all(&mut &one, b"x").unwrap();
        drop((one, gap));
        let mut text = String::new();
        std::io::Read::read_to_string(&mut &other, &mut text).unwrap();
        assert_eq!(text, "x");
    }
}
