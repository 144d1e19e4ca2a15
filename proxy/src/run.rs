//! From the command line to the end: options, broker, runtime, relay, drain.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::broker::{Broker, Route};
use crate::budget::Budget;
use crate::cli::{self, Invocation};
use crate::config::{Config, MAX_CLIENT_MESSAGE, REQUESTS_IN_TRANSIT};
use crate::downstream::stdio;
use crate::environment::Environment;
use crate::launch;
use crate::log;
use crate::relay::{Relay, Shared};
use crate::session::Ownership;
use crate::signer::Signer;
use crate::upstream::{Settings, Upstream};

/// How long what is written already may take to reach the client at the end.
const FLUSH: Duration = Duration::from_millis(250);

/// Runs the program. It ends with the client's input, or by a signal.
#[must_use]
pub fn main() -> ExitCode {
    let environment = Environment::of_process();
    let invocation = match cli::parse(std::env::args_os(), &environment) {
        Ok(invocation) => invocation,
        Err(error) => {
            // Help goes to standard output, where no MCP client is yet.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    log::start(&invocation.log_level);
    let Invocation { config, broker, log_level } = invocation;
    let route = match launch::route(&config, &broker, &log_level, &environment) {
        Ok(route) => route,
        Err(error) => return fail(&error),
    };
    drop(environment);
    // One thread: a relay waits, it doesn't compute, and threads that wake each other cost a call more
    // than it takes (measured: a third of the latency, and of the rate).
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let code = runtime.block_on(serve(config, route));
    // A read of standard input may still block a thread, and nobody waits for it.
    runtime.shutdown_background();
    code
}

async fn serve(config: Config, route: Route) -> ExitCode {
    let broker = Broker::new(route, config.timeouts.request);
    let settings = Settings {
        url: config.endpoint.clone(),
        headers: config.headers.clone(),
        timeouts: config.timeouts,
        skip_auth: config.skip_auth,
        telemetry: config.telemetry,
    };
    let upstream = match Upstream::new(settings, Signer::new(broker.clone())) {
        Ok(upstream) => Arc::new(upstream),
        Err(error) => return fail(&error),
    };
    let (mut terminated, mut interrupted) =
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminated), Ok(interrupted)) => (terminated, interrupted),
            (Err(error), _) | (_, Err(error)) => return fail(&error),
        };
    let (input, output) = rmcp::transport::stdio_pipes();
    let (sender, receiver) = mpsc::channel(stdio::OUTPUT_QUEUE);
    let mut writer = tokio::spawn(stdio::write(output, receiver));
    let relay = Relay::new(Shared::new(&config, upstream, broker), Ownership::Proxy, sender);
    let requests = Budget::new(REQUESTS_IN_TRANSIT);
    let mut client_reads = true;
    tokio::select! {
        () = stdio::serve(input, &relay, MAX_CLIENT_MESSAGE, &requests) => tracing::debug!("end of input"),
        _ = &mut writer => client_reads = false,
        _ = terminated.recv() => tracing::info!("terminated"),
        _ = interrupted.recv() => tracing::info!("interrupted"),
    }
    relay.close().await;
    drop(relay);
    if client_reads {
        let _ = tokio::time::timeout(FLUSH, writer).await;
    }
    ExitCode::SUCCESS
}

/// Says on standard error why there is nothing to run.
fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("sigward-proxy: {error}");
    ExitCode::FAILURE
}
