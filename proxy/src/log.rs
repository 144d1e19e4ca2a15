//! The log: lines on standard error, in the form of the reference proxy:
//! `2026-11-23 22:48:07 | ERROR | sigward_proxy::relay | message`.
//!
//! Standard output is the MCP channel and gets none of it.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts the log at one of the levels of the reference proxy.
pub fn start(level: &str) {
    let level = match level {
        "DEBUG" => LevelFilter::DEBUG,
        "INFO" => LevelFilter::INFO,
        "WARNING" => LevelFilter::WARN,
        _ => LevelFilter::ERROR,
    };
    // What HTTP libraries log below ERROR may hold headers.
    let targets = Targets::new().with_default(LevelFilter::ERROR).with_target("sigward", level);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).event_format(Line);
    let _ = tracing_subscriber::registry().with(targets).with(lines).try_init();
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
        let level = match *event.metadata().level() {
            Level::WARN => "WARNING",
            Level::ERROR => "ERROR",
            Level::INFO => "INFO",
            Level::DEBUG | Level::TRACE => "DEBUG",
        };
        // RFC 3339, of which the seconds and what stands before them are of interest.
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let time = time.get(..19).unwrap_or(&time).replace('T', " ");
        write!(writer, "{time} | {level} | {} | ", event.metadata().target())?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
