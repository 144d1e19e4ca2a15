//! Parses points in time like Python's `dateutil`, with which botocore parses the `Expiration` of a
//! `credential_process` and of a container endpoint.
//!
//! Invariant: an incomplete point in time is refused. Without a zone, the time could be off by up
//! to 26 hours.

use std::time::{Duration, SystemTime};

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// Parses ISO 8601 (RFC 3339, the basic format, a space in place of the `T`), RFC 2822 and HTTP
/// dates, and the output of `date`. Returns `None` for another form, or for a time before 1970.
pub(super) fn parse(text: &str) -> Option<SystemTime> {
    let text = text.trim();
    let (date, time) = date_first(text).or_else(|| by_month_name(text))?;
    let mut time = Cursor(time);
    let (hours, minutes, seconds, fraction) = time.clock()?;
    let offset = time.zone()?;
    if !time.0.is_empty() {
        return None;
    }
    let seconds = date.days()? * 86_400 + hours * 3600 + minutes * 60 + seconds - offset;
    let since = Duration::from_secs(u64::try_from(seconds).ok()?) + fraction;
    SystemTime::UNIX_EPOCH.checked_add(since)
}

#[derive(Clone, Copy)]
struct Date {
    year: i64,
    month: i64,
    day: i64,
}

impl Date {
    /// The days since 1970-01-01, in the Gregorian calendar.
    fn days(self) -> Option<i64> {
        let Self { year, month, day } = self;
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return None,
        };
        if !(1..=length).contains(&day) || !(1970..=9999).contains(&year) {
            return None;
        }
        // Years from March on: the leap day is the last day of a year.
        let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let day_of_year = (153 * month + 2) / 5 + day - 1;
        Some(365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468)
    }
}

/// Dates like `2099-01-01T…`, `2099/01/01 …` and `20990101T…`.
fn date_first(text: &str) -> Option<(Date, &str)> {
    let mut cursor = Cursor(text);
    let year = cursor.number(4)?;
    let separator = cursor.one_of(&["-", "/"]);
    let month = cursor.number(2)?;
    if let Some(separator) = separator {
        cursor.one_of(&[separator])?;
    }
    let day = cursor.number(2)?;
    cursor.one_of(&["T", "t", " "])?;
    Some((Date { year, month, day }, cursor.0.trim_start()))
}

/// Dates like `Thu, 01 Jan 2099 …`, `1 Jan 2099 …` and `Thu Jan  1 00:00:00 UTC 2099`.
fn by_month_name(text: &str) -> Option<(Date, &str)> {
    let is_day = |word: &str| {
        let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
        days.iter().any(|day| word.eq_ignore_ascii_case(day))
    };
    let rest = match text.split_once([',', ' ']) {
        Some((word, rest)) if is_day(word) => rest.trim_start(),
        _ => text,
    };
    let (first, rest) = rest.split_once(' ')?;
    let (second, rest) = rest.trim_start().split_once(' ')?;
    let rest = rest.trim_start();
    let month = |word: &str| {
        let found = MONTHS.iter().position(|month| word.eq_ignore_ascii_case(month))?;
        i64::try_from(found + 1).ok()
    };
    if let Some(month) = month(second) {
        let (year, rest) = rest.split_once(' ')?;
        let date = Date { year: digits(year, 4..=4)?, month, day: digits(first, 1..=2)? };
        return Some((date, rest.trim_start()));
    }
    // The year is at the end.
    let (time, year) = rest.rsplit_once(' ')?;
    let date =
        Date { year: digits(year, 4..=4)?, month: month(first)?, day: digits(second, 1..=2)? };
    Some((date, time))
}

fn digits(text: &str, length: std::ops::RangeInclusive<usize>) -> Option<i64> {
    let is_number = length.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// The rest of the text.
struct Cursor<'t>(&'t str);

impl<'t> Cursor<'t> {
    fn number(&mut self, length: usize) -> Option<i64> {
        let (number, rest) = self.0.split_at_checked(length)?;
        let number = digits(number, length..=length)?;
        self.0 = rest;
        Some(number)
    }

    fn one_of(&mut self, texts: &[&'t str]) -> Option<&'t str> {
        let found = texts.iter().find(|text| self.0.starts_with(**text))?;
        self.0 = &self.0[found.len()..];
        Some(found)
    }

    /// Times like `00:00`, `00:00:00`, `00:00:00.000` and `000000`.
    fn clock(&mut self) -> Option<(i64, i64, i64, Duration)> {
        let hours = self.number(2)?;
        let colon = self.one_of(&[":"]);
        let minutes = self.number(2)?;
        let seconds = match (colon, self.one_of(&[":"])) {
            (Some(_), None) => 0,
            (Some(_), Some(_)) | (None, None) => self.number(2)?,
            (None, Some(_)) => return None,
        };
        let mut fraction = Duration::ZERO;
        if self.one_of(&[".", ","]).is_some() {
            let length = self.0.bytes().take_while(u8::is_ascii_digit).count();
            let (decimals, rest) = self.0.split_at(length);
            // Further digits than nanoseconds are ignored.
            let nanos: String = decimals.chars().chain("000000000".chars()).take(9).collect();
            fraction = Duration::from_nanos(u64::try_from(digits(&nanos, 9..=9)?).ok()?);
            (length > 0).then_some(())?;
            self.0 = rest;
        }
        let valid = hours < 24 && minutes < 60 && seconds < 60;
        valid.then_some((hours, minutes, seconds, fraction))
    }

    /// Zones like `Z`, `UTC`, `GMT`, `+00:00`, `+0000`, `+00` and `+5:30`, in seconds east of
    /// Greenwich.
    fn zone(&mut self) -> Option<i64> {
        self.0 = self.0.trim_start();
        if self.one_of(&["Z", "z", "UTC", "GMT"]).is_some() {
            return Some(0);
        }
        let sign = if self.one_of(&["+", "-"])? == "-" { -1 } else { 1 };
        let (hours, minutes) = match self.0.split_once(':') {
            Some((hours, minutes)) => (digits(hours, 1..=2)?, digits(minutes, 2..=2)?),
            None => match self.0.split_at_checked(2)? {
                (hours, "") => (digits(hours, 2..=2)?, 0),
                (hours, minutes) => (digits(hours, 2..=2)?, digits(minutes, 2..=2)?),
            },
        };
        self.0 = "";
        (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_like_dateutil() {
        let new_year = 4_070_908_800;
        // The expected values are those of dateutil 2.9.
        for (text, seconds) in [
            ("2099-01-01T00:00:00Z", new_year),
            ("2099-01-01T00:00:00.000+00:00", new_year),
            ("2099-01-01T00:00:00+0000", new_year),
            ("2099-01-01T00:00:00-0000", new_year),
            ("2099-01-01T00:00:00+00", new_year),
            ("2099-01-01T00:00:00 +00:00", new_year),
            ("2099-01-01T05:30:00+5:30", new_year),
            ("2098-12-31T18:30:00-05:30", new_year),
            ("2099-01-01 00:00:00Z", new_year),
            ("2099/01/01 00:00:00Z", new_year),
            ("2099-01-01t00:00:00z", new_year),
            ("20990101T000000Z", new_year),
            ("2099-01-01T00:00Z", new_year),
            ("2099-01-01T00:00:00UTC", new_year),
            ("2099-01-01T00:00:00 GMT", new_year),
            ("Thu, 01 Jan 2099 00:00:00 GMT", new_year),
            ("1 Jan 2099 00:00:00 +0000", new_year),
            ("Thu Jan  1 00:00:00 UTC 2099", new_year),
            (" 2099-01-01T00:00:00Z ", new_year),
            ("2096-02-29T12:34:56Z", 3_981_357_296),
            ("2000-03-01T00:00:00Z", 951_868_800),
            ("1970-01-01T00:00:00Z", 0),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(parse(text), Some(time), "{text}");
        }
        let parsed = parse("2099-01-01T00:00:00,5Z").expect("a time");
        let since = parsed.duration_since(SystemTime::UNIX_EPOCH).expect("later");
        assert_eq!(since, Duration::from_millis(new_year * 1000 + 500));
    }

    #[test]
    fn incomplete_times_are_refused() {
        for text in [
            "",
            "soon",
            "2099-01-01",
            "2099-01-01T00:00:00",
            "2099-01-01T00:00:00EST",
            "2099-01-01T24:00:00Z",
            "2099-01-01T00:60:00Z",
            "2099-01-01T00:00:60Z",
            "2099-13-01T00:00:00Z",
            "2099-02-29T00:00:00Z",
            "2099-01-01T00:00:00.Z",
            "2099-01-01T00:00:00ZZ",
            "2099-01-01T00:00:00+",
            "2099-01-01T00:00:00+1",
            "2099-01-01T00:00:00+99:00",
            "2099-001T00:00:00Z",
            "4070908800",
            "1969-12-31T23:59:59Z",
            "2099-01/01T00:00:00Z",
            "2099-01-01T0000:00Z",
            "٢099-01-01T00:00:00Z",
            "Thu, 01 Foo 2099 00:00:00 GMT",
            "Thu Jan 1 2099",
            "é",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
