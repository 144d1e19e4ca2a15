//! How many signatures may be unanswered while it isn't known whether a server throttles. Pure.
//!
//! The attack on a quota: sixteen agents start at the same moment, with 32 calls each. AWS takes a burst of six, and
//! all of the 512 are signed before its first 429 comes back. So a new endpoint begins with a window, as TCP does
//! (RFC 9293, RFC 5681: slow start): each answer makes room for two more, until [`ENOUGH`] have come.
//!
//! A server that doesn't throttle is slowed down by no more than a few round trips, once, and only by callers who have
//! more than [`WINDOW`] calls unanswered. A call that takes long holds nobody up: throttling is answered at once, so a
//! signature without news for [`LATELY`] counts as answered.

use std::time::Duration;

/// Unanswered signatures at the beginning.
const WINDOW: u32 = 48;
/// The ends of so many at a time aren't asked for: a few agents that call now and then cost no report.
const UNREPORTED: u32 = 16;
/// After so many answers without throttling there is no window any more.
const ENOUGH: u32 = 512;
/// A signature without news for so long counts as answered.
pub(super) const LATELY: Duration = Duration::from_millis(250);

/// The window of one endpoint.
#[derive(Debug, Default)]
pub(super) struct SlowStart {
    answers: u32,
    growth: u32,
}

impl SlowStart {
    /// How many may be unanswered.
    pub(super) fn window(&self) -> u32 {
        WINDOW + self.growth
    }

    /// Whether the end of the next one is worth a report, where so many are unanswered.
    pub(super) fn wants_end(unanswered: u32) -> bool {
        unanswered >= UNREPORTED
    }

    /// One of so many that were unanswered is answered, and wasn't throttled. A window that isn't used shows nothing, and
    /// doesn't grow (RFC 9438, 5.8).
    pub(super) fn on_answered(&mut self, unanswered: u32) {
        self.growth += u32::from(unanswered >= self.window() / 2);
        self.answers += u32::from(unanswered >= UNREPORTED);
    }

    /// Whether the server has shown that it takes many.
    pub(super) fn is_over(&self) -> bool {
        self.answers >= ENOUGH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_doubles_with_each_round_that_fills_it() {
        let mut start = SlowStart::default();
        let mut rounds = 0;
        while !start.is_over() {
            let window = start.window();
            // Each that is answered is followed by two others.
            (0..window).for_each(|_| start.on_answered(start.window()));
            rounds += 1;
            assert_eq!(start.window(), 2 * window);
        }
        assert!(rounds <= 6, "{rounds}");
    }

    #[test]
    fn a_window_that_is_not_used_does_not_grow() {
        let mut start = SlowStart::default();
        (0..10_000).for_each(|_| start.on_answered(UNREPORTED - 1));
        assert_eq!(start.window(), WINDOW);
        assert!(!start.is_over(), "a few at a time show nothing of a burst");
        assert!(!SlowStart::wants_end(UNREPORTED - 1) && SlowStart::wants_end(UNREPORTED));
    }

    #[test]
    fn many_answers_are_enough_though_the_window_is_not_used() {
        let mut start = SlowStart::default();
        (0..ENOUGH).for_each(|_| start.on_answered(UNREPORTED));
        assert!(start.is_over());
        assert_eq!(start.window(), WINDOW);
    }
}
