//! The rate for a server whose quota isn't known: CUBIC, as in the adaptive retry mode of the AWS SDKs
//! (RFC 9438 has the function). Pure: time is an argument.
//!
//! ```text
//!            throttled                       throttled                        throttled
//!   no limit ────────▶ 1, 2, 4 … a second ────────────▶ 0.7 of what it took ◀───────────┐
//!      ▲                    │                             │  back to that, then beyond ──┘
//!      └────────────────────┴──── no throttling for ten minutes, or 1000 a second
//! ```
//!
//! The SDKs measure what they send at any time. The broker measures nothing while no server throttles: that would cost
//! every signature. So it begins slowly, and from then on knows more than they do: the server's bucket was empty when it
//! throttled last and is empty now, so what it took in between is its rate.
//!
//! One reduction for each round: a signature that was given before the last reduction says nothing about the rate since.
//! That also bounds a caller who lies about throttling: each lie costs a signature that it was given, by turns.

use std::time::Duration;

use tokio::time::Instant;

/// What is left of the rate after throttling (the SDKs' `BETA`).
const BETA: f64 = 0.7;
/// How steeply it grows again (the SDKs' `SCALE_CONSTANT`).
const SCALE: f64 = 0.4;
/// The most that it grows beyond what the server was known to take, each second. A cubic function alone would be beyond a
/// small quota, like AWS's 3 a second, before anybody could say so.
const GROWTH: f64 = 1.2;
/// From this rate on it grows as the functions say; a smaller one in as many requests, not in as much time, and down to
/// this.
const LARGE: f64 = 10.0;
const SLOWEST: f64 = 0.2;
/// Signatures a second that are always given (the SDKs' `MIN_FILL_RATE`): whatever a caller reports, the others go on.
pub(super) const FLOOR: f64 = 0.5;
/// Where it begins.
const START: f64 = 1.0;
/// From here on it is no limit.
const NO_LIMIT: f64 = 1000.0;
/// After so long without throttling what was known of the server is too old.
const FORGET: Duration = Duration::from_secs(600);
/// Fewer signatures than this say nothing of a rate.
const ENOUGH: u32 = 4;

/// The rate of one endpoint and account.
#[derive(Debug)]
pub(super) struct Cubic {
    /// When it was reduced last.
    since: Instant,
    /// Up to when it has grown.
    at: Instant,
    /// For how long it has grown, in its own seconds, and for how long somebody waited.
    grown: f64,
    busy: f64,
    /// What the server took; none before it has throttled twice.
    known: Option<f64>,
    /// What was given since.
    given: u32,
}

impl Cubic {
    /// The server has throttled.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, at: now, grown: 0.0, busy: 0.0, known: None, given: 0 }
    }

    /// Grows up to `now`. Up to what is known it does by itself, and beyond only where somebody has waited meanwhile: what
    /// nobody asks for shows nothing (RFC 9438, 5.8).
    pub(super) fn advance(&mut self, now: Instant, somebody_waits: bool) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        let grown = self.grown + passed * self.speed();
        if somebody_waits {
            self.busy += passed;
            self.grown = grown;
        } else if self.grown < self.window() {
            self.grown = grown.min(self.window());
        }
    }

    /// Signatures a second.
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

    /// How fast its time goes. A small quota is asked rarely, and would be exceeded as often as a large one if its rate
    /// grew as fast: of AWS's 3 a second, each tenth request would be throttled.
    fn speed(&self) -> f64 {
        self.known.map_or(1.0, |known| (known / LARGE).clamp(SLOWEST, 1.0))
    }

    /// How long it takes to be back at what is known, in its own seconds.
    fn window(&self) -> f64 {
        self.known.map_or(0.0, |known| (known * (1.0 - BETA) / SCALE).cbrt())
    }

    /// A signature is given.
    pub(super) fn on_given(&mut self) {
        self.given = self.given.saturating_add(1);
    }

    /// One that was given isn't used.
    pub(super) fn on_returned(&mut self) {
        self.given = self.given.saturating_sub(1);
    }

    /// The server has throttled a request that was signed at `signed`. Whether that changes the rate.
    pub(super) fn on_throttled(&mut self, signed: Instant, now: Instant) -> bool {
        if signed <= self.since {
            return false;
        }
        let elapsed = now.saturating_duration_since(self.since).as_secs_f64();
        let rate = self.rate();
        // The one that was throttled wasn't taken. Where nobody waited meanwhile, the server could have taken more.
        let taken = f64::from(self.given.saturating_sub(1)) / elapsed.max(0.001);
        let measured = self.given >= ENOUGH && self.busy >= 0.9 * elapsed;
        let known = if measured { rate.min(taken) } else { rate };
        *self = Self { known: Some(known.max(FLOOR)), ..Self::new(now) };
        true
    }

    /// Whether there is nothing left to keep to.
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

    /// The rate after so many seconds in which somebody waited.
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
    fn throttled_it_takes_a_step_back_and_returns_to_what_is_known() {
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
        // It comes back to that though nobody waits, and goes no further.
        cubic.advance(after(now, 300.0), false);
        assert!((cubic.rate() - known).abs() < 0.001);
        assert!(!cubic.is_over(after(now, 300.0)), "what is known of the server is kept");
        let later = busy(&mut cubic, after(now, 303.0));
        assert!(later > known * 1.2 && later <= known * 1.44 + 0.001, "{window} {later}");
        assert!(busy(&mut cubic, after(now, 400.0)) >= NO_LIMIT - 0.001);
    }

    /// Ten calls in five minutes aren't what a server can take.
    #[test]
    fn a_rate_is_measured_only_while_somebody_waits() {
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
    fn lies_end_at_the_floor() {
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
        assert!(later > 2.0, "and it grows again when they stop: {later}");
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let start = Instant::now();
        let mut cubic = Cubic::new(start);
        cubic.on_throttled(after(start, 0.5), after(start, 1.0));
        assert!(!cubic.is_over(after(start, 20.0)));
        assert!(cubic.is_over(after(start, 1.0 + FORGET.as_secs_f64())));
    }

    /// A server with a token bucket, and callers that never have enough: how many requests it throttles, of how many, and
    /// how many it took a second.
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
                let (signed, _) = answers.pop_front().expect("it is there");
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
