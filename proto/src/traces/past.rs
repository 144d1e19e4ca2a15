//! Phases that end before their request is known: a request has a name only after it has been received.
//!
//! A span begins when it is made. These spans have their age as an attribute, which is used to correct their times
//! before the export, and isn't exported itself.

use std::time::{Duration, Instant};

use opentelemetry::Value;
use opentelemetry_sdk::trace::SpanData;

use super::is_on;

/// The attribute of a span that began this many nanoseconds before it was made.
pub const AGO: &str = "sigward.ago_ns";
/// The attribute of a span that ended after this many nanoseconds.
const TOOK: &str = "sigward.took_ns";

/// The time when something began; empty if traces are off, so that the clock isn't read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Since(Option<Instant>);

impl Since {
    /// The current time.
    #[must_use]
    pub fn now() -> Self {
        Self(is_on().then(Instant::now))
    }

    /// The time since then in nanoseconds, as a value of [`AGO`].
    #[must_use]
    pub fn ago(self) -> Option<i64> {
        self.0.map(|begun| i64::try_from(begun.elapsed().as_nanos()).unwrap_or(i64::MAX))
    }
}

/// Corrects the times of a span by its attributes.
pub(super) fn moved(mut span: SpanData) -> SpanData {
    let mut ago = None;
    let mut took = None;
    span.attributes.retain(|attribute| {
        let time = match attribute.key.as_str() {
            AGO => &mut ago,
            TOOK => &mut took,
            _ => return true,
        };
        if let Value::I64(nanoseconds) = attribute.value {
            *time = u64::try_from(nanoseconds).ok().map(Duration::from_nanos);
        }
        false
    });
    if let Some(began) = ago.and_then(|ago| span.start_time.checked_sub(ago)) {
        span.start_time = began;
    }
    if let Some(ended) = took.and_then(|took| span.start_time.checked_add(took)) {
        span.end_time = ended;
    }
    span
}
