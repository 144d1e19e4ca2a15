//! Traces of OpenTelemetry, exported over gRPC (OTLP) where the environment names a collector, and otherwise off: then
//! no span is made.
//!
//! A span has names, decisions and states as its attributes, and nothing that a message or an answer holds. Events (lines
//! of the log) are never part of it. Whoever makes a span writes its attributes out; nothing is collected by itself.
//!
//! Invariant: nothing waits for a collector but the thread that sends to it, and for [`FAREWELL`] the end of the process.

mod queue;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tonic::transport::ClientTlsConfig;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::registry::LookupSpan;
use url::{Host, Url};

use self::queue::Queue;

/// The header and metadata key of a trace's context (W3C Trace Context).
pub const TRACEPARENT: &str = "traceparent";

/// How long the end of the process may wait for the last spans to be sent.
const FAREWELL: Duration = Duration::from_millis(250);

/// A span of a phase of the request in progress; none outside of a request, and none where traces are off.
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

/// Why there are no traces although the environment asks for them.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The address isn't one of a collector.
    #[error("{variable} can't be used: {why}")]
    Endpoint {
        /// The variable that has it.
        variable: &'static str,
        /// What is wrong, and what to write.
        why: String,
    },
    /// Another protocol is asked for.
    #[error(
        "{variable} is {protocol:?}, and traces are sent by grpc alone; set OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc and \
         OTEL_EXPORTER_OTLP_TRACES_ENDPOINT (port 4317 of most collectors), or OTEL_TRACES_EXPORTER=none"
    )]
    Protocol {
        /// The variable that has it.
        variable: &'static str,
        /// Its value.
        protocol: String,
    },
    /// The exporter can't be made of what other variables say.
    #[error("the exporter can't be set up: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// There is no thread for it.
    #[error("no thread can be started for the exporter: {0}")]
    Thread(#[from] std::io::Error),
}

/// The export of this process's spans. What is queued is sent when this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Traces {
    provider: SdkTracerProvider,
    program: &'static str,
}

impl Traces {
    /// Starts the export for `program`, where the variables of the environment ask for it. Nothing is connected before
    /// there is a span.
    ///
    /// # Errors
    /// What they ask for can't be done.
    pub fn start(
        program: &'static str,
        version: &'static str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, TracesError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let Some(endpoint) = endpoint(&set)? else { return Ok(None) };
        let name = set("OTEL_SERVICE_NAME").unwrap_or_else(|| program.to_owned());
        let version = KeyValue::new("service.version", version);
        let resource = Resource::builder().with_service_name(name).with_attribute(version).build();
        let collector = endpoint.origin().ascii_serialization();
        let exporter = || {
            let tls = ClientTlsConfig::new().with_native_roots();
            let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint.as_str());
            exporter.with_tls_config(tls).build()
        };
        let queue = Queue::start(exporter, &resource, collector)?;
        let provider = SdkTracerProvider::builder().with_resource(resource);
        Ok(Some(Self { provider: provider.with_span_processor(queue).build(), program }))
    }

    /// What makes spans of a trace out of those of the program.
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
        // The queue logs what is lost.
        let _ = self.provider.shutdown_with_timeout(FAREWELL);
    }
}

/// Spans made for a trace, and those of the phases, which the log has too (at DEBUG). Nothing of any library, and no event:
/// both may hold what doesn't belong here.
fn is_traced(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let is_phase = *metadata.level() == Level::DEBUG && target.starts_with("sigward");
    metadata.is_span() && (target == "trace" || is_phase)
}

/// Whether there is a span of a request, in this task.
#[must_use]
pub fn in_request() -> bool {
    tracing::span_enabled!(target: "trace", Level::INFO) && !Span::current().is_none()
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

/// Makes `span`, which wasn't entered yet, a part of the trace that its caller names. What is no context changes nothing.
pub fn follow(span: &Span, traceparent: &str) {
    if span.is_disabled() {
        return;
    }
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract(&carrier);
    if context.span().span_context().is_valid() {
        // It fails where the span is in progress already: then it keeps its own trace.
        let _ = span.set_parent(context);
    }
}

/// Where spans are to be sent; none, if nowhere.
fn endpoint(set: &impl Fn(&str) -> Option<String>) -> Result<Option<Url>, TracesError> {
    let first =
        |names: [&'static str; 2]| names.into_iter().find_map(|name| Some((name, set(name)?)));
    let endpoints = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
    let Some((variable, text)) = first(endpoints) else { return Ok(None) };
    let is_off = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || set("OTEL_TRACES_EXPORTER").is_some_and(|exporter| exporter != "otlp");
    if is_off {
        return Ok(None);
    }
    let protocols = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
    if let Some((variable, protocol)) = first(protocols).filter(|(_, protocol)| protocol != "grpc")
    {
        return Err(TracesError::Protocol { variable, protocol });
    }
    let unusable = |why: &str| TracesError::Endpoint { variable, why: why.to_owned() };
    // The text isn't repeated: it may have a password.
    let url = Url::parse(&text);
    let url = url.map_err(|_| unusable("it is no URL; write http://127.0.0.1:4317"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(unusable(
            "it has a user or a password; those go into OTEL_EXPORTER_OTLP_HEADERS",
        ));
    }
    match (url.scheme(), is_loopback(&url)) {
        ("https", _) | ("http", true) => Ok(Some(url)),
        // The attack: on a network, anybody can read which profiles, rules and tools there are, or a header's token.
        ("http", false) => Err(unusable("http:// is for this machine alone; write https://")),
        _ => Err(unusable("it has to begin with https://, or with http:// for this machine")),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint_of(variables: &[(&str, &str)]) -> Result<Option<Url>, TracesError> {
        endpoint(&|name| {
            let found = variables.iter().find(|(found, _)| *found == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const GENERAL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

    #[test]
    fn traces_are_off_without_an_endpoint_or_when_switched_off() {
        let on = (GENERAL, "http://127.0.0.1:4317");
        for variables in [
            &[][..],
            &[("OTEL_SERVICE_NAME", "x"), ("OTEL_TRACES_EXPORTER", "otlp")],
            &[on, ("OTEL_SDK_DISABLED", "TRUE")],
            &[on, ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            assert!(endpoint_of(variables).unwrap().is_none(), "{variables:?}");
        }
    }

    #[test]
    fn the_endpoint_of_traces_comes_first() {
        let url = "https://collector.example:4317/";
        let found = endpoint_of(&[(GENERAL, "http://localhost:1"), (TRACES, url)]).unwrap();
        assert_eq!(found.unwrap().as_str(), url);
        for url in ["http://localhost:4317", "http://127.0.0.9:1", "http://[::1]:1", "https://h"] {
            assert!(endpoint_of(&[(GENERAL, url)]).unwrap().is_some(), "{url}");
        }
    }

    #[test]
    fn an_endpoint_that_cannot_be_used_is_named_and_not_repeated() {
        for url in [
            "http://collector.example:4317",
            "http://10.0.0.1:4317",
            "http://localhost.example",
            "127.0.0.1:4317",
            "unix:/run/collector.sock",
            "https://user:secret@collector.example",
            "secret",
        ] {
            let error = endpoint_of(&[(TRACES, url)]).unwrap_err().to_string();
            assert!(error.contains(TRACES) && !error.contains("secret"), "{url}: {error}");
        }
        let other =
            [(GENERAL, "http://localhost:4318"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")];
        let error = endpoint_of(&other).unwrap_err().to_string();
        assert!(error.contains("http/json") && error.contains("OTEL_EXPORTER_OTLP_PROTOCOL"));
    }
}
