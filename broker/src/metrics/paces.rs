//! The paces of the endpoints, filled in for each collector.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::pace::View;

/// A family of series each, by endpoint.
#[derive(Debug)]
pub(super) struct Paces {
    paced: Family<Endpoint, Gauge>,
    rates: Family<Endpoint, Gauge<f64, AtomicU64>>,
    waiting: Family<Endpoint, Gauge>,
    in_flight: Family<Endpoint, Gauge>,
    waits: Family<Endpoint, Counter>,
    throttled: Family<Endpoint, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Endpoint {
    endpoint: String,
}

impl Paces {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let paced = Family::default();
        let help = "1 while the signatures of an endpoint are paced: it has a pace, or its server throttled";
        registry.register("endpoint_paced", help, paced.clone());
        let rates = Family::<Endpoint, Gauge<f64, AtomicU64>>::default();
        let help = "Most signatures per second of a paced endpoint, for its slowest account; 0 for no limit";
        registry.register("endpoint_signatures_per_second", help, rates.clone());
        let waiting = Family::default();
        let help = "Signatures that wait for their turn, by endpoint";
        registry.register("endpoint_waiting", help, waiting.clone());
        let in_flight = Family::default();
        let help = "Requests in flight of an endpoint with in_flight";
        registry.register("endpoint_in_flight", help, in_flight.clone());
        let waits = Family::default();
        let help = "Signatures that had to wait for their turn, by endpoint";
        registry.register("endpoint_waits", help, waits.clone());
        let throttled = Family::default();
        let help = "Requests that the server of an endpoint throttled, as callers reported";
        registry.register("endpoint_throttled", help, throttled.clone());
        Self { paced, rates, waiting, in_flight, waits, throttled }
    }

    /// Sets the current values.
    pub(super) fn fill_in(&self, endpoints: &[(&str, View)]) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (endpoint, view) in endpoints {
            let label = Endpoint { endpoint: (*endpoint).to_owned() };
            self.paced.get_or_create(&label).set(i64::from(view.is_paced));
            self.rates.get_or_create(&label).set(view.per_second.unwrap_or_default());
            self.waiting.get_or_create(&label).set(number(view.waiting));
            self.in_flight.get_or_create(&label).set(i64::from(view.in_flight));
            for (counters, count) in [(&self.waits, view.waited), (&self.throttled, view.throttled)]
            {
                let counter = counters.get_or_create(&label);
                counter.inc_by(count.saturating_sub(counter.get()));
            }
        }
    }

    /// Drops the series of an endpoint that no longer exists.
    pub(super) fn forget(&self, endpoint: &str) {
        let label = Endpoint { endpoint: endpoint.to_owned() };
        for gauges in [&self.paced, &self.waiting, &self.in_flight] {
            gauges.remove(&label);
        }
        self.rates.remove(&label);
        self.waits.remove(&label);
        self.throttled.remove(&label);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    #[test]
    fn an_endpoint_has_series_while_it_exists() {
        let mut registry = Registry::default();
        let paces = Paces::register(&mut registry);
        let shown = || {
            let mut shown = String::new();
            text::encode(&mut shown, &registry).expect("text");
            shown
        };
        let view = View {
            is_paced: true,
            per_second: Some(2.5),
            waiting: 7,
            in_flight: 3,
            throttled: 1,
            waited: 9,
        };
        paces.fill_in(&[("slow", view), ("fast", View::default())]);
        paces.fill_in(&[("slow", View { throttled: 4, ..view })]);
        for line in [
            r#"endpoint_paced{endpoint="slow"} 1"#,
            r#"endpoint_paced{endpoint="fast"} 0"#,
            r#"endpoint_signatures_per_second{endpoint="slow"} 2.5"#,
            r#"endpoint_waiting{endpoint="slow"} 7"#,
            r#"endpoint_in_flight{endpoint="slow"} 3"#,
            r#"endpoint_waits_total{endpoint="slow"} 9"#,
            r#"endpoint_throttled_total{endpoint="slow"} 4"#,
        ] {
            assert!(shown().lines().any(|it| it == line), "{line} is not in\n{}", shown());
        }
        paces.forget("slow");
        let names = |name: &str| shown().contains(&format!("\"{name}\""));
        assert!(!names("slow") && names("fast"), "{}", shown());
    }
}
