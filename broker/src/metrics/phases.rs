//! How long calls for a signature were in each phase.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// A phase of the life of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The head is checked, and the body read.
    Parse,
    /// The rules decide.
    Authorize,
    /// Credentials are there, or are waited for.
    Resolve,
    /// It has its turn, or waits for it.
    Turn,
    /// They sign.
    Sign,
    /// The record is written.
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

/// One series for each phase, found without a lock.
#[derive(Debug)]
pub(super) struct Phases([Histogram; Phase::ALL.len()]);

impl Phases {
    pub(super) fn register(registry: &mut Registry) -> Self {
        // From 10 µs to 42 s: a signature takes microseconds, and may wait for a load.
        let times = || Histogram::new(exponential_buckets(1e-5, 4.0, 12));
        let family = Family::<Label, Histogram>::new_with_constructor(times);
        let help = "Time that calls for signatures spent in a phase that they got through";
        registry.register_with_unit("phase_duration", help, Unit::Seconds, family.clone());
        let of = |phase: Phase| family.get_or_create_owned(&Label { phase: phase.name() });
        Self(Phase::ALL.map(of))
    }

    /// Counts how long a call was in a phase.
    pub(super) fn passed(&self, phase: Phase, took: Duration) {
        self.0[phase as usize].observe(took.as_secs_f64());
    }
}
