//! The log: lines on standard error, in the form of the reference proxy: `2026-11-23 22:48:07 |
//! ERROR | sigward_proxy::client | message`.
//!
//! Nothing is logged to standard output, which is the MCP channel.

use std::fmt::{self, Write as _};

use sigward_proto::traces::Traces;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::is_control;

/// Starts the log at one of the levels of the reference proxy, and the export of traces.
pub fn start(level: &str, traces: Option<&Traces>) {
    let level = match level {
        "DEBUG" => LevelFilter::DEBUG,
        "INFO" => LevelFilter::INFO,
        "WARNING" => LevelFilter::WARN,
        _ => LevelFilter::ERROR,
    };
    // HTTP libraries may log headers at levels below ERROR.
    let targets = Targets::new().with_default(LevelFilter::ERROR).with_target("sigward", level);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).event_format(Line);
    let registry = tracing_subscriber::registry().with(lines.with_filter(targets));
    // An optional layer would be queried again for each disabled event and span.
    let _ = match traces {
        None => registry.try_init(),
        Some(traces) => registry.with(traces.layer()).try_init(),
    };
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
        // RFC 3339, of which only the part up to the seconds is used.
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let time = time.get(..19).unwrap_or(&time).replace('T', " ");
        write!(writer, "{time} | {level} | {} | ", event.metadata().target())?;
        let mut fields = String::new();
        context.field_format().format_fields(Writer::new(&mut fields), event)?;
        writeln!(writer, "{}", OneLine(&fields))
    }
}

/// A text without characters that end a line or move a cursor: the attack is a server's text that
/// looks like lines of this log.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match is_control(c) {
            true => write!(f, "{}", c.escape_unicode()),
            false => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A server chooses methods and messages.
    #[test]
    fn text_of_a_server_cannot_forge_a_log_line() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .event_format(Line);
        let forged = "x\n2026-01-01 00:00:00 | ERROR | sigward_proxy | forged\r\u{1b}[2K\u{2028}";
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(method = %forged, "dropped {forged}");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            text.contains("forged") && text.contains(" | WARNING | sigward_proxy::log"),
            "{text}"
        );
        assert!(!text.trim_end_matches('\n').chars().any(is_control), "{text:?}");
    }
}
