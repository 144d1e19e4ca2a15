//! `pace` of an endpoint: the limits of a quota that all callers share.
//!
//! Useless numbers are errors: a rate of zero, or a wait longer than any caller waits.

use std::time::Duration;

use super::reader::Table;

/// The default timeout of a waiting signature: as long as most servers' tools take.
const WAIT: Duration = Duration::from_secs(60);
const RATES: std::ops::RangeInclusive<f64> = 0.01..=1_000_000.0;
const BURSTS: std::ops::Range<u32> = 1..1_000_001;
/// No more than the calls that all callers together may have in progress at the broker.
const PLACES: std::ops::Range<u32> = 1..2049;

/// The pace of an endpoint's signatures, for all callers together, for each account.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// The rate and the burst.
    pub rate: Option<PaceRate>,
    /// The most requests that may be in flight.
    pub in_flight: Option<u32>,
    /// The timeout of a signature that waits for its turn.
    pub wait: Duration,
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PaceRate {
    /// Tokens per second.
    pub per_second: f64,
    /// The bucket's size, at least one.
    pub burst: f64,
}

/// Parses `pace` of an endpoint's table.
pub(super) fn pace(table: Table<'_>) -> Option<Pace> {
    let per_second = table.decimal("per_second", RATES).map(|number| number.value);
    let burst = table.number("burst", BURSTS).map(|number| f64::from(number.value));
    if table.has("burst") && !table.has("per_second") {
        table.fault("burst", "needs per_second: it is how many may be signed at once");
    }
    let in_flight = table.number("in_flight", PLACES).map(|number| number.value);
    if !table.has("per_second") && !table.has("in_flight") {
        table.missing(
            "per_second",
            "is missing: give per_second, in_flight or both; without pace the broker adapts to the server by itself",
        );
    }
    let wait = table.text("wait").and_then(|text| text.parse(wait)).map(|wait| wait.value);
    table.done();
    let rate = per_second.map(|per_second| PaceRate {
        per_second,
        burst: burst.unwrap_or_else(|| per_second.ceil()).max(1.0),
    });
    Some(Pace { rate, in_flight, wait: wait.unwrap_or(WAIT) })
        .filter(|pace| pace.rate.is_some() || pace.in_flight.is_some())
}

/// Parses times like `"20s"`, `"500ms"` or `"2m"`, up to five minutes, the usual timeout of a tool
/// call.
fn wait(text: &str) -> Result<Duration, String> {
    let unit = |suffix, milliseconds: u64| {
        let number: u64 = text.strip_suffix(suffix)?.parse().ok()?;
        number.checked_mul(milliseconds)
    };
    unit("ms", 1)
        .or_else(|| unit("s", 1000))
        .or_else(|| unit("m", 60_000))
        .filter(|milliseconds| (1..=300_000).contains(milliseconds))
        .map(Duration::from_millis)
        .ok_or_else(|| "must be a time from \"1ms\" to \"5m\", as in \"20s\"".to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, parse};
    use crate::error::Faults;

    fn config(pace: &str) -> Result<Config, Faults> {
        let text = format!(
            "[[endpoint]]\nname = \"e\"\nurl = \"https://aws-mcp.us-east-1.api.aws/mcp\"\npace = {pace}\n\
             [[profile]]\nname = \"p\"\nendpoints = [\"e\"]\n"
        );
        parse(&text, Path::new("broker.toml"), 1000)
    }

    fn pace(text: &str) -> Pace {
        config(text).expect("a configuration").paces["e"]
    }

    #[test]
    fn a_pace_is_parsed() {
        let all = pace("{ per_second = 3, burst = 6, in_flight = 20, wait = \"20s\" }");
        let rate = PaceRate { per_second: 3.0, burst: 6.0 };
        let wait = Duration::from_secs(20);
        assert_eq!(all, Pace { rate: Some(rate), in_flight: Some(20), wait });
        let rate = pace("{ per_second = 2.5 }");
        assert_eq!(rate.rate, Some(PaceRate { per_second: 2.5, burst: 3.0 }));
        assert_eq!((rate.in_flight, rate.wait), (None, WAIT));
        let slow = pace("{ per_second = 0.1, wait = \"5m\" }").rate;
        assert_eq!(slow, Some(PaceRate { per_second: 0.1, burst: 1.0 }));
        let places = pace("{ in_flight = 1, wait = \"250ms\" }");
        assert_eq!((places.rate, places.in_flight), (None, Some(1)));
        assert_eq!(places.wait, Duration::from_millis(250));
    }

    #[test]
    fn useless_values_are_errors_with_key_and_line() {
        for (text, key) in [
            ("{}", "per_second"),
            ("{ wait = \"1s\" }", "per_second"),
            ("{ burst = 6 }", "burst"),
            ("{ per_second = 0 }", "per_second"),
            ("{ per_second = -3 }", "per_second"),
            ("{ per_second = 0.0 }", "per_second"),
            ("{ per_second = nan }", "per_second"),
            ("{ per_second = inf }", "per_second"),
            ("{ per_second = \"3\" }", "per_second"),
            ("{ per_second = 3, burst = 0 }", "burst"),
            ("{ per_second = 3, burst = -1 }", "burst"),
            ("{ per_second = 3, burst = 1.5 }", "burst"),
            ("{ per_second = 3, in_flight = 0 }", "in_flight"),
            ("{ per_second = 3, in_flight = -1 }", "in_flight"),
            ("{ in_flight = 100000 }", "in_flight"),
            ("{ per_second = 3, wait = 20 }", "wait"),
            ("{ per_second = 3, wait = \"0s\" }", "wait"),
            ("{ per_second = 3, wait = \"-1s\" }", "wait"),
            ("{ per_second = 3, wait = \"1h\" }", "wait"),
            ("{ per_second = 3, wait = \"soon\" }", "wait"),
            ("{ per_second = 3, per_minute = 3 }", "per_minute"),
        ] {
            let faults = config(text).expect_err(text).to_string();
            assert!(faults.contains(&format!("pace.{key}")), "{text}: {faults}");
            assert!(faults.contains("broker.toml:4"), "{text}: {faults}");
        }
        // Not a table at all.
        assert!(config("3").expect_err("a number").to_string().contains("must be a table"));
    }

    #[test]
    fn all_errors_are_reported_at_once() {
        let text = "{ per_second = 0, burst = 0, in_flight = 0, wait = \"0s\", other = 1 }";
        let faults = config(text).expect_err("errors").to_string();
        for key in ["per_second", "burst", "in_flight", "wait", "other"] {
            assert!(faults.contains(&format!("pace.{key}")), "{key}: {faults}");
        }
    }
}
