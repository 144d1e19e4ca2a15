//! Runs the proxy: options, broker, runtime, clients, drain.

mod announce;
mod commands;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use sigward_proto::traces::{Settings as TraceSettings, Traces, TracesError};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Route};
use crate::cli::{self, Invocation};
use crate::client::{Client, GRACE, Shared};
use crate::config::{Config, Listen, ListenAddress, MAX_CLIENT_MESSAGE};
use crate::downstream::http::{self, Guard, Handler, Limits, Room, Service, Socket};
use crate::downstream::stdio;
use crate::environment::Environment;
use crate::error::Error;
use crate::health;
use crate::launch;
use crate::log;
use crate::session::Ownership;
use crate::signer::Signer;
use crate::upstream::{Settings, Upstream};

/// How long written messages may take to reach the client at the end.
const FLUSH: Duration = Duration::from_millis(200);

/// File descriptors for all connections of clients, some to the endpoint, and the rest.
const DESCRIPTORS: u64 = 16_384;

/// How long answers in flight may take when a listening proxy gets a signal. Together with the time
/// for closing sessions, the proxy ends within two seconds.
const DRAIN: Duration = Duration::from_millis(700);

/// Runs the program. It ends with the client's input, or on a signal.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(asked) = cli::health(std::env::args_os()) {
        return asked.map_or_else(|error| usage(&error), |address| check_health(&address));
    }
    let environment = Environment::of_process();
    if let Some(asked) = cli::config(std::env::args_os()) {
        return asked
            .map_or_else(|error| usage(&error), |task| commands::config(task, &environment));
    }
    if let Some(asked) = cli::check(std::env::args_os(), &environment) {
        let check = |(invocation, json)| commands::check(invocation, json, environment);
        return asked.map_or_else(|error| usage(&error), check);
    }
    let invocation = match cli::parse(std::env::args_os(), &environment) {
        Ok(invocation) => invocation,
        Err(error) => return usage(&error),
    };
    let traces = start_traces(&environment);
    log::start(&invocation.log_level, traces.as_ref().ok().and_then(Option::as_ref));
    if let Err(error) = &traces {
        // This isn't a reason to serve no client.
        tracing::error!("no traces are exported: {error}");
    }
    let Invocation { config, broker, log_level } = invocation;
    let route = match launch::route(&config, &broker, &log_level, &environment) {
        Ok(route) => route,
        Err(error) => return fail(&error),
    };
    drop(environment);
    announce::announce(&config, &route);
    let private = match &route {
        Route::Private(private) => Some(Arc::clone(private)),
        Route::Unix(_) | Route::Tls(_) => None,
    };
    // A stdio client gets the error with its first request.
    let failure = private.as_ref().and_then(|private| private.known_failure());
    if let Some(failure) = &failure {
        eprintln!("sigward-proxy: the private broker {failure}");
        if config.listen.is_some() || std::io::stdin().is_terminal() {
            return ExitCode::FAILURE;
        }
    }
    let descriptors = raise_descriptors();
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let code = runtime.block_on(serve(config, route, descriptors));
    // A thread that reads standard input may still block, and must not delay the exit.
    runtime.shutdown_background();
    match private {
        Some(private) => {
            private.flush(FLUSH);
            if failure.is_some() && !private.has_process() { ExitCode::FAILURE } else { code }
        }
        None => code,
    }
}

/// Starts the export of traces, but not in a process that is about to re-execute itself, because the export needs a
/// thread.
fn start_traces(environment: &Environment) -> Result<Option<Traces>, TracesError> {
    if !environment.aws_names().is_empty() {
        return Ok(None);
    }
    let variable = |name: &str| environment.text(name).ok().flatten().map(str::to_owned);
    let start = |it| Traces::start(it, "sigward-proxy", env!("CARGO_PKG_VERSION"));
    TraceSettings::read(variable)?.map(start).transpose()
}

/// One thread: a proxy waits rather than computes, and waking other threads would cost a call more
/// time than the rest (measured: a third of the latency and of the rate).
fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Checks the health of the proxy at `address`.
fn check_health(address: &ListenAddress) -> ExitCode {
    match runtime().map(|runtime| runtime.block_on(health::check(address))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(why)) => fail(&why),
        Err(error) => fail(&error),
    }
}

/// Prints the help, or the error of the command line.
fn usage(error: &clap::Error) -> ExitCode {
    // Help goes to standard output, because there is no MCP client yet.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

async fn serve(config: Config, route: Route, descriptors: u64) -> ExitCode {
    let broker = Broker::new(route, config.timeouts.request);
    let settings = Settings::new(&config, false);
    let upstream = match Upstream::new(settings, Signer::new(broker.clone())) {
        Ok(upstream) => Arc::new(upstream),
        Err(error) => return fail(&error),
    };
    let mut kinds = vec![SignalKind::terminate(), SignalKind::interrupt()];
    if config.listen.is_none() {
        // The client's terminal is gone. A listening proxy may be meant to outlive it (nohup).
        kinds.push(SignalKind::hangup());
    }
    let signals: io::Result<Vec<Signal>> = kinds.into_iter().map(signal).collect();
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => return fail(&error),
    };
    let attended = config.listen.is_none() && !std::io::stdin().is_terminal();
    if !attended && let Err(error) = broker.profiles(config.profiles.default()).await {
        // There is no client yet that could get the error.
        if matches!(error, Error::PrivateBroker { .. }) {
            return fail(&error);
        }
    }
    let shared = Shared::new(&config, upstream, broker);
    let stop = async {
        let any = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures_util::future::select_all(any).await;
        tracing::info!("ended by a signal");
    };
    match &config.listen {
        Some(listen) => over_http(shared, listen, descriptors, stop).await,
        None => {
            over_stdio(shared, stop).await;
            ExitCode::SUCCESS
        }
    }
}

/// Serves the client on standard input and output.
async fn over_stdio(shared: Arc<Shared>, stop: impl Future<Output = ()>) {
    let (input, output) = (stdio::Input::of_process(), stdio::Output::of_process());
    let (sender, receiver) = mpsc::channel(stdio::OUTPUT_QUEUE);
    let mut writer = tokio::spawn(stdio::write(output, receiver));
    let requests = shared.requests.clone();
    let client = Client::new(shared, Ownership::Proxy, sender);
    let intake = stdio::Intake::new(Arc::clone(&client));
    let mut client_reads = true;
    tokio::select! {
        () = stdio::serve(input, &intake, MAX_CLIENT_MESSAGE, &requests) => tracing::debug!("end of input"),
        _ = &mut writer => client_reads = false,
        () = stop => {}
    }
    client.close(GRACE).await;
    drop((client, intake));
    if client_reads {
        let _ = tokio::time::timeout(FLUSH, writer).await;
    }
}

/// Serves HTTP clients.
async fn over_http(
    shared: Arc<Shared>,
    listen: &Listen,
    descriptors: u64,
    stop: impl Future<Output = ()>,
) -> ExitCode {
    let guard = match Guard::new(listen) {
        Ok(guard) => guard,
        Err(error) => {
            let file = listen.token_file.as_deref().unwrap_or(Path::new(""));
            return fail(&format!("--listen-token-file {}: {error}", file.display()));
        }
    };
    let opened = match Socket::open(listen).await {
        Ok(socket) => socket.address().map(|address| (socket, address)),
        Err(error) => Err(error),
    };
    let (socket, address) = match opened {
        Ok(opened) => opened,
        Err(error) => return fail(&format!("--listen {}: {error}", listen.address)),
    };
    let handler = Handler::new(shared);
    let draining = CancellationToken::new();
    let service = Arc::new(Service {
        guard,
        handler: Arc::clone(&handler),
        limits: Limits::USUAL,
        draining: draining.clone(),
    });
    // The process that started this one waits for this line, whatever the log level. It is written
    // at once, so that a reader never gets half a line.
    let ready = format!("sigward-proxy: listening address={address} path=/mcp\n");
    let _ = std::io::stderr().write_all(ready.as_bytes());
    let connections = tokio::select! {
        connections = http::serve(&socket, &service, Room::within(descriptors)) => connections,
        () = handler.sweep() => return ExitCode::FAILURE,
        () = async { stop.await; draining.cancel(); std::future::pending().await } => return ExitCode::FAILURE,
    };
    // New connections are refused from here on.
    drop(socket);
    tracing::info!("draining: no new requests are accepted");
    let _ = tokio::time::timeout(DRAIN, connections.wait()).await;
    handler.close().await;
    ExitCode::SUCCESS
}

/// By default, most systems limit a process to 1024 file descriptors: fewer than the promised clients and connections
/// need. The limit isn't raised to the maximum, because programs that the private broker runs inherit it, and old ones
/// close each descriptor up to it.
///
/// Returns the new limit.
fn raise_descriptors() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS));
    if limit.current.is_some_and(|current| current < wanted) {
        let before = limit.current;
        limit.current = Some(wanted);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "the limit of open files can't be raised");
            limit.current = before;
        }
    }
    limit.current.unwrap_or(DESCRIPTORS)
}

/// Prints why the program can't run.
fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("sigward-proxy: {error}");
    ExitCode::FAILURE
}
