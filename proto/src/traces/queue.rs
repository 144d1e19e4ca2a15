//! A bounded queue of spans for the collector, and the thread that sends them.
//!
//! The SDK's batch processor isn't used: it doesn't count dropped spans before its end, panics if it can't start a
//! thread, and needs a second thread for the exporter's connection.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc as blocking};
use std::thread;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter as _, SpanProcessor};
use tokio::sync::mpsc;

use super::{TracesError, past};

/// The most queued spans, of about 1 KiB each; further ones are dropped.
const MAX_WAITING: usize = 2048;
/// The most spans that are sent at once.
const BATCH: usize = 512;
/// How long a span waits to be sent together with others.
const DELAY: Duration = Duration::from_secs(1);
/// How long a flush waits if no limit is given.
const FLUSH: Duration = Duration::from_secs(1);

/// The sending side of the queue.
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    flushes: mpsc::UnboundedSender<Flushed>,
    lost: Arc<AtomicU64>,
}

/// Notified when all queued spans have been sent.
type Flushed = blocking::SyncSender<()>;

impl Queue {
    /// Starts a queue with the exporter that `exporter` makes. It is called within the runtime in which the exporter
    /// runs.
    pub(super) fn start(
        exporter: impl FnOnce() -> Result<SpanExporter, ExporterBuildError>,
        resource: &Resource,
        collector: String,
    ) -> Result<Self, TracesError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut exporter = {
            let _entered = runtime.enter();
            exporter()?
        };
        exporter.set_resource(resource);
        let (spans, waiting) = mpsc::channel(MAX_WAITING);
        let (flushes, asked) = mpsc::unbounded_channel();
        let lost = Arc::new(AtomicU64::new(0));
        let sending = Sending { exporter, collector, lost: Arc::clone(&lost), is_failing: false };
        let run = move || runtime.block_on(sending.run(waiting, asked));
        thread::Builder::new().name("traces".to_owned()).spawn(run)?;
        Ok(Self { spans, flushes, lost })
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        let is_sampled = span.span_context.is_sampled();
        if is_sampled && self.spans.try_send(past::moved(span)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.shutdown_with_timeout(FLUSH)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        let (flushed, wait) = blocking::sync_channel(1);
        // It fails if the thread is gone; then the wait fails, too.
        let _ = self.flushes.send(flushed);
        let sent = wait.recv_timeout(timeout);
        let lost = self.lost.load(Ordering::Relaxed);
        if sent.is_err() {
            tracing::warn!(lost, "the last spans weren't exported in time");
        } else if lost > 0 {
            tracing::warn!(lost, "spans were dropped");
        }
        sent.map_err(|_| OTelSdkError::Timeout(timeout))
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Queue")
    }
}

/// The receiving side of the queue.
struct Sending {
    exporter: SpanExporter,
    collector: String,
    lost: Arc<AtomicU64>,
    is_failing: bool,
}

impl Sending {
    async fn run(
        mut self,
        mut waiting: mpsc::Receiver<SpanData>,
        mut asked: mpsc::UnboundedReceiver<Flushed>,
    ) {
        let mut batch = Vec::new();
        loop {
            let flushed = tokio::select! {
                biased;
                flushed = asked.recv() => match flushed {
                    Some(flushed) => Some(flushed),
                    None => return,
                },
                () = gather(&mut waiting, &mut batch) => None,
            };
            loop {
                while batch.len() < BATCH
                    && let Ok(span) = waiting.try_recv()
                {
                    batch.push(span);
                }
                if batch.is_empty() {
                    break;
                }
                self.send(std::mem::take(&mut batch)).await;
            }
            if let Some(flushed) = flushed {
                // If the limit has passed, no caller waits any more.
                let _ = flushed.send(());
            }
        }
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        // The export has its own limit (OTEL_EXPORTER_OTLP_TIMEOUT), within which it retries.
        let failed = self.exporter.export(batch).await.err();
        let was_failing = std::mem::replace(&mut self.is_failing, failed.is_some());
        let collector = self.collector.as_str();
        match failed {
            Some(error) => {
                let lost = self.lost.fetch_add(count, Ordering::Relaxed) + count;
                // Logged once for each outage, because there may be a batch each second.
                if !was_failing {
                    tracing::warn!(collector, lost, %error, "the collector doesn't accept traces");
                }
            }
            None if was_failing => {
                let lost = self.lost.load(Ordering::Relaxed);
                tracing::warn!(collector, lost, "the collector accepts traces again");
            }
            None => {}
        }
    }
}

/// Waits for a span, and then briefly for others. Cancel-safe: received spans are in `batch`.
async fn gather(waiting: &mut mpsc::Receiver<SpanData>, batch: &mut Vec<SpanData>) {
    if batch.is_empty() {
        match waiting.recv().await {
            Some(span) => batch.push(span),
            // The process ends, and requests a flush.
            None => std::future::pending().await,
        }
    }
    let others = async {
        while batch.len() < BATCH
            && let Some(span) = waiting.recv().await
        {
            batch.push(span);
        }
    };
    let _ = tokio::time::timeout(DELAY, others).await;
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use opentelemetry::trace::{Tracer as _, TracerProvider as _};
    use opentelemetry_otlp::WithExportConfig as _;
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    /// The attack: a collector that accepts connections and never answers.
    #[test]
    fn spans_beyond_the_queue_are_dropped_and_counted() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", silent.local_addr().unwrap());
        let exporter = || SpanExporter::builder().with_tonic().with_endpoint(&endpoint).build();
        let resource = Resource::builder_empty().build();
        let queue = Queue::start(exporter, &resource, endpoint.clone()).unwrap();
        let lost = Arc::clone(&queue.lost);
        let provider = SdkTracerProvider::builder().with_span_processor(queue).build();
        let tracer = provider.tracer("test");
        let more = 1000;
        // In addition to the queue, the thread holds one batch.
        for _ in 0..MAX_WAITING + BATCH + more {
            drop(tracer.start("span"));
        }
        let dropped = lost.load(Ordering::Relaxed);
        let (least, most) = (more as u64, (more + BATCH) as u64);
        assert!((least..=most).contains(&dropped), "{dropped}");
        let begun = Instant::now();
        provider.shutdown_with_timeout(Duration::from_millis(50)).unwrap_err();
        // An export gives up after ten seconds.
        assert!(begun.elapsed() < Duration::from_secs(5), "the end waited");
    }
}
