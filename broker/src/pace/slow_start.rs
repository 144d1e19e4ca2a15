//! Limits the unanswered signatures while it isn't known whether a server throttles. Pure.
//!
//! The attack on a quota: sixteen agents start at the same moment, with 32 calls each. AWS accepts
//! a burst of six, and all 512 are signed before its first 429 arrives. So a new endpoint starts
//! with a window, like TCP (RFC 9293; RFC 5681: slow start): each answer makes room for two more,
//! until [`ENOUGH`] have arrived.
//!
//! A server that doesn't throttle is slowed down only once, by a few round trips, and only for
//! callers with more than [`WINDOW`] unanswered calls. A slow call blocks no other: servers
//! throttle at once, so a signature without a report for [`LATELY`] counts as answered.

use std::time::Duration;

/// The number of unanswered signatures at the start.
const WINDOW: u32 = 48;
/// The number of unanswered signatures whose ends needn't be reported: a few agents with occasional
/// calls cost no reports.
const UNREPORTED: u32 = 16;
/// The number of answers without throttling after which the window is removed.
const ENOUGH: u32 = 512;
/// The time after which a signature without a report counts as answered.
pub(super) const LATELY: Duration = Duration::from_millis(250);

/// The window of one endpoint.
#[derive(Debug, Default)]
pub(super) struct SlowStart {
    answers: u32,
    growth: u32,
}

impl SlowStart {
    /// The number of signatures that may be unanswered.
    pub(super) fn window(&self) -> u32 {
        WINDOW + self.growth
    }

    /// Whether the end of the next signature must be reported, when so many are unanswered.
    pub(super) fn wants_end(unanswered: u32) -> bool {
        unanswered >= UNREPORTED
    }

    /// Records an answer without throttling, when so many were unanswered. A window that isn't used
    /// proves nothing, and doesn't grow (RFC 9438, 5.8).
    pub(super) fn on_answered(&mut self, unanswered: u32) {
        self.growth += u32::from(unanswered >= self.window() / 2);
        self.answers += u32::from(unanswered >= UNREPORTED);
    }

    /// Whether the server has proved that it accepts many.
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
            // Each answered signature is followed by two others.
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
        assert!(!start.is_over(), "a few at a time prove nothing about a burst");
        assert!(!SlowStart::wants_end(UNREPORTED - 1) && SlowStart::wants_end(UNREPORTED));
    }

    #[test]
    fn many_answers_suffice_though_the_window_is_not_used() {
        let mut start = SlowStart::default();
        (0..ENOUGH).for_each(|_| start.on_answered(UNREPORTED));
        assert!(start.is_over());
        assert_eq!(start.window(), WINDOW);
    }
}
