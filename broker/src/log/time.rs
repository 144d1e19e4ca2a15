//! UTC times as text.

use std::time::SystemTime;

/// A time like `2026-11-23 22:48:07`, in UTC, with the given text between date and time.
#[must_use]
pub fn timestamp(time: SystemTime, between: &str) -> String {
    let [year, month, day, hour, minute, second] = civil(time);
    let mut text = String::with_capacity(24);
    for (number, width, after) in
        [(year, 4, "-"), (month, 2, "-"), (day, 2, between), (hour, 2, ":"), (minute, 2, ":")]
    {
        digits(&mut text, number, width);
        text.push_str(after);
    }
    digits(&mut text, second, 2);
    text
}

/// A time like `2026-11-23T22:48:07.123Z`, for records.
#[must_use]
pub fn timestamp_millis(time: SystemTime) -> String {
    let millis = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_millis();
    let mut text = timestamp(time, "T");
    text.push('.');
    digits(&mut text, millis.into(), 3);
    text.push('Z');
    text
}

/// A time like `20261123T224807Z`, for signatures.
#[must_use]
pub fn timestamp_compact(time: SystemTime) -> String {
    let [year, month, day, hour, minute, second] = civil(time);
    let mut text = String::with_capacity(16);
    digits(&mut text, year, 4);
    digits(&mut text, month, 2);
    digits(&mut text, day, 2);
    text.push('T');
    digits(&mut text, hour, 2);
    digits(&mut text, minute, 2);
    digits(&mut text, second, 2);
    text.push('Z');
    text
}

/// Year, month, day, hour, minute and second. The calculation uses years that begin in March, so
/// that a leap day is the last day of a year (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms").
fn civil(time: SystemTime) -> [u64; 6] {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, of_day) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    [year, month, day, of_day / 3600, of_day / 60 % 60, of_day % 60]
}

/// The last `width` digits of a number.
fn digits(text: &mut String, number: u64, width: u32) {
    for place in (0..width).rev() {
        let digit = number / 10_u64.pow(place) % 10;
        // Less than ten.
        text.push(char::from(b'0' + digit as u8));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_smithy_types::DateTime;
    use aws_smithy_types::date_time::Format;

    use super::*;

    #[test]
    fn times_are_in_utc_and_whole_seconds() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_474_087_999);
        assert_eq!(timestamp(time, " "), "2026-11-23 22:48:07");
        assert_eq!(timestamp(time, "T"), "2026-11-23T22:48:07");
        assert_eq!(timestamp_millis(time), "2026-11-23T22:48:07.999Z");
        assert_eq!(timestamp_compact(time), "20261123T224807Z");
    }

    /// Each day of four centuries, at different seconds, compared with the SDK's calendar.
    #[test]
    fn the_calendar_agrees_with_the_sdk() {
        for day in 0..400 * 366 {
            let seconds = day * 86_400 + (day * 7919) % 86_400;
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let text = DateTime::from(time).fmt(Format::DateTime).expect("a time");
            assert_eq!(format!("{}Z", timestamp(time, "T")), text);
            let compact: String = text.chars().filter(|c| !"-:".contains(*c)).collect();
            assert_eq!(timestamp_compact(time), compact);
        }
    }
}
