//! The time that calls for signatures spend in each phase.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// A phase in the life of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Checking the head and reading the body.
    Parse,
    /// Applying the rules.
    Authorize,
    /// Getting the credentials, or waiting for them.
    Resolve,
    /// Getting a turn, or waiting for it.
    Turn,
    /// Signing.
    Sign,
    /// Writing the record.
    Audit,
}

impl Phase {
    const ALL: [Self; 6] =
        [Self::Parse, Self::Authorize, Self::Resolve, Self::Turn, Self::Sign, Self::Audit];

    fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Authorize => "authorize",
            Self::Resolve => "resolve",
            Self::Turn => "turn",
            Self::Sign => "sign",
            Self::Audit => "audit",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    phase: &'static str,
}

/// One series for each phase, accessed without a lock.
#[derive(Debug)]
pub(super) struct Phases([Histogram; Phase::ALL.len()]);

impl Phases {
    pub(super) fn register(registry: &mut Registry) -> Self {
        // From 10 µs to 42 s: a signature takes microseconds, and may wait for a load.
        let times = || Histogram::new(exponential_buckets(1e-5, 4.0, 12));
        let family = Family::<Label, Histogram>::new_with_constructor(times);
        let help = "Time that calls for signatures spent in a completed phase";
        registry.register_with_unit("phase_duration", help, Unit::Seconds, family.clone());
        let of = |phase: Phase| family.get_or_create_owned(&Label { phase: phase.name() });
        Self(Phase::ALL.map(of))
    }

    /// Counts the time of a call in a phase.
    pub(super) fn passed(&self, phase: Phase, took: Duration) {
        self.0[phase as usize].observe(took.as_secs_f64());
    }
}
