//! Traces of OpenTelemetry, exported over gRPC (OTLP) if the environment names a collector. Otherwise they are off, and
//! no span is made.
//!
//! The attributes of a span are names, decisions and states, and no content of a message or an answer. Log events are
//! never exported. Each attribute is set explicitly; nothing is collected automatically.
//!
//! Invariant: only the thread that sends to a collector waits for it, and at the end of the process a quarter of a
//! second.

mod past;
mod queue;
mod settings;

use std::collections::HashMap;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::registry::LookupSpan;

pub use self::past::{AGO, Since};
use self::queue::Queue;
pub use self::settings::{Settings, SettingsError};

/// The header and metadata key of a trace's context (W3C Trace Context).
pub const TRACEPARENT: &str = "traceparent";

/// How long the end of the process may wait until the last spans are sent.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(250);

/// A span for a phase of the current request; `Span::none()` outside a request, or if traces are off.
#[macro_export]
macro_rules! phase {
    ($($span:tt)+) => {
        if $crate::traces::in_request() {
            tracing::info_span!(target: "trace", $($span)+)
        } else {
            tracing::Span::none()
        }
    };
}

/// Why there are no traces although the environment configures them.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// A setting of the environment can't be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The exporter can't be built with other variables of the environment.
    #[error("the exporter can't be set up: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// Its thread can't be started.
    #[error("no thread can be started for the exporter: {0}")]
    Thread(#[from] std::io::Error),
}

/// The export of this process's spans. Dropping it sends the queued ones.
#[derive(Debug)]
#[must_use]
pub struct Traces {
    provider: SdkTracerProvider,
    program: &'static str,
}

impl Traces {
    /// Starts the export for `program`. It connects only when there is a span.
    ///
    /// # Errors
    /// The settings of the environment can't be applied.
    pub fn start(
        settings: Settings,
        program: &'static str,
        version: &'static str,
    ) -> Result<Self, TracesError> {
        let Settings { endpoint, tls, name } = settings;
        let name = name.unwrap_or_else(|| program.to_owned());
        let version = KeyValue::new("service.version", version);
        let resource = Resource::builder().with_service_name(name).with_attribute(version).build();
        let collector = endpoint.origin().ascii_serialization();
        let exporter = || {
            let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint.as_str());
            match tls {
                Some(tls) => exporter.with_tls_config(tls).build(),
                None => exporter.build(),
            }
        };
        let queue = Queue::start(exporter, &resource, collector)?;
        let provider = SdkTracerProvider::builder().with_resource(resource);
        Ok(Self { provider: provider.with_span_processor(queue).build(), program })
    }

    /// The layer that exports spans of the program as spans of a trace.
    #[must_use]
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let layer = tracing_opentelemetry::layer().with_tracer(self.provider.tracer(self.program));
        layer
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_level(false)
            .with_context_activation(false)
            .with_filter(FilterFn::new(is_traced).with_max_level_hint(LevelFilter::DEBUG))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        // The queue logs the lost spans.
        let _ = self.provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT);
    }
}

/// Whether a span belongs to a trace: it was made for it, or it is a phase, which is also logged (at DEBUG). Spans of
/// libraries and events aren't exported, because they may contain other data.
fn is_traced(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let is_phase = *metadata.level() == Level::DEBUG && target.starts_with("sigward");
    metadata.is_span() && (target == "trace" || is_phase)
}

/// Whether the current task is within a span of a request. If traces are off, that is known without a lookup.
#[must_use]
pub fn in_request() -> bool {
    is_on() && !Span::current().is_none()
}

/// Whether traces are exported.
#[must_use]
pub fn is_on() -> bool {
    tracing::span_enabled!(target: "trace", Level::INFO)
}

/// The context of the current span, as a value of [`TRACEPARENT`].
#[must_use]
pub fn traceparent() -> Option<String> {
    if !in_request() {
        return None;
    }
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut carrier);
    carrier.remove(TRACEPARENT)
}

/// Adds `span`, which must not have been entered, to the caller's trace. An invalid context is ignored.
pub fn follow(span: &Span, traceparent: &str) {
    if span.is_disabled() {
        return;
    }
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract(&carrier);
    if context.span().span_context().is_valid() {
        // It fails if the span has already been entered; then it keeps its own trace.
        let _ = span.set_parent(context);
    }
}
