//! Times as texts, UTC.

use std::time::SystemTime;

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

/// A time as `2026-11-23 22:48:07`, UTC, with the given text between day and time.
#[must_use]
pub fn timestamp(time: SystemTime, between: &str) -> String {
    let time = DateTime::from_secs(DateTime::from(time).secs());
    let text = time.fmt(Format::DateTime).unwrap_or_default();
    text.trim_end_matches('Z').replace('T', between)
}

/// A time as `2026-11-23T22:48:07.123Z`, for records.
#[must_use]
pub fn timestamp_millis(time: SystemTime) -> String {
    let millis = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_millis();
    format!("{}.{millis:03}Z", timestamp(time, "T"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_utc_and_whole_seconds() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_474_087_999);
        assert_eq!(timestamp(time, " "), "2026-11-23 22:48:07");
        assert_eq!(timestamp(time, "T"), "2026-11-23T22:48:07");
        assert_eq!(timestamp_millis(time), "2026-11-23T22:48:07.999Z");
    }
}
