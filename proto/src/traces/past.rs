//! Phases that are over before it is known whose they are: a request is received, and has a name only then.
//!
//! A span begins when it is made. One of these has its age as an attribute, which moves its times before it is exported,
//! and isn't exported itself.

use std::time::{Duration, Instant};

use opentelemetry::Value;
use opentelemetry_sdk::trace::SpanData;

use super::is_on;

/// The attribute of a span that began so many nanoseconds before it was made.
pub const AGO: &str = "sigward.ago_ns";
/// The attribute of one that was over after so many nanoseconds.
const TOOK: &str = "sigward.took_ns";

/// When something began; nothing where traces are off: then no clock is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Since(Option<Instant>);

impl Since {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self(is_on().then(Instant::now))
    }

    /// How long ago that is, in nanoseconds: a value of [`AGO`].
    #[must_use]
    pub fn ago(self) -> Option<i64> {
        self.0.map(|begun| i64::try_from(begun.elapsed().as_nanos()).unwrap_or(i64::MAX))
    }
}

/// Moves the times of a span to when it was.
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
