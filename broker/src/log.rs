//! The log: lines on standard error, `2026-11-23 22:48:07 | INFO | target | message`.
//!
//! Invariant: nothing below ERROR is taken from the AWS crates. They log access key ids at INFO, and
//! at WARN what a `credential_process` wrote to standard error.

use std::fmt;
use std::io;
use std::time::SystemTime;

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use clap::ValueEnum;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::clock;

/// How much is logged; the names are those of mcp-proxy-for-aws.
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

/// Starts the log.
pub fn start(level: LogLevel) {
    let level = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Error | LogLevel::Critical => LevelFilter::ERROR,
    };
    let targets = Targets::new().with_default(LevelFilter::ERROR).with_target("sigward", level);
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr).event_format(Line);
    // A second start, in a test, keeps the first.
    drop(tracing_subscriber::registry().with(targets).with(layer).try_init());
}

/// A time as `2026-11-23 22:48:07`, UTC, with the given text between day and time.
#[must_use]
pub fn timestamp(time: SystemTime, between: &str) -> String {
    let time = DateTime::from_secs(DateTime::from(time).secs());
    let text = time.fmt(Format::DateTime).unwrap_or_default();
    text.trim_end_matches('Z').replace('T', between)
}

/// A time as `2026-11-23T22:48:07.123Z`, for records.
#[must_use]
pub fn timestamp_millis(time: SystemTime) -> String {
    let millis = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_millis();
    format!("{}.{millis:03}Z", timestamp(time, "T"))
}

struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let level = match *metadata.level() {
            Level::WARN => "WARNING",
            Level::ERROR => "ERROR",
            Level::INFO => "INFO",
            Level::DEBUG | Level::TRACE => "DEBUG",
        };
        write!(writer, "{} | {level} | {} | ", timestamp(clock::now(), " "), metadata.target())?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_utc_and_whole_seconds() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_474_087_999);
        assert_eq!(timestamp(time, " "), "2026-11-23 22:48:07");
        assert_eq!(timestamp(time, "T"), "2026-11-23T22:48:07");
        assert_eq!(timestamp_millis(time), "2026-11-23T22:48:07.999Z");
    }
}
