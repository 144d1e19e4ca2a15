//! SPIFFE ids, and patterns for rules.
//!
//! An id is `spiffe://TRUST_DOMAIN/SEGMENT/…`, as specified by SPIFFE-ID (sections 2.1 to 2.4):
//! <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md>. In a pattern, `*` matches exactly one whole
//! segment of the path; the trust domain is never a pattern.
//!
//! Invariant: neither type contains a text that two readers could understand differently. Other cases,
//! percent-encoding, empty segments, `.` and `..`, a port and a query are refused, not repaired.

use std::fmt;
use std::sync::Arc;

const SCHEME: &str = "spiffe://";
/// The longest id, in bytes (section 2.3).
const MAX_LENGTH: usize = 2048;
/// The longest trust domain, in bytes (section 2.3).
const MAX_TRUST_DOMAIN: usize = 255;
/// Matches any one segment.
const ANY: &str = "*";

/// The SPIFFE id of a workload, which has a path. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(Arc<str>);

/// A pattern for SPIFFE ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpiffePattern(String);

/// Why a text isn't an id or a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(&'static str);

impl SpiffeId {
    /// Checks an id.
    ///
    /// # Errors
    /// It isn't an id, or it has no path: then it is a trust domain, not a workload.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        check(text, is_segment)?;
        Ok(Self(text.into()))
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffePattern {
    /// Checks a pattern: an id in which segments of the path may be `*`.
    ///
    /// # Errors
    /// It isn't a pattern.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.split('/').skip(3).any(|segment| segment != ANY && segment.contains('*')) {
            return Err(Invalid(
                "has a * beside other characters: it stands for one whole segment",
            ));
        }
        check(text, |segment| segment == ANY || is_segment(segment))?;
        Ok(Self(text.to_owned()))
    }

    /// Whether the pattern matches the id.
    #[must_use]
    pub fn matches(&self, id: &SpiffeId) -> bool {
        let (mut patterns, mut segments) = (self.0.split('/'), id.0.split('/'));
        loop {
            match (patterns.next(), segments.next()) {
                (None, None) => return true,
                (Some(pattern), Some(segment)) if pattern == ANY || pattern == segment => {}
                _ => return false,
            }
        }
    }
}

fn check(text: &str, is_segment: impl Fn(&str) -> bool) -> Result<(), Invalid> {
    if text.len() > MAX_LENGTH {
        return Err(Invalid("is longer than 2048 bytes"));
    }
    let rest = text.strip_prefix(SCHEME).ok_or(Invalid("doesn't begin with spiffe://"))?;
    let (trust_domain, path) = rest.split_once('/').unwrap_or((rest, ""));
    let is_name = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    if !(1..=MAX_TRUST_DOMAIN).contains(&trust_domain.len()) || !trust_domain.bytes().all(is_name) {
        return Err(Invalid(
            "has a trust domain of other characters than a-z, 0-9, dots, dashes and underscores",
        ));
    }
    if path.is_empty() {
        return Err(Invalid("has no path: it names a trust domain, and no workload"));
    }
    if !path.split('/').all(is_segment) {
        return Err(Invalid(
            "has a segment that is empty, . or .., or of other characters than letters, digits, \
             dots, dashes and underscores",
        ));
    }
    Ok(())
}

fn is_segment(segment: &str) -> bool {
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    !matches!(segment, "" | "." | "..") && segment.bytes().all(is_plain)
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl SpiffePattern {
    /// Whether both patterns match a common id.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (segments, others) = (self.0.split('/'), other.0.split('/'));
        let both = |(one, other): (&str, &str)| one == ANY || other == ANY || one == other;
        segments.clone().count() == others.clone().count() && segments.zip(others).all(both)
    }
}

impl fmt::Display for SpiffePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, id: &str) -> bool {
        SpiffePattern::parse(pattern).unwrap().matches(&SpiffeId::parse(id).unwrap())
    }

    #[test]
    fn patterns_overlap_if_both_match_one_id() {
        let overlap = |one: &str, other: &str| {
            let (one, other) =
                (SpiffePattern::parse(one).unwrap(), SpiffePattern::parse(other).unwrap());
            assert_eq!(one.overlaps(&other), other.overlaps(&one));
            one.overlaps(&other)
        };
        let agents = "spiffe://example.org/ns/*/sa/agent";
        assert!(overlap(agents, agents));
        assert!(overlap(agents, "spiffe://example.org/ns/prod/sa/agent"));
        assert!(overlap(agents, "spiffe://example.org/ns/prod/sa/*"));
        for other in ["spiffe://example.org/ns/prod/sa/bot", "spiffe://example.org/ns/prod/sa"] {
            assert!(!overlap(agents, other), "{other}");
        }
        assert!(!overlap(agents, "spiffe://example.com/ns/prod/sa/agent"));
    }

    #[test]
    fn a_star_matches_one_segment() {
        let pattern = "spiffe://example.org/ns/*/sa/agent";
        assert!(matches(pattern, "spiffe://example.org/ns/prod/sa/agent"));
        assert!(matches("spiffe://example.org/*", "spiffe://example.org/agent"));
        assert!(matches("spiffe://example.org/agent", "spiffe://example.org/agent"));
        for other in [
            "spiffe://example.org/ns/prod/sa/agent2",
            "spiffe://example.org/ns/prod/sa/Agent",
            "spiffe://example.org/ns/prod/sa",
            "spiffe://example.org/ns/prod/x/sa/agent",
            "spiffe://example.org/ns/prod/sa/agent/x",
            "spiffe://example.org/ns/sa/agent",
            "spiffe://example.com/ns/prod/sa/agent",
            "spiffe://example.org.evil.example/ns/prod/sa/agent",
            "spiffe://evil.example/example.org/ns/prod/sa/agent",
        ] {
            assert!(!matches(pattern, other), "{other}");
        }
        assert!(!matches("spiffe://example.org/*", "spiffe://example.org/a/b"));
    }

    #[test]
    fn an_invalid_id_is_refused_and_not_repaired() {
        assert!(SpiffeId::parse("spiffe://a.b-c_d.1/Seg.ment/_x-1").is_ok());
        let long = format!("spiffe://example.org/{}", "x".repeat(MAX_LENGTH));
        let domain = format!("spiffe://{}/x", "x".repeat(MAX_TRUST_DOMAIN + 1));
        for text in [
            "",
            "example.org/x",
            "spiffe:/example.org/x",
            "SPIFFE://example.org/x",
            "https://example.org/x",
            "spiffe://",
            "spiffe:///x",
            "spiffe://example.org",
            "spiffe://example.org/",
            "spiffe://Example.org/x",
            "spiffe://example.org:443/x",
            "spiffe://me@example.org/x",
            "spiffe://example.org/x/",
            "spiffe://example.org//x",
            "spiffe://example.org/./x",
            "spiffe://example.org/../x",
            "spiffe://example.org/%61",
            "spiffe://example.org/x?y",
            "spiffe://example.org/x#y",
            "spiffe://example.org/ü",
            "spiffe://example.org/x\0",
            "spiffe://example.org/x y",
            "spiffe://example.org/*",
            "spiffe://*/x",
            &long,
            &domain,
        ] {
            assert!(SpiffeId::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_pattern_has_whole_segments_and_one_trust_domain() {
        for text in [
            "spiffe://*/ns/x",
            "spiffe://*.example.org/x",
            "spiffe://example.org/**",
            "spiffe://example.org/a*",
            "spiffe://example.org/*a/b",
            "spiffe://example.org",
            "*",
            "spiffe://example.org/?",
            "spiffe://example.org/[ab]",
            "spiffe://example.org/*/",
        ] {
            assert!(SpiffePattern::parse(text).is_err(), "{text}");
        }
        let why = SpiffePattern::parse("spiffe://example.org/a*").unwrap_err().to_string();
        assert!(why.contains("one whole segment"), "{why}");
    }

    proptest! {
        /// A pattern made from an id matches only that id.
        #[test]
        fn a_pattern_matches_the_id_it_was_made_from(
            domain in "[a-z0-9]{1,8}(\\.[a-z]{2,5})?",
            segments in prop::collection::vec("[A-Za-z0-9_-]{1,6}", 1..6),
            stars in prop::collection::vec(any::<bool>(), 6),
            at in any::<prop::sample::Index>(),
        ) {
            let id = |segments: &[String]| format!("spiffe://{domain}/{}", segments.join("/"));
            let starred: Vec<String> = segments.iter().zip(&stars)
                .map(|(segment, star)| if *star { "*".to_owned() } else { segment.clone() })
                .collect();
            let pattern = SpiffePattern::parse(&id(&starred)).unwrap();
            let is_match = |text: &str| pattern.matches(&SpiffeId::parse(text).unwrap());
            prop_assert!(is_match(&id(&segments)));
            // Another segment matches only at a `*`.
            let at = at.index(segments.len());
            let mut other = segments.clone();
            other[at].push('x');
            prop_assert_eq!(is_match(&id(&other)), stars[at]);
            // It never matches another number of segments, or another trust domain.
            let longer = [segments.as_slice(), &["x".to_owned()]].concat();
            prop_assert!(!is_match(&id(&longer)));
            if segments.len() > 1 {
                prop_assert!(!is_match(&id(&segments[1..])));
            }
            let elsewhere = format!("spiffe://x{domain}/{}", segments.join("/"));
            prop_assert!(!is_match(&elsewhere));
        }

        /// No text causes a panic, and every id is a pattern that matches it.
        #[test]
        fn any_text_is_read_or_refused(text in "(spiffe://)?[a-z./*%?-]{0,40}|.{0,40}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert!(SpiffePattern::parse(&text).unwrap().matches(&id));
            }
        }
    }
}
