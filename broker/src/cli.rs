//! The command line: serve, check, status, health, login, explain, audit. Only this module reads
//! the environment.

mod audit;
mod check;
mod connection;
mod explain;
mod health;
mod login;
mod profiles;
mod setup;
mod status;
mod table;

use std::io::Write;
use std::num::NonZero;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use sigward_proto::sockets;
use sigward_proto::traces::{Settings as TraceSettings, Traces, TracesError};

use crate::config::{self, AuditTarget, Config, Flags};
use crate::confine;
use crate::error::{Error, with_causes};
use crate::log::{self, Log, LogFormat, LogLevel};
use crate::process::{self, Supervisor};
use crate::profile::Surroundings;
use crate::server::{self, Reread, Sockets, Termination};

/// Keeps AWS credentials, and signs HTTP requests for callers that must not have them.
#[derive(Debug, Parser)]
#[command(name = "sigward-broker", version = crate::VERSION)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve signatures on a Unix socket, and over TLS
    Serve(Serve),
    /// Validate a configuration, report what prevents serve from starting, load each profile and
    /// show its AWS identity
    Check(Check),
    /// Show the profiles of a running broker: state, source, time left, last error
    Status(status::Options),
    /// Report by exit code whether a broker accepts calls (0: yes), for container health probes
    Health(health::Options),
    /// Sign in to IAM Identity Center through a running broker
    Login(login::Options),
    /// Show which rule of a configuration decides a call, and why the others don't
    Explain(explain::Options),
    /// Print the names of the profiles in the AWS files, as a JSON array; no credentials are loaded
    Profiles,
    /// Check an audit log
    Audit(audit::Options),
    /// Set up a broker for one user of this machine, under a separate user, and move the keys out
    /// of that user's home
    Setup(setup::Options),
}

#[derive(Debug, Args)]
struct Serve {
    #[command(flatten)]
    what: What,
    /// Unix socket to listen on [default: $XDG_RUNTIME_DIR/sigward/broker.sock, else /run/sigward/broker.sock]
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// Serve the single connection on standard input, and exit when it is closed
    #[arg(long, hide = true, conflicts_with = "socket")]
    connection_on_stdin: bool,
    /// Ask AWS once for the identity of each key, for the check of a proxy
    #[arg(long, hide = true, conflicts_with = "config")]
    identity: bool,
    /// Where to write the audit log: stderr, none, or a file [default: stderr, or as configured]
    #[arg(long, value_name = "stderr|none|PATH", value_parser = audit_target)]
    audit: Option<AuditTarget>,
    /// Lowest severity of the log lines
    #[arg(long, value_enum, ignore_case = true, default_value = "INFO")]
    log_level: LogLevel,
    /// Format of the log lines
    #[arg(long, value_enum, ignore_case = true, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Debug, Args)]
struct Check {
    #[command(flatten)]
    what: What,
}

/// A configuration file, or the equivalent flags.
#[derive(Debug, Args)]
struct What {
    /// Configuration file, in TOML
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// AWS profiles to sign with [default: the SDK's default chain, as "default"]
    #[arg(long, value_name = "NAME", num_args = 1.., conflicts_with = "config")]
    profile: Vec<String>,
    /// URLs of the endpoints to sign requests for
    #[arg(long, value_name = "URL", num_args = 1.., conflicts_with = "config")]
    endpoint: Vec<String>,
    /// Service to sign for, if it doesn't follow from the endpoint's host
    #[arg(long, conflicts_with = "config")]
    service: Option<String>,
    /// Region to sign for, if it doesn't follow from the endpoint's host
    #[arg(long, conflicts_with = "config")]
    region: Option<String>,
}

/// With two threads, one may process a large body while the other answers. More than there are
/// processors would only compete.
const WORKERS: RangeInclusive<usize> = 2..=4;
/// A private broker has one client, and no rules that look at bodies: waking a second thread would
/// cost more than a signature, and memory.
const WORKERS_OF_ONE_CLIENT: usize = 1;
/// How long the process waits for blocking calls on exit.
const EXIT_WAIT: Duration = Duration::from_millis(200);

/// All commands and options, for man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Options::command()
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    // Protects the memory before options are parsed and threads are started.
    let outcome = process::harden().and_then(|()| match Options::parse().command {
        Command::Serve(serve) => run_serve(serve),
        Command::Check(check) => run_check(&check),
        Command::Explain(options) => {
            let _log = start_log(LogLevel::Error, LogFormat::Text, None)?;
            let uid = rustix::process::getuid().as_raw();
            config::read(&options.config, uid).and_then(|config| explain::run(&options, &config))
        }
        Command::Audit(options) => audit::run(&options),
        Command::Setup(options) => setup::run(&options),
        Command::Profiles => {
            Environment::read().surroundings().and_then(|surroundings| profiles::run(&surroundings))
        }
        Command::Login(options) => block_on(login::run(options, &default_sockets()))?,
        Command::Status(options) => block_on(status::run(options, &default_sockets()))?,
        Command::Health(options) => block_on(health::run(options, &default_sockets()))?,
    });
    outcome.unwrap_or_else(|error| {
        report(&error);
        ExitCode::FAILURE
    })
}

fn run_serve(serve: Serve) -> Result<ExitCode, Error> {
    let [default_socket, ..] = default_sockets();
    // Before other threads are started.
    let sockets = Sockets::take(default_socket);
    let stdin = process::take_stdin()?;
    let environment = Environment::read();
    let supervisor = Supervisor::of_environment();
    let Serve { what, socket, audit, connection_on_stdin, identity, log_level, log_format } = serve;
    let path = what.config.clone();
    let surroundings = environment.surroundings()?;
    let parse = move |text: &str| {
        let mut config = what.parse(text, &environment, socket.clone())?;
        if let Some(target) = &audit {
            config.audit.target = target.clone();
        }
        config.aws.identity |= identity;
        Ok(config)
    };
    let text = path.as_deref().map(config::read_text).transpose()?;
    let config = parse(text.as_deref().unwrap_or_default())?;
    // The certificates for traces may be where the confined process can't read.
    let traces = TraceSettings::read(|name| surroundings.variable(name).map(str::to_owned));
    let bound = sockets.bound(&config.listen).filter(|_| !connection_on_stdin);
    // Before other threads are started: they wouldn't be confined, except for the one that must
    // stay outside.
    let confined = confine::confine(&config, path.as_deref(), bound, &surroundings);
    let (traces, no_traces) = match traces.map_err(TracesError::from).and_then(start_traces) {
        Ok(traces) => (traces, None),
        Err(error) => (None, Some(error)),
    };
    let _log = start_log(log_level, log_format, traces)?;
    confine::log(&confined);
    if let Some(error) = no_traces {
        // Signatures are served without traces.
        tracing::error!("no traces are exported: {error}");
    }
    let reread = path.zip(text).map(|(path, text)| Reread {
        path,
        text: Some(text),
        parse: Box::new(parse),
    });
    let workers = if connection_on_stdin { WORKERS_OF_ONE_CLIENT } else { workers() };
    block_on_with(workers, async {
        let termination = Termination::listen()?;
        let serving = async {
            let shutdown = termination.signal(1);
            if connection_on_stdin {
                server::serve_connection(config, &surroundings, stdin, shutdown).await
            } else {
                drop(stdin);
                server::serve(config, &surroundings, reread, sockets, supervisor, shutdown).await
            }
        };
        tokio::select! {
            served = serving => served,
            () = termination.signal(2) => Ok(()),
        }
    })??;
    Ok(ExitCode::SUCCESS)
}

fn start_traces(settings: Option<TraceSettings>) -> Result<Option<Traces>, TracesError> {
    let start = |it| Traces::start(it, "sigward-broker", env!("CARGO_PKG_VERSION"));
    settings.map(start).transpose()
}

fn start_log(level: LogLevel, format: LogFormat, traces: Option<Traces>) -> Result<Log, Error> {
    let started = log::start(level, format, traces);
    started.map_err(|source| Error::Process { what: "start the log", source })
}

fn run_check(check: &Check) -> Result<ExitCode, Error> {
    let _log = start_log(LogLevel::Error, LogFormat::Text, None)?;
    let environment = Environment::read();
    let config = check.what.config(&environment)?;
    let [default_socket, ..] = default_sockets();
    block_on(check::run(&config, &environment.surroundings()?, &default_socket))
}

/// A signature takes microseconds, and loads wait for the network. More threads would only be idle.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Error> {
    block_on_with(workers(), work)
}

fn workers() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    processors.clamp(*WORKERS.start(), *WORKERS.end())
}

fn block_on_with<T>(workers: usize, work: impl Future<Output = T>) -> Result<T, Error> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let runtime = runtime.map_err(|source| Error::Process { what: "start the runtime", source })?;
    let outcome = runtime.block_on(work);
    // Running tasks are dropped, which ends credential processes. Hanging blocking calls aren't
    // waited for.
    runtime.shutdown_timeout(EXIT_WAIT);
    Ok(outcome)
}

impl What {
    fn config(&self, environment: &Environment) -> Result<Config, Error> {
        let text = self.config.as_deref().map(config::read_text).transpose()?;
        self.parse(text.as_deref().unwrap_or_default(), environment, None)
    }

    /// Parses the text of the file, or the flags.
    fn parse(
        &self,
        text: &str,
        environment: &Environment,
        socket: Option<PathBuf>,
    ) -> Result<Config, Error> {
        let uid = rustix::process::getuid().as_raw();
        if let Some(path) = &self.config {
            return config::parse(text, path, uid).map_err(Error::Config);
        }
        let flags = Flags {
            profiles: self.profile.clone(),
            endpoints: self.endpoint.clone(),
            service: self.service.clone(),
            region: self.region.clone(),
            aws_region: environment.aws_region(),
            socket,
        };
        flags.into_config(uid)
    }
}

fn audit_target(text: &str) -> Result<AuditTarget, String> {
    match text {
        "" => Err("is empty".to_owned()),
        "stderr" => Ok(AuditTarget::Stderr),
        "none" => Ok(AuditTarget::None),
        path => Ok(AuditTarget::File(path.into())),
    }
}

/// Variables that no child process gets, even if the configuration passes them on.
const KEYS: [&str; 6] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECURITY_TOKEN",
    // The SDK also reads the secret key from this variable.
    "SECRET_ACCESS_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
];

/// The values of the environment.
struct Environment(Surroundings);

impl Environment {
    #[expect(clippy::disallowed_methods, reason = "this is the module that reads it")]
    fn read() -> Self {
        let variables = std::env::vars_os();
        let variables = variables.filter(|(name, _)| !KEYS.iter().any(|key| name == key));
        // From `HOME`, else from the user database, like the AWS CLI.
        let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
        Self(Surroundings { home, variables: variables.collect() })
    }

    fn aws_region(&self) -> Option<String> {
        let region = self.0.first_region().or_else(|| self.0.last_region());
        region.map(str::to_owned)
    }

    /// The whole environment, for the profiles.
    fn surroundings(&self) -> Result<Surroundings, Error> {
        self.0.check().map_err(Error::Usage)?;
        Ok(self.0.clone())
    }
}

/// The default sockets, in the order in which clients try them: the user's own, the machine's for
/// that user, and the machine's.
#[allow(clippy::disallowed_methods, reason = "this is the module that reads it")]
fn default_sockets() -> [PathBuf; 3] {
    let machine = PathBuf::from(sockets::OF_THE_MACHINE);
    let kept = sockets::kept_for(rustix::process::getuid().as_raw());
    let user = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
    let user = user.map(|directory| sockets::of_user(Path::new(&directory)));
    [user.unwrap_or_else(|| machine.clone()), kept, machine]
}

/// Prints an error for the person at the terminal.
fn report(error: &Error) {
    // If standard error is closed, there is no other output.
    drop(writeln!(std::io::stderr(), "sigward-broker: {}", with_causes(error)));
}
