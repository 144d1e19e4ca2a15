//! TLS: the handshakes of callers, and the broker's own files.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The outcome of a TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// The handshake is complete.
    Done,
    /// The certificate isn't valid, or the protocol isn't supported.
    Refused,
    /// The handshake timed out.
    Late,
    /// There were too many, and it was the oldest.
    MadeRoom,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    outcome: &'static str,
}

/// The handshakes by outcome, and the state of the files.
#[derive(Debug)]
pub(super) struct Tls {
    handshakes: Family<Label, Counter>,
    rejected: Gauge,
    /// One series if TLS is served.
    expiry: Family<Vec<(&'static str, &'static str)>, Gauge>,
}

impl Tls {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let handshakes = Family::default();
        let help = "TLS handshakes by outcome: done, refused, late, or made_room for others";
        registry.register("tls_handshakes", help, handshakes.clone());
        let rejected = Gauge::default();
        let help = "1 while the TLS files have errors and the previous ones are in effect";
        registry.register("tls_files_rejected", help, rejected.clone());
        let expiry = Family::default();
        let help = "Expiry of the broker's own certificate, as a Unix timestamp in seconds";
        registry.register("tls_certificate_expiry_timestamp_seconds", help, expiry.clone());
        Self { handshakes, rejected, expiry }
    }

    /// Counts a handshake.
    pub(super) fn handshake_ended(&self, outcome: Handshake) {
        let outcome = match outcome {
            Handshake::Done => "done",
            Handshake::Refused => "refused",
            Handshake::Late => "late",
            Handshake::MadeRoom => "made_room",
        };
        self.handshakes.get_or_create(&Label { outcome }).inc();
    }

    /// Records the expiry of the certificate, or that new files have errors.
    pub(super) fn files(&self, expiry: Option<SystemTime>) {
        self.rejected.set(i64::from(expiry.is_none()));
        if let Some(expiry) = expiry {
            let seconds = expiry.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            self.expiry.get_or_create(&Vec::new()).set(seconds.try_into().unwrap_or(i64::MAX));
        }
    }
}
