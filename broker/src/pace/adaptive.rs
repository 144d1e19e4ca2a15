//! The rate for a server whose quota isn't known: CUBIC, as in the adaptive retry mode of the AWS
//! SDKs (the function is in RFC 9438). Pure: time is an argument.
//!
//! ```text
//!            throttled                       throttled                        throttled
//!   no limit ────────▶ 1, 2, 4 … a second ────────────▶ 0.7 of what it took ◀───────────┐
//!      ▲                    │                             │  back to that, then beyond ──┘
//!      └────────────────────┴──── no throttling for ten minutes, or 1000 a second
//! ```
//!
//! The SDKs always measure the rate at which they send. The broker measures nothing until a server
//! throttles, because that would cost every signature. So it starts slowly, and then has better
//! data than the SDKs: the server's bucket was empty at the previous throttling and is empty now,
//! so what it accepted in between is its rate.
//!
//! There is one reduction per round: a signature that was given before the last reduction tells
//! nothing about the rate since. That also bounds false reports of throttling: each one costs the
//! caller a signature and a turn.

use std::time::Duration;

use tokio::time::Instant;

/// The fraction of the rate that remains after throttling (the SDKs' `BETA`).
const BETA: f64 = 0.7;
/// The steepness of its growth (the SDKs' `SCALE_CONSTANT`).
const SCALE: f64 = 0.4;
/// The largest growth factor per second beyond the known rate. The cubic function alone would
/// exceed a small quota, like AWS's 3 per second, before any report could arrive.
const GROWTH: f64 = 1.2;
/// The rate from which growth follows the functions in real time; below it, growth slows in
/// proportion to the known rate, at most to the factor `SLOWEST`.
const LARGE: f64 = 10.0;
const SLOWEST: f64 = 0.2;
/// Signatures per second that are always given (the SDKs' `MIN_FILL_RATE`): reports can't stop
/// other callers.
pub(super) const FLOOR: f64 = 0.5;
/// The rate at the start, per second.
const START: f64 = 1.0;
/// The rate that counts as no limit.
const NO_LIMIT: f64 = 1000.0;
/// The time without throttling after which the data about the server is outdated.
const FORGET: Duration = Duration::from_secs(600);
/// The fewest signatures from which a rate is measured.
const ENOUGH: u32 = 4;

/// The adaptive rate of one endpoint and account.
#[derive(Debug)]
pub(super) struct Cubic {
    /// The time of the last reduction.
    since: Instant,
    /// The time up to which growth is computed.
    at: Instant,
    /// The scaled seconds of growth, and the seconds in which callers waited.
    grown: f64,
    busy: f64,
    /// The rate that the server accepted; `None` before it has throttled twice.
    known: Option<f64>,
    /// The signatures given since the last reduction.
    given: u32,
}

impl Cubic {
    /// The state after the first throttling.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, at: now, grown: 0.0, busy: 0.0, known: None, given: 0 }
    }

    /// Grows up to `now`. It always grows up to the known rate, and beyond only while callers wait:
    /// a rate that isn't used proves nothing (RFC 9438, 5.8).
    pub(super) fn advance(&mut self, now: Instant, is_waited_for: bool) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        let grown = self.grown + passed * self.speed();
        if is_waited_for {
            self.busy += passed;
            self.grown = grown;
        } else if self.grown < self.window() {
            self.grown = grown.min(self.window());
        }
    }

    /// Signatures per second.
    pub(super) fn rate(&self) -> f64 {
        let rate = match self.known {
            None => START * self.grown.exp2(),
            Some(known) => {
                let beyond = self.grown - self.window();
                let cubic = known + SCALE * beyond.powi(3);
                cubic.min(known * GROWTH.powf(beyond.max(0.0)))
            }
        };
        rate.clamp(FLOOR, NO_LIMIT)
    }

    /// The factor of its time scale. A small quota is used rarely, and would be exceeded as often
    /// as a large one if its rate grew as fast: at AWS's 3 per second, each tenth request would be
    /// throttled.
    fn speed(&self) -> f64 {
        self.known.map_or(1.0, |known| (known / LARGE).clamp(SLOWEST, 1.0))
    }

    /// The scaled seconds until it is back at the known rate.
    fn window(&self) -> f64 {
        self.known.map_or(0.0, |known| (known * (1.0 - BETA) / SCALE).cbrt())
    }

    /// Counts a signature.
    pub(super) fn on_given(&mut self) {
        self.given = self.given.saturating_add(1);
    }

    /// Uncounts a turn that wasn't used.
    pub(super) fn on_returned(&mut self) {
        self.given = self.given.saturating_sub(1);
    }

    /// Records that the server has throttled a request that was signed at `signed`. Returns whether
    /// that changes the rate.
    pub(super) fn on_throttled(&mut self, signed: Instant, now: Instant) -> bool {
        if signed <= self.since {
            return false;
        }
        let elapsed = now.saturating_duration_since(self.since).as_secs_f64();
        let rate = self.rate();
        // The throttled request wasn't accepted. If no caller waited, the server could have
        // accepted more.
        let taken = f64::from(self.given.saturating_sub(1)) / elapsed.max(0.001);
        let measured = self.given >= ENOUGH && self.busy >= 0.9 * elapsed;
        let known = if measured { rate.min(taken) } else { rate };
        *self = Self { known: Some(known.max(FLOOR)), ..Self::new(now) };
        true
    }

    /// Whether the limit is no longer needed.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= FORGET || self.rate() >= NO_LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::super::bucket::Bucket;
    use super::*;

    fn after(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    /// The rate after so many seconds in which callers waited.
    fn busy(cubic: &mut Cubic, now: Instant) -> f64 {
        cubic.advance(now, true);
        cubic.rate()
    }

    #[test]
    fn it_doubles_each_second_until_it_is_throttled_again() {
        let start = Instant::now();
        let mut cubic = Cubic::new(start);
        let rates = [0.0, 1.0, 2.0, 5.0].map(|at| busy(&mut cubic, after(start, at)));
        assert_eq!(rates, [1.0, 2.0, 4.0, 32.0]);
        busy(&mut cubic, after(start, 9.0));
        assert!(!cubic.is_over(after(start, 9.0)));
        busy(&mut cubic, after(start, 10.0));
        assert!(cubic.is_over(after(start, 10.0)), "a server that throttled once is soon free");
    }

    #[test]
    fn throttling_reduces_the_rate_which_returns_to_the_known_one() {
        let start = Instant::now();
        let mut cubic = Cubic::new(start);
        (0..30).for_each(|_| cubic.on_given());
        let now = after(start, 5.0);
        busy(&mut cubic, now);
        assert!(cubic.on_throttled(after(start, 4.0), now));
        // 29 in five seconds.
        let known = 5.8;
        assert!((cubic.rate() - BETA * known).abs() < 0.001, "{}", cubic.rate());
        let window = (known * 0.3 / 0.4_f64).cbrt();
        // It returns to the known rate without waiting callers, and grows no further.
        cubic.advance(after(now, 300.0), false);
        assert!((cubic.rate() - known).abs() < 0.001);
        assert!(!cubic.is_over(after(now, 300.0)), "the known rate is kept");
        let later = busy(&mut cubic, after(now, 303.0));
        assert!(later > known * 1.2 && later <= known * 1.44 + 0.001, "{window} {later}");
        assert!(busy(&mut cubic, after(now, 400.0)) >= NO_LIMIT - 0.001);
    }

    /// Ten calls in five minutes aren't what a server can accept.
    #[test]
    fn a_rate_is_measured_only_while_callers_wait() {
        let start = Instant::now();
        let mut cubic = Cubic::new(start);
        busy(&mut cubic, after(start, 2.0));
        cubic.advance(after(start, 300.0), false);
        (0..10).for_each(|_| cubic.on_given());
        assert!(cubic.on_throttled(after(start, 299.0), after(start, 300.0)));
        assert!((cubic.rate() - BETA * 4.0).abs() < 0.001, "{}", cubic.rate());
    }

    #[test]
    fn a_round_reduces_once() {
        let start = Instant::now();
        let mut cubic = Cubic::new(start);
        assert!(!cubic.on_throttled(start, after(start, 1.0)), "it was signed before");
        assert!(cubic.on_throttled(after(start, 0.5), after(start, 1.0)));
        let rate = cubic.rate();
        for signed in [0.6, 0.9, 1.0] {
            assert!(!cubic.on_throttled(after(start, signed), after(start, 1.0)));
        }
        assert_eq!(cubic.rate(), rate);
    }

    /// The attack: throttling is reported for every signature.
    #[test]
    fn false_reports_stop_at_the_floor() {
        let start = Instant::now();
        let mut cubic = Cubic::new(start);
        for at in 1..1000 {
            let at = f64::from(at) / 10.0;
            cubic.on_given();
            cubic.advance(after(start, at), true);
            cubic.on_throttled(after(start, at - 0.01), after(start, at));
            assert!(cubic.rate() >= FLOOR);
        }
        let later = busy(&mut cubic, after(start, 160.0));
        assert!(later > 2.0, "it grows again when the reports stop: {later}");
    }

    #[test]
    fn outdated_rates_are_forgotten() {
        let start = Instant::now();
        let mut cubic = Cubic::new(start);
        cubic.on_throttled(after(start, 0.5), after(start, 1.0));
        assert!(!cubic.is_over(after(start, 20.0)));
        assert!(cubic.is_over(after(start, 1.0 + FORGET.as_secs_f64())));
    }

    /// Simulates a server with a token bucket and callers without limit: the number of throttled
    /// requests, of how many, and the accepted requests per second.
    fn simulated(per_second: f64, burst: f64, answer_after: f64) -> (f64, f64) {
        let start = Instant::now();
        let mut server = Bucket::with(0.0, start);
        let mut cubic = Cubic::new(start);
        let mut ours = Bucket::with(0.0, start);
        let (mut sent, mut throttled) = (0.0, 0.0);
        let mut answers: std::collections::VecDeque<(f64, f64)> = [].into();
        let ticks = 120_000;
        for tick in 0..ticks {
            let at = f64::from(tick) / 1000.0;
            let now = after(start, at);
            while answers.front().is_some_and(|(_, due)| *due <= at) {
                let (signed, _) = answers.pop_front().expect("it exists");
                if cubic.on_throttled(after(start, signed), now) {
                    ours.drain();
                }
            }
            cubic.advance(now, true);
            let rate = cubic.rate();
            ours.refill(rate, rate.max(1.0), now);
            server.refill(per_second, burst, now);
            while ours.has_one() {
                ours.take();
                cubic.on_given();
                sent += 1.0;
                if server.has_one() {
                    server.take();
                } else {
                    throttled += 1.0;
                    answers.push_back((at, at + answer_after));
                }
            }
        }
        (throttled / sent, (sent - throttled) / (f64::from(ticks) / 1000.0))
    }

    #[test]
    fn a_quota_is_used_and_rarely_hit() {
        for (per_second, burst, most) in
            [(3.0, 6.0, 0.05), (30.0, 60.0, 0.02), (100.0, 10.0, 0.02), (1.0, 1.0, 0.3)]
        {
            for answer_after in [0.01, 0.1] {
                let (throttled, taken) = simulated(per_second, burst, answer_after);
                let shown = format!("{per_second} {burst} {answer_after}: {throttled} {taken}");
                assert!(throttled < most, "{shown}");
                assert!(taken > 0.6 * per_second, "{shown}");
            }
        }
    }
}
