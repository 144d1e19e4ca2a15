//! The one place that reads the wall clock. Everything below the edges gets the time as an argument,
//! so that expiry and midnight are tested without waiting for them.

use std::time::SystemTime;

/// The time now.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this is the edge")]
pub fn now() -> SystemTime {
    SystemTime::now()
}
