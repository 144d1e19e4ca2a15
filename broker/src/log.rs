//! The log: lines on standard error, for people or for collectors.
//!
//! Invariant: from the AWS crates only ERROR is logged. They log access key ids at INFO, and at
//! WARN what a `credential_process` wrote to standard error. Logging never blocks (`writer`).

mod format;
mod time;
mod writer;

use std::io;
use std::panic;
use std::time::Duration;

use clap::ValueEnum;
use sigward_proto::traces::Traces;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt;

use self::format::{Json, Members, Text};
pub use self::time::{timestamp, timestamp_compact, timestamp_millis};
use self::writer::Queue;
use crate::clock;

/// How long the process waits on exit until the last lines are read.
const FLUSH_WAIT: Duration = Duration::from_millis(200);

/// The lowest severity to log; the names are those of mcp-proxy-for-aws.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What happens.
    Info,
    /// What may be wrong.
    Warning,
    /// What is wrong.
    Error,
    /// The same: nothing here is worse than an error.
    Critical,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line, for collectors
    Json,
}

/// The log of the process, and the export of its traces; dropping it writes the last spans and lines.
#[derive(Debug)]
#[must_use]
pub struct Log {
    queue: Queue,
    traces: Option<Traces>,
}

/// Starts the log and the traces. Panics are logged too: the default hook would block a worker.
///
/// # Errors
/// The thread can't be started, or the log was started before.
pub fn start(level: LogLevel, format: LogFormat, traces: Option<Traces>) -> io::Result<Log> {
    let level = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Error | LogLevel::Critical => LevelFilter::ERROR,
    };
    let targets = Targets::new().with_default(LevelFilter::ERROR).with_target("sigward", level);
    let layer = tracing_subscriber::fmt::layer().with_ansi(false);
    let queue = match format {
        LogFormat::Text => {
            let queue = Queue::start(io::stderr(), text_notice)?;
            let layer = layer.with_writer(queue.clone()).event_format(Text);
            subscribe(layer.with_filter(targets), traces.as_ref())?;
            queue
        }
        LogFormat::Json => {
            let queue = Queue::start(io::stderr(), json_notice)?;
            let layer = layer.with_writer(queue.clone()).fmt_fields(Members).event_format(Json);
            subscribe(layer.with_filter(targets), traces.as_ref())?;
            queue
        }
    };
    panic::set_hook(Box::new(|panicked| tracing::error!("a bug: {panicked}")));
    Ok(Log { queue, traces })
}

fn subscribe(lines: impl Layer<Registry> + Send + Sync, traces: Option<&Traces>) -> io::Result<()> {
    let registry = tracing_subscriber::registry().with(lines);
    // An optional layer would be queried for each disabled event and span.
    match traces {
        None => registry.try_init(),
        Some(traces) => registry.with(traces.layer()).try_init(),
    }
    .map_err(io::Error::other)
}

impl Drop for Log {
    fn drop(&mut self) {
        // Stopping the export may log what was lost.
        drop(self.traces.take());
        self.queue.flush(FLUSH_WAIT);
    }
}

const DROPPED: &str = "log lines were dropped: they weren't read in time";

fn text_notice(dropped: u64) -> String {
    let (time, target) = (timestamp(clock::now(), " "), module_path!());
    format!("{time} | WARNING | {target} | {dropped} {DROPPED}\n")
}

fn json_notice(dropped: u64) -> String {
    let (time, target) = (timestamp_millis(clock::now()), module_path!());
    let text = format!(
        r#"{{"time":"{time}","level":"WARNING","target":"{target}","message":"{DROPPED}","dropped":{dropped}}}"#
    );
    text + "\n"
}
