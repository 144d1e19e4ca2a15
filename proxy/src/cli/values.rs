//! Parses the values of single options, as argparse or mcp-proxy-for-aws would.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use sigward_proto::headers::is_reserved;

use crate::config::MAX_WAIT;

/// Headers that mcp-proxy-for-aws accepts but doesn't send, because each of its requests has its
/// own.
pub(super) const WITHOUT_EFFECT: [&str; 3] = ["accept", "content-type", "user-agent"];

pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err("must be KEY=VALUE".to_owned()),
    }
}

pub(super) fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = key_value(text).map_err(|_| "must be KEY=VALUE")?;
    let lower = name.to_ascii_lowercase();
    let is_ours = is_reserved(&lower) || lower == "mcp-session-id";
    if is_ours && !WITHOUT_EFFECT.contains(&lower.as_str()) {
        return Err(format!("{name} is set by the proxy or by the signature itself"));
    }
    let name = HeaderName::try_from(lower).map_err(|_| format!("{name:?} isn't a header name"))?;
    let mut value = HeaderValue::try_from(value.trim())
        .map_err(|_| format!("the value of {name} has characters that a header can't hold"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// The pairs with each key once, at its first position, with its last value, like a Python
/// dictionary. Duplicate keys in JSON are ambiguous.
pub(super) fn last_of_each<K: PartialEq, V>(pairs: Vec<(K, V)>) -> Vec<(K, V)> {
    let mut kept: Vec<(K, V)> = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        match kept.iter_mut().find(|(known, _)| *known == key) {
            Some((_, earlier)) => *earlier = value,
            None => kept.push((key, value)),
        }
    }
    kept
}

/// A number of seconds. `inf`, and values that no clock can represent, become [`MAX_WAIT`].
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.trim().parse().map_err(|_| "must be a number of seconds, or inf")?;
    if seconds.is_nan() || seconds.is_sign_negative() && seconds != 0.0 {
        return Err("must be 0 seconds or more".to_owned());
    }
    Ok(Duration::try_from_secs_f64(seconds.abs()).map_or(MAX_WAIT, |wait| wait.min(MAX_WAIT)))
}

pub(super) fn argument(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !text.is_empty() && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("may hold letters, digits, _, - and .".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_bounded_and_never_negative() {
        for (text, expected) in [
            ("0", Duration::ZERO),
            ("-0.0", Duration::ZERO),
            ("1.5", Duration::from_millis(1500)),
            ("1e2", Duration::from_secs(100)),
            ("inf", MAX_WAIT),
            ("Infinity", MAX_WAIT),
            ("1e19", MAX_WAIT),
            ("1e308", MAX_WAIT),
        ] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["-1", "-inf", "nan", "", "soon", "1s", "-1e-9"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        // Two of them can be added to any time of the clock.
        assert!(std::time::Instant::now().checked_add(MAX_WAIT * 2).is_some());
    }

    #[test]
    fn the_last_value_of_a_key_counts() {
        let pairs = vec![("a", 1), ("b", 2), ("a", 3)];
        assert_eq!(last_of_each(pairs), [("a", 3), ("b", 2)]);
    }

    #[test]
    fn headers_of_the_signature_are_refused_in_any_case() {
        for name in ["Host", "DATE", "x-amz-meta", "X-Amz-Date", "Proxy-Authorization", "expect"] {
            assert!(header(&format!("{name}=x")).is_err(), "{name}");
        }
        for name in ["User-Agent", "accept", "Content-Type", "x-team"] {
            assert!(header(&format!("{name}=x")).is_ok(), "{name}");
        }
    }
}
