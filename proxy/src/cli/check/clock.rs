//! Compares two clocks: the broker's, from its signatures, and the server's, from its answers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use http::header::DATE;

/// The difference that AWS accepts between the time of a signature and its own, in seconds.
const ALLOWED: u64 = 300;
/// The smallest difference that is reported: `Date` has whole seconds, and an answer takes some
/// time.
const NOTICED: u64 = 30;

/// How far the broker's clock is ahead of the server's, in seconds; negative if it is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Skew(i64);

/// The assessment of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    /// It may grow, and then become too large.
    Noticed,
    /// AWS refuses signatures.
    TooMuch,
}

impl Skew {
    /// Computed from a signature, an answer, and the time between them.
    pub(super) fn of(signature: &HeaderMap, between: Duration, answer: &HeaderMap) -> Option<Self> {
        let signed = signature_time(signature.get("x-amz-date")?.to_str().ok()?)?;
        let answered = httpdate::parse_http_date(answer.get(DATE)?.to_str().ok()?).ok()?;
        let here = signed.checked_add(between)?;
        let seconds = |time: Duration| i64::try_from(time.as_secs()).ok();
        Some(Self(match here.duration_since(answered) {
            Ok(ahead) => seconds(ahead)?,
            Err(behind) => -seconds(behind.duration())?,
        }))
    }

    pub(super) fn verdict(self) -> Verdict {
        match self.0.unsigned_abs() {
            it if it >= ALLOWED => Verdict::TooMuch,
            it if it >= NOTICED => Verdict::Noticed,
            _ => Verdict::Good,
        }
    }

    /// As a part of a sentence.
    pub(super) fn shown(self) -> String {
        let Self(seconds) = self;
        match self.verdict() {
            Verdict::Good => format!("within {NOTICED} s of the server's"),
            Verdict::Noticed | Verdict::TooMuch => {
                let side = if seconds > 0 { "ahead of" } else { "behind" };
                format!(
                    "the clock of the broker's machine is {} s {side} the server's; AWS allows {ALLOWED} s",
                    seconds.unsigned_abs()
                )
            }
        }
    }
}

/// What to do about a wrong clock.
pub(super) const SET_IT: &str = "set the clock of the broker's machine (`timedatectl` shows whether it is \
                                 synchronised), then repeat this";

/// The time in `X-Amz-Date`: `20261125T120000Z`.
fn signature_time(text: &str) -> Option<SystemTime> {
    let digits = text.strip_suffix('Z')?.split_once('T')?;
    let (date, time) = match digits {
        (date, time) if date.len() == 8 && time.len() == 6 => (date, time),
        _ => return None,
    };
    let number =
        |text: &str| text.bytes().all(|it| it.is_ascii_digit()).then(|| text.parse().ok())?;
    let (year, month, day): (u64, u64, u64) =
        (number(date.get(..4)?)?, number(date.get(4..6)?)?, number(date.get(6..)?)?);
    let (hour, minute, second): (u64, u64, u64) =
        (number(time.get(..2)?)?, number(time.get(2..4)?)?, number(time.get(4..)?)?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days since 1970, counted in years that begin in March, so that a leap day is the last day of
    // a year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap = year / 4 - year / 100 + year / 400;
    let days = year * 365 + leap + (month * 153 + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_time_of_a_signature_is_read() {
        for (text, seconds) in [
            ("19700101T000000Z", Some(0)),
            ("20000229T235959Z", Some(951_868_799)),
            ("20261125T120000Z", Some(1_795_608_000)),
            ("2026-11-25T12:00:00Z", None),
            ("20261125T120000", None),
            ("20261325T120000Z", None),
            ("2026112éT12000Z", None),
        ] {
            let expected = seconds.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(signature_time(text), expected, "{text}");
        }
    }

    #[test]
    fn the_skew_is_between_signature_and_answer() {
        let skew = |signed: &'static str, between, answered: &'static str| {
            let (mut signature, mut answer) = (HeaderMap::new(), HeaderMap::new());
            signature.insert("x-amz-date", HeaderValue::from_static(signed));
            answer.insert(DATE, HeaderValue::from_static(answered));
            Skew::of(&signature, Duration::from_secs(between), &answer)
        };
        let noon = "Wed, 25 Nov 2026 12:00:00 GMT";
        assert_eq!(skew("20261125T120000Z", 0, noon), Some(Skew(0)));
        assert_eq!(skew("20261125T115900Z", 60, noon), Some(Skew(0)), "a slow answer is no skew");
        assert_eq!(skew("20261125T130000Z", 0, noon), Some(Skew(3600)));
        assert_eq!(skew("20261125T115800Z", 0, noon), Some(Skew(-120)));
        assert_eq!(skew("x", 0, noon), None);
        assert_eq!(skew("20261125T120000Z", 0, "yesterday"), None);
        assert_eq!(Skew(29).verdict(), Verdict::Good);
        assert_eq!(Skew(-30).verdict(), Verdict::Noticed);
        assert_eq!(Skew(-300).verdict(), Verdict::TooMuch);
        assert!(Skew(-300).shown().contains("300 s behind"));
    }
}
