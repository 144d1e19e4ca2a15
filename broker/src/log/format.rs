//! The text of a log line, for people and for collectors. It includes the enclosing spans: the data
//! of the call, and its phase (a span without fields).

use std::fmt::{self, Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing::span::Record;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use super::time::{timestamp, timestamp_millis};
use crate::clock;

/// Lines like `2026-11-23 22:48:07 | INFO | target | message`.
pub(super) struct Text;

impl<S, N> FormatEvent<S, N> for Text
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
        let (target, level) = (event.metadata().target(), level(*event.metadata().level()));
        write!(writer, "{} | {level} | {target} | ", timestamp(clock::now(), " "))?;
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            writer.write_str(span.name())?;
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>()
                && !fields.is_empty()
            {
                write!(writer, "{{{fields}}}")?;
            }
            writer.write_str(": ")?;
        }
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// One JSON object per line.
pub(super) struct Json;

impl<S> FormatEvent<S, Members> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, Members>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let (target, level) = (event.metadata().target(), level(*event.metadata().level()));
        let time = timestamp_millis(clock::now());
        write!(writer, r#"{{"time":"{time}","level":"{level}","target":"{target}","#)?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        let mut phase = None;
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            match span.extensions().get::<FormattedFields<Members>>() {
                Some(fields) if !fields.is_empty() => {
                    write!(writer, r#","{}":{{{fields}}}"#, span.name())?;
                }
                _ => phase = Some(span.name()),
            }
        }
        if let Some(phase) = phase {
            write!(writer, r#","phase":"{phase}""#)?;
        }
        writeln!(writer, "}}")
    }
}

/// Fields as members of a JSON object, without its braces.
pub(super) struct Members;

impl<'w> FormatFields<'w> for Members {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = Visitor::default();
        fields.record(&mut visitor);
        writer.write_str(&visitor.0)
    }

    fn add_fields(
        &self,
        current: &'w mut FormattedFields<Self>,
        fields: &Record<'_>,
    ) -> fmt::Result {
        let mut visitor = Visitor(std::mem::take(&mut current.fields));
        fields.record(&mut visitor);
        current.fields = visitor.0;
        Ok(())
    }
}

#[derive(Default)]
struct Visitor(String);

impl Visitor {
    fn member(&mut self, field: &Field, value: &serde_json::Value) {
        let comma = if self.0.is_empty() { "" } else { "," };
        // Writing to a string can't fail. Field names are Rust identifiers, and need no escaping.
        write!(self.0, r#"{comma}"{}":{value}"#, field.name()).ok();
    }
}

impl Visit for Visitor {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.member(field, &format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.member(field, &value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field, &value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field, &value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field, &value.into());
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::WARN => "WARNING",
        Level::ERROR => "ERROR",
        Level::INFO => "INFO",
        Level::DEBUG | Level::TRACE => "DEBUG",
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("a lock").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("a lock").clone()).expect("text")
        }
    }

    fn log_lines() {
        let span = tracing::info_span!("sign", id = "1-a", profile = tracing::field::Empty);
        let _entered = span.enter();
        span.record("profile", "de\"v");
        let _phase = tracing::debug_span!("resolve").entered();
        tracing::warn!(uid = 7, quick = true, "denied: \"{}\"", "x\n");
    }

    #[test]
    fn a_line_of_json_has_all_fields_and_those_of_its_call() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer().fmt_fields(Members).event_format(Json);
        let layer = layer.with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log_lines);
        let text = lines.text();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(line["level"], "WARNING");
        assert_eq!(line["message"], "denied: \"x\n\"");
        assert_eq!((&line["uid"], &line["quick"]), (&7.into(), &true.into()));
        assert_eq!(
            (&line["sign"]["id"], &line["sign"]["profile"]),
            (&"1-a".into(), &"de\"v".into())
        );
        assert_eq!(line["phase"], "resolve");
    }

    #[test]
    fn a_line_of_text_begins_with_its_call() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).event_format(Text);
        let layer = layer.with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log_lines);
        let text = lines.text();
        assert!(text.contains(r#" | sign{id="1-a" profile="de\"v"}: resolve: denied: "#), "{text}");
    }
}
