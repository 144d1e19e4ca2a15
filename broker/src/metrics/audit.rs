//! The health of the audit log, filled in for each collector.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::audit::Health;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    sha256: String,
}

/// The head of the chain, and the records that weren't written.
#[derive(Debug)]
pub(super) struct Audit {
    head: Family<Label, Gauge>,
    failures: Gauge,
    queue: Gauge,
    summed_up: Gauge,
}

impl Audit {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let head = Family::default();
        let help = "1 for the SHA-256 of the last line of the audit log: audit verify --head";
        registry.register("audit_head", help, head.clone());
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let help = "Audit records that could not be written, since the start";
        let failures = gauge("audit_failures", help);
        let queue = gauge("audit_queue", "Audit records that wait to be written");
        let help = "Denials that were counted in a summary instead of recorded, since the start";
        let summed_up = gauge("audit_summed_up", help);
        Self { head, failures, queue, summed_up }
    }

    /// Sets the current values.
    pub(super) fn fill_in(&self, health: &Health) {
        self.head.clear();
        self.head.get_or_create(&Label { sha256: health.head.clone() }).set(1);
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.failures.set(gauge(health.failures));
        self.queue.set(gauge(health.queued as u64));
        self.summed_up.set(gauge(health.summed_up));
    }
}
