//! When the next signature may be given, for one endpoint and account: by the configured pace, or
//! by what the server accepts. Pure: no I/O, and time is an argument.
//!
//! Invariant: a given signature is stored until it can no longer be reported about, and their
//! number is bounded. A report counts only for a signature that its reporter was given.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::adaptive::Cubic;
use super::bucket::Bucket;
use super::queue::{Queue, Requester};
use super::slow_start::{LATELY, SlowStart};
use crate::config::Pace;
use crate::peer::{ConnectionId, PeerId};

/// The time after which a place is freed even without a report: longer than a tool call takes.
const MAX_LIFE: Duration = Duration::from_secs(900);
/// The time in which throttling of a signature may be reported. A server throttles at once.
const REPORTABLE: Duration = Duration::from_secs(120);
/// The most stored signatures without a place; the oldest are dropped first.
const MAX_GIVEN: usize = 4096;
/// The interval of checking whether an adaptive rate has grown.
const RATE_INTERVAL: Duration = Duration::from_millis(500);

/// The schedule of one endpoint and account. `T` is the handle of a waiting caller.
#[derive(Debug)]
pub(super) struct Schedule<T> {
    limit: Limit,
    bucket: Bucket,
    queue: Queue<Waiter<T>>,
    /// Turns that were given, and aren't signed yet.
    turns: HashMap<u64, Turn>,
    /// The signatures by audit id; their order, and the order of those that hold a place for longer
    /// than they can be reported.
    given: HashMap<String, Given>,
    order: VecDeque<(Instant, String)>,
    long: VecDeque<(Instant, String)>,
    /// The recent signatures of a slow start, in order.
    lately: VecDeque<(Instant, String)>,
    places: u32,
    tickets: u64,
}

#[derive(Debug)]
enum Limit {
    Fixed(Pace),
    Adaptive(Cubic),
    /// It isn't known whether the server throttles.
    SlowStart(SlowStart),
    /// The pace was removed, and the server may have no limit: no caller waits.
    Lifted,
}

#[derive(Debug)]
struct Waiter<T> {
    place: bool,
    waiter: T,
}

#[derive(Debug)]
struct Turn {
    requester: Requester,
    place: bool,
    wants_end: bool,
}

#[derive(Debug)]
struct Given {
    requester: Requester,
    at: Instant,
    place: bool,
    /// The end of its exchange must be reported, and hasn't been.
    wants_end: bool,
    reported: bool,
}

/// What a caller needs to know about a signature.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Signatures are given in turns.
    pub(crate) is_paced: bool,
    /// The end of the exchange must be reported.
    pub(crate) wants_end: bool,
}

/// The result of asking for a turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The ticket of a turn that was given at once.
    Now(u64),
    /// The ticket of a turn to wait for.
    Later(u64),
}

impl<T> Schedule<T> {
    /// A schedule with a configured pace.
    pub(super) fn fixed(pace: Pace, now: Instant) -> Self {
        Self::new(Limit::Fixed(pace), pace.rate.map_or(0.0, |rate| rate.burst), now)
    }

    /// A schedule for a server that has throttled: its bucket is empty.
    pub(super) fn adaptive(now: Instant) -> Self {
        Self::new(Limit::Adaptive(Cubic::new(now)), 0.0, now)
    }

    /// A schedule for an unknown server.
    pub(super) fn slow_start(now: Instant) -> Self {
        Self::new(Limit::SlowStart(SlowStart::default()), 0.0, now)
    }

    fn new(limit: Limit, tokens: f64, now: Instant) -> Self {
        Self {
            limit,
            bucket: Bucket::with(tokens, now),
            queue: Queue::default(),
            turns: HashMap::new(),
            given: HashMap::new(),
            order: VecDeque::new(),
            long: VecDeque::new(),
            lately: VecDeque::new(),
            places: 0,
            tickets: 0,
        }
    }

    /// Applies a changed configuration: waiting callers keep their place under the new pace, or get
    /// their turn at once without one. Signatures in flight stay stored.
    pub(super) fn configure(&mut self, pace: Option<Pace>, now: Instant) {
        self.advance(now);
        match (&mut self.limit, pace) {
            (Limit::Fixed(pace), Some(new)) => *pace = new,
            (limit, Some(new)) => *limit = Limit::Fixed(new),
            (limit @ Limit::Fixed(_), None) => *limit = Limit::Lifted,
            (Limit::Adaptive(_) | Limit::SlowStart(_) | Limit::Lifted, None) => {}
        }
    }

    /// The configured timeout of waiting, if any.
    pub(super) fn wait(&self) -> Option<Duration> {
        match &self.limit {
            Limit::Fixed(pace) => Some(pace.wait),
            Limit::Adaptive(_) | Limit::SlowStart(_) | Limit::Lifted => None,
        }
    }

    /// Asks for a turn. With `place`, it takes one of the places in flight.
    pub(super) fn ask(
        &mut self,
        requester: &Requester,
        place: bool,
        waiter: T,
        now: Instant,
    ) -> Asked {
        self.advance(now);
        self.tickets += 1;
        let ticket = self.tickets;
        if self.queue.is_empty() && self.may_give(place) {
            self.give(ticket, requester.clone(), place);
            return Asked::Now(ticket);
        }
        self.queue.push(requester, ticket, Waiter { place, waiter });
        Asked::Later(ticket)
    }

    /// The callers whose turn it is now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<T> {
        self.advance(now);
        let mut due = Vec::new();
        while let Some(front) = self.queue.front()
            && self.may_give(front.place)
            && let Some((ticket, requester, Waiter { place, waiter })) = self.queue.pop()
        {
            self.give(ticket, requester, place);
            due.push(waiter);
        }
        due
    }

    /// When to check again, while callers wait.
    pub(super) fn next(&self, now: Instant) -> Instant {
        let front = self.queue.front();
        let token = match self.rate() {
            Some(rate) => self.bucket.until(1.0, rate),
            None => Duration::ZERO,
        };
        // A place is freed by a report, or when the oldest one expires.
        let life = self.life_of_place();
        let place = match front.is_some_and(|front| front.place && !self.has_place()) {
            true => self.oldest().map_or(life, |at| (at + life).duration_since(now)),
            false => Duration::ZERO,
        };
        let wait = match self.limit {
            Limit::Fixed(_) | Limit::SlowStart(_) | Limit::Lifted => token.max(place),
            Limit::Adaptive(_) => token.min(RATE_INTERVAL),
        };
        now + wait.clamp(Duration::from_millis(1), MAX_LIFE)
    }

    /// The estimated wait of a new request.
    pub(super) fn estimate(&self) -> Duration {
        let behind = self.queue.len() as f64 + 1.0;
        let wait = self.rate().map_or(Duration::ZERO, |rate| self.bucket.until(behind, rate));
        wait.clamp(Duration::from_millis(100), MAX_LIFE)
    }

    /// Gives up a ticket before it is signed: the turn goes to others.
    pub(super) fn leave(&mut self, requester: &Requester, ticket: u64) {
        if self.queue.remove(requester, ticket) {
            return;
        }
        if let Some(turn) = self.turns.remove(&ticket) {
            self.places -= u32::from(turn.place);
            self.bucket.give_back();
            if let Limit::Adaptive(cubic) = &mut self.limit {
                cubic.on_returned();
            }
        }
    }

    /// Uses a turn for the signature with this audit id.
    pub(super) fn signed(&mut self, ticket: u64, audit_id: &str, now: Instant) -> Terms {
        let Some(turn) = self.turns.remove(&ticket) else { return Terms::default() };
        let Turn { requester, place, wants_end } = turn;
        let given = Given { requester, at: now, place, wants_end, reported: false };
        self.given.insert(audit_id.to_owned(), given);
        self.order.push_back((now, audit_id.to_owned()));
        let is_start = matches!(self.limit, Limit::SlowStart(_));
        if is_start {
            self.lately.push_back((now, audit_id.to_owned()));
        }
        Terms { is_paced: !is_start, wants_end }
    }

    /// Ends all waits: the waiting callers ask again.
    pub(super) fn close(&mut self) {
        self.queue = Queue::default();
    }

    /// Records that the server throttled the signature with this id. Returns `None` if it isn't a
    /// recent one of the peer; otherwise whether that changes anything.
    ///
    /// The attack: one signature is reported again and again, each time for the token that has
    /// grown since.
    pub(super) fn throttled(
        &mut self,
        peer: &PeerId,
        audit_id: &str,
        now: Instant,
    ) -> Option<bool> {
        self.advance(now);
        let given = self.given.get_mut(audit_id).filter(|given| given.requester.peer == *peer)?;
        let again = std::mem::replace(&mut given.reported, true);
        let changes = !again
            && match &mut self.limit {
                Limit::Fixed(_) | Limit::SlowStart(_) | Limit::Lifted => true,
                Limit::Adaptive(cubic) => cubic.on_throttled(given.at, now),
            };
        if changes {
            self.bucket.drain();
        }
        Some(changes)
    }

    /// Records that the exchange with this id has ended. Returns false if it isn't the peer's, or
    /// has already ended.
    pub(super) fn ended(&mut self, peer: &PeerId, audit_id: &str) -> bool {
        let given = self.given.get_mut(audit_id).filter(|given| given.requester.peer == *peer);
        let Some(given) = given else { return false };
        let was_open = std::mem::replace(&mut given.wants_end, false);
        if was_open && std::mem::replace(&mut given.place, false) {
            self.on_answered(self.places);
        }
        was_open
    }

    /// Whether the end of an exchange may still be reported.
    pub(super) fn wants_ends(&self) -> bool {
        !self.turns.is_empty() || self.given.values().any(|given| given.wants_end)
    }

    /// Frees the place of an answered request that wasn't throttled, as far as is known.
    fn on_answered(&mut self, unanswered: u32) {
        if let Limit::SlowStart(start) = &mut self.limit {
            start.on_answered(unanswered);
        }
        self.places -= 1;
    }

    /// Frees the places of a closed connection: its exchanges can no longer be reported.
    pub(super) fn closed(&mut self, connection: ConnectionId) -> bool {
        let before = self.places;
        for given in self.given.values_mut().filter(|it| it.requester.connection == connection) {
            self.places -= u32::from(std::mem::replace(&mut given.place, false));
            given.wants_end = false;
        }
        self.places < before
    }

    /// Signatures per second; `None` if only the number in flight is limited.
    pub(super) fn rate(&self) -> Option<f64> {
        match &self.limit {
            Limit::Fixed(pace) => pace.rate.map(|rate| rate.per_second),
            Limit::Adaptive(cubic) => Some(cubic.rate()),
            Limit::SlowStart(_) | Limit::Lifted => None,
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.places
    }

    /// Whether the schedule can be dropped.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        self.advance(now);
        let idle = self.queue.is_empty() && self.turns.is_empty();
        idle && match &self.limit {
            Limit::Fixed(pace) => {
                let full = |rate: crate::config::PaceRate| {
                    self.bucket.until(rate.burst, rate.per_second).is_zero()
                };
                self.given.is_empty() && pace.rate.is_none_or(full)
            }
            Limit::Adaptive(cubic) => cubic.is_over(now),
            Limit::SlowStart(start) => start.is_over(),
            Limit::Lifted => true,
        }
    }

    /// Updates everything that depends on the time.
    fn advance(&mut self, now: Instant) {
        match &mut self.limit {
            Limit::Fixed(Pace { rate: Some(rate), .. }) => {
                self.bucket.refill(rate.per_second, rate.burst, now);
            }
            Limit::Fixed(_) | Limit::SlowStart(_) | Limit::Lifted => {}
            Limit::Adaptive(cubic) => {
                cubic.advance(now, !self.queue.is_empty());
                let rate = cubic.rate();
                self.bucket.refill(rate, rate.max(1.0), now);
            }
        }
        self.forget(now);
    }

    /// Drops signatures that can no longer be reported about, and frees places that are held too long.
    fn forget(&mut self, now: Instant) {
        let passed = |at: Instant| now.saturating_duration_since(at);
        if matches!(self.limit, Limit::SlowStart(_)) {
            let unanswered = self.places;
            while let Some((_, id)) = self.lately.pop_front_if(|(at, _)| passed(*at) >= LATELY) {
                let given = self.given.get_mut(&id);
                if given.is_some_and(|given| std::mem::replace(&mut given.place, false)) {
                    self.on_answered(unanswered);
                }
            }
        }
        while let Some((at, _)) = self.order.front()
            && (passed(*at) >= REPORTABLE || self.order.len() > MAX_GIVEN)
            && let Some((at, id)) = self.order.pop_front()
        {
            match self.given.get(&id).is_some_and(|given| given.place) {
                true => self.long.push_back((at, id)),
                false => drop(self.given.remove(&id)),
            }
        }
        while let Some((at, id)) = self.long.front() {
            let given = self.given.get(id);
            if given.is_some_and(|given| given.place) && passed(*at) < MAX_LIFE {
                break;
            }
            if let Some(given) = self.given.remove(id) {
                self.places -= u32::from(given.place);
            }
            self.long.pop_front();
        }
    }

    fn has_place(&self) -> bool {
        match &self.limit {
            Limit::Fixed(Pace { in_flight: Some(most), .. }) => self.places < *most,
            Limit::SlowStart(start) => self.places < start.window(),
            Limit::Fixed(_) | Limit::Adaptive(_) | Limit::Lifted => true,
        }
    }

    /// Whether the number in flight is limited.
    fn limits_places(&self) -> bool {
        let limit = &self.limit;
        matches!(limit, Limit::Fixed(Pace { in_flight: Some(_), .. }) | Limit::SlowStart(_))
    }

    /// The time after which a place is freed even without a report.
    fn life_of_place(&self) -> Duration {
        if matches!(self.limit, Limit::SlowStart(_)) { LATELY } else { MAX_LIFE }
    }

    fn may_give(&self, place: bool) -> bool {
        let has_token = self.rate().is_none() || self.bucket.has_one();
        has_token && (!place || self.has_place())
    }

    fn give(&mut self, ticket: u64, requester: Requester, place: bool) {
        let place = place && self.limits_places();
        let wants_end = match self.limit {
            Limit::SlowStart(_) => place && SlowStart::wants_end(self.places),
            Limit::Fixed(_) | Limit::Adaptive(_) | Limit::Lifted => place,
        };
        if self.rate().is_some() {
            self.bucket.take();
        }
        if let Limit::Adaptive(cubic) = &mut self.limit {
            cubic.on_given();
        }
        self.places += u32::from(place);
        self.turns.insert(ticket, Turn { requester, place, wants_end });
    }

    /// The time of the oldest signature that holds a place.
    fn oldest(&self) -> Option<Instant> {
        self.given.values().filter(|given| given.place).map(|given| given.at).min()
    }
}

#[cfg(test)]
mod tests;
