//! An OpenTelemetry collector that stores the spans that it gets over gRPC, or one that never answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::deadline;
use crate::workloads::Issued;

/// A span as it was exported.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The `service.name` of its process.
    pub service: String,
    /// The span's name.
    pub name: String,
    /// The trace that it is part of, in hexadecimal digits.
    pub trace: String,
    /// The span's id.
    pub id: String,
    /// The id of its parent; empty, if it has none.
    pub parent: String,
    /// The kind, for example client or server.
    pub kind: SpanKind,
    /// When it began and ended, in nanoseconds since 1970.
    pub times: (u64, u64),
    /// Whether its status is an error.
    pub is_error: bool,
    /// Its attributes, as strings.
    pub attributes: BTreeMap<String, String>,
}

impl Exported {
    /// The value of an attribute; empty if there is none.
    #[must_use]
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    scheme: &'static str,
    kept: Arc<Kept>,
    serving: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Kept {
    answers: bool,
    requests: Mutex<Vec<ExportTraceServiceRequest>>,
    tokens: Mutex<BTreeSet<String>>,
    count: watch::Sender<usize>,
}

impl Collector {
    /// A collector that accepts all spans.
    ///
    /// # Panics
    /// If it can't listen.
    pub async fn start() -> Self {
        Self::with(Kept { answers: true, ..Kept::default() }, None).await
    }

    /// The same over TLS, only for clients of `authority` (PEM).
    ///
    /// # Panics
    /// If it can't listen.
    pub async fn over_tls(issued: &Issued, authority: &str) -> Self {
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(&issued.cert, &issued.key));
        let tls = tls.client_ca_root(Certificate::from_pem(authority));
        Self::with(Kept { answers: true, ..Kept::default() }, Some(tls)).await
    }

    /// A collector that reads each request and never answers.
    ///
    /// # Panics
    /// If it can't listen.
    pub async fn silent() -> Self {
        Self::with(Kept::default(), None).await
    }

    async fn with(kept: Kept, tls: Option<ServerTlsConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let kept = Arc::new(kept);
        let service = TraceServiceServer::new(Service(Arc::clone(&kept)));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut server = match tls {
            Some(tls) => Server::builder().tls_config(tls).expect("TLS"),
            None => Server::builder(),
        };
        let server = server.add_service(service);
        let serving = tokio::spawn(async move {
            server.serve_with_incoming(TcpIncoming::from(listener)).await.expect("it serves");
        });
        Self { address, scheme, kept, serving }
    }

    /// The value of `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        // The certificate is for this name.
        format!("{}://localhost:{}", self.scheme, self.address.port())
    }

    /// Waits until `count` requests have arrived.
    pub async fn requests(&self, count: usize) {
        let mut counted = self.kept.count.subscribe();
        let waiting = counted.wait_for(|got| *got >= count);
        deadline::within(waiting, || format!("no {count} exports")).await.expect("it is counted");
    }

    /// The values of `authorization` that were sent with spans.
    #[must_use]
    pub fn tokens(&self) -> BTreeSet<String> {
        self.kept.tokens.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All received bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let requests = self.kept.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.iter().flat_map(Message::encode_to_vec).collect()
    }

    /// All received spans.
    #[must_use]
    pub fn spans(&self) -> Vec<Exported> {
        let requests = self.kept.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spans = Vec::new();
        for of_process in requests.iter().flat_map(|request| &request.resource_spans) {
            let resource = of_process.resource.iter().flat_map(|resource| &resource.attributes);
            let resource = texts(resource);
            let service = resource.get("service.name").cloned().unwrap_or_default();
            for span in of_process.scope_spans.iter().flat_map(|scope| &scope.spans) {
                assert!(span.events.is_empty(), "lines of the log aren't exported: {span:?}");
                let status = span.status.clone().unwrap_or_default();
                spans.push(Exported {
                    service: service.clone(),
                    name: span.name.clone(),
                    trace: hex::encode(&span.trace_id),
                    id: hex::encode(&span.span_id),
                    parent: hex::encode(&span.parent_span_id),
                    kind: span.kind(),
                    times: (span.start_time_unix_nano, span.end_time_unix_nano),
                    is_error: status.code() == StatusCode::Error,
                    attributes: texts(&span.attributes),
                });
            }
        }
        spans
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Service(Arc<Kept>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let kept = &self.0;
        if let Some(token) = request.metadata().get("authorization") {
            let token = token.to_str().expect("a text").to_owned();
            kept.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(token);
        }
        let requests = &kept.requests;
        requests.lock().unwrap_or_else(PoisonError::into_inner).push(request.into_inner());
        kept.count.send_modify(|count| *count += 1);
        if !kept.answers {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn texts<'a>(attributes: impl IntoIterator<Item = &'a KeyValue>) -> BTreeMap<String, String> {
    let attributes = attributes.into_iter();
    attributes
        .map(|it| (it.key.clone(), it.value.as_ref().map_or_else(String::new, text)))
        .collect()
}

fn text(value: &AnyValue) -> String {
    match &value.value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}
