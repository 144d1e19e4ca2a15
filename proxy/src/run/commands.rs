//! The commands `config` and `check`.

use std::future::pending;
use std::io::{self, Write as _};
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::broker::Broker;
use crate::cli::config::{Asked, Offered, Places, Serving, Task};
use crate::cli::{self, BrokerChoice, Invocation};
use crate::config::ProfileName;
use crate::environment::Environment;
use crate::launch;
use crate::log;

/// How long a running broker may take to list its profiles.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Runs `sigward-proxy check`.
pub(super) fn check(invocation: Invocation, json: bool, environment: Environment) -> ExitCode {
    log::start(&invocation.log_level, None);
    let Invocation { config, broker, log_level, .. } = invocation;
    let route = match launch::route(&config, &broker, &log_level, &environment) {
        Ok(route) => route,
        Err(error) => return fail(&error),
    };
    drop(environment);
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let stop = async {
        match signal(SignalKind::interrupt()) {
            Ok(mut interrupt) => drop(interrupt.recv().await),
            Err(_) => pending().await,
        }
    };
    let checked = runtime.block_on(cli::check::run(&config, route, json, stop));
    runtime.shutdown_background();
    match checked {
        Some(checked) if print(&checked.output) && checked.is_good => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
        None => fail(&"interrupted"),
    }
}

/// Runs `sigward-proxy config`.
pub(super) fn config(task: Task, environment: &Environment) -> ExitCode {
    if let Err(error) = launch::leave_aws_variables(environment) {
        return fail(&error);
    }
    let executable = match std::env::current_exe() {
        Ok(executable) => executable,
        Err(error) => return fail(&error),
    };
    let given = |words: &[String]| cli::given(words).map_err(|error| error.to_string());
    let serving = |words: &[String]| {
        let all = std::iter::once("sigward-proxy").chain(words.iter().map(String::as_str));
        let parsed = cli::parse(all.map(Into::into), environment);
        let config = parsed.map_err(|error| error.to_string())?.config;
        let profiles: Vec<ProfileName> = config.named_profiles().cloned().collect();
        Ok(Serving { endpoint: config.endpoint, profiles })
    };
    let offered = |choice: &BrokerChoice| offered(choice, environment);
    let asked = Asked { given: &given, serving: &serving, offered: &offered };
    let path = |name| environment.path(name);
    let places = Places {
        home: path("HOME"),
        config: path("XDG_CONFIG_HOME"),
        codex: path("CODEX_HOME"),
        claude: path("CLAUDE_CONFIG_DIR"),
        is_mac: cfg!(target_os = "macos"),
    };
    match task.run(environment, &places, &executable, &asked) {
        Ok(report) => {
            for note in &report.notes {
                eprintln!("sigward-proxy: {note}");
            }
            match print(&report.output) && report.is_done {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }
        }
        // Errors of the command line parser begin with this prefix.
        Err(error) => fail(&error.trim_start_matches("error: ").trim_end()),
    }
}

/// The profiles of the running broker, or of the AWS files.
fn offered(choice: &BrokerChoice, environment: &Environment) -> Result<Offered, String> {
    let Some(route) = launch::running(choice, environment) else {
        return launch::profile_names(environment).map(Offered::Files);
    };
    let runtime = runtime().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let broker = Broker::new(route, PATIENCE);
        // The profile for error messages.
        let placeholder = ProfileName::parse("default").map_err(str::to_owned)?;
        let profiles = broker.profiles(&placeholder).await.map_err(|error| error.to_string())?;
        Ok(Offered::Running { broker: broker.address().to_string(), profiles })
    })
}

/// One thread is sufficient: these commands mostly wait.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Prints to standard output, which isn't an MCP channel here. Returns whether everything was
/// written.
fn print(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("sigward-proxy: {error}");
    ExitCode::FAILURE
}
