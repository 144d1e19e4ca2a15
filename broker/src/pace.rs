//! Shares the quotas of servers between all callers of the broker: signatures for an endpoint and
//! account are given in turns, at the rate in the configuration (`pace`), or at the rate that the
//! server proves to accept.
//!
//! Invariant: an endpoint that isn't paced costs one atomic load, once it is known that its server
//! accepts many requests at a time (see `slow_start`). A waiting signature holds no worker and no
//! key, and its turn goes to others if its caller goes away. Only the policy decides who may have a
//! signature, before and after the wait.
//!
//! The attack: a caller reports throttling that didn't happen, for an account that it may have
//! requests signed for. The first report makes the broker pace the account: one signature per
//! second, doubling every second. From then on a report counts only once, for a signature that the
//! peer was given, and the rate stays above one in two seconds; turns are fair. So false reports
//! slow others down only while they continue, and starve no caller; they are visible in the log and
//! the metrics. With a configured `pace`, a report only removes saved tokens, and doesn't change
//! the rate. A caller can also keep places of `in_flight`: those of its own signatures, until its
//! connection is closed or for 15 minutes.

mod adaptive;
mod bucket;
mod line;
mod queue;
mod schedule;
mod slow_start;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use self::line::Asked;
use self::line::{Line, lock};
pub(crate) use self::queue::Requester;
use self::schedule::Schedule;
use crate::config::{Config, Pace};
use crate::error::{Denial, Reason};
use crate::peer::{ConnectionId, PeerId};

/// The most accounts of one endpoint; unused ones are dropped first.
const MAX_ACCOUNTS: usize = 64;

/// The paces of all endpoints in use. Reloads change the rates, and keep the queues.
#[derive(Debug, Default)]
pub(crate) struct Paces {
    lanes: Mutex<HashMap<String, Arc<Lane>>>,
    open: Mutex<HashSet<ConnectionId>>,
}

/// The pace of one endpoint, for all its accounts.
#[derive(Debug)]
pub(crate) struct Lane {
    is_limited: AtomicBool,
    state: Mutex<Accounts>,
    throttled: AtomicU64,
    waited: AtomicU64,
}

#[derive(Debug)]
struct Accounts {
    pace: Option<Pace>,
    lines: HashMap<String, Arc<Line>>,
    /// Counts the unanswered signatures of all accounts, until it is known whether the server
    /// throttles.
    start: Option<Arc<Line>>,
    /// The previous `start`, while exchanges of it may still be reported.
    started: Option<Arc<Line>>,
}

/// The exchange that a signature is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exchange {
    /// Whether it takes one of the places for unanswered requests.
    pub(crate) takes_place: bool,
    /// Whether its caller reports its end if asked.
    pub(crate) is_reported: bool,
}

/// The result of reporting throttling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Throttled {
    /// The account is paced from now on.
    Begins,
    /// The account was already paced.
    Known,
    /// The endpoint has been paced, and the peer wasn't given that signature recently.
    NotYours,
}

/// How an endpoint is paced, over all accounts.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct View {
    /// Whether signatures are given in turns.
    pub is_paced: bool,
    /// Signatures per second, of the slowest account; `None` if only the number in flight is limited.
    pub per_second: Option<f64>,
    /// The number of signatures that wait for their turn.
    pub waiting: usize,
    /// The number of places in use.
    pub in_flight: u32,
    /// The number of throttled requests since the start.
    pub throttled: u64,
    /// The number of signatures that had to wait since the start.
    pub waited: u64,
}

impl Paces {
    /// The lanes of the configured endpoints, in their order, with the configured paces.
    pub(crate) fn lanes(&self, config: &Config) -> Vec<Arc<Lane>> {
        let mut known = lock(&self.lanes);
        let mut lanes = HashMap::new();
        let mut in_order = Vec::new();
        for endpoint in &config.endpoints {
            let url = endpoint.url.to_string();
            let lane = known.get(&url).map_or_else(Lane::new, Arc::clone);
            lane.configure(config.paces.get(&endpoint.name).copied());
            in_order.push(Arc::clone(&lane));
            lanes.insert(url, lane);
        }
        *known = lanes;
        in_order
    }

    /// Records that a connection is open, until [`Paces::closed`].
    pub(crate) fn opened(&self, connection: ConnectionId) {
        lock(&self.open).insert(connection);
    }

    /// Records a signature given over a connection, and frees its place if the connection has been
    /// closed.
    pub(crate) fn given(&self, connection: ConnectionId) {
        if !lock(&self.open).contains(&connection) {
            self.closed(connection);
        }
    }

    /// Frees the places of a closed connection.
    pub(crate) fn closed(&self, connection: ConnectionId) {
        lock(&self.open).remove(&connection);
        for lane in lock(&self.lanes).values().filter(|lane| lane.is_limited()) {
            for line in lane.lines_and_starts() {
                if line.schedule().closed(connection) {
                    line.changed.notify_one();
                }
            }
        }
    }
}

impl Lane {
    fn new() -> Arc<Self> {
        let start = Line::new(Schedule::slow_start(Instant::now()));
        let state =
            Accounts { pace: None, lines: HashMap::new(), start: Some(start), started: None };
        Arc::new(Self {
            is_limited: AtomicBool::new(true),
            state: Mutex::new(state),
            throttled: AtomicU64::new(0),
            waited: AtomicU64::new(0),
        })
    }

    /// Whether a signature may have to wait. Every signature calls this.
    pub(crate) fn is_limited(&self) -> bool {
        self.is_limited.load(Ordering::Relaxed)
    }

    /// Asks for a turn.
    ///
    /// # Errors
    /// RATE_LIMITED: too many accounts are in use.
    pub(crate) fn ask(
        &self,
        account: &str,
        requester: Requester,
        exchange: Exchange,
    ) -> Result<Asked, Denial> {
        let now = Instant::now();
        let Some(line) = self.line(account, exchange, now)? else { return Ok(Asked::Free) };
        let asked = line.ask(requester, exchange.takes_place, now);
        if matches!(asked, Asked::Later(_)) {
            self.waited.fetch_add(1, Ordering::Relaxed);
        }
        Ok(asked)
    }

    /// Records that the server throttled a request with this id for this account. The caller must
    /// have checked that the peer may use the account.
    pub(crate) fn throttled(&self, account: &str, peer: &PeerId, audit_id: &str) -> Throttled {
        let now = Instant::now();
        let is_known = self.lines().iter().any(|line| {
            let changes = line.schedule().throttled(peer, audit_id, now);
            line.changed.notify_one();
            changes.is_some()
        });
        let throttled = match is_known {
            true => Throttled::Known,
            // Signatures before the first report aren't stored.
            false if self.begin(account, now) => Throttled::Begins,
            false => return Throttled::NotYours,
        };
        self.throttled.fetch_add(1, Ordering::Relaxed);
        throttled
    }

    /// Records that the exchange of the signature with this id has ended. Returns false if it isn't
    /// the peer's, or has already ended.
    pub(crate) fn ended(&self, peer: &PeerId, audit_id: &str) -> bool {
        let ended = self.lines_and_starts().iter().any(|line| {
            let ended = line.schedule().ended(peer, audit_id);
            if ended {
                line.changed.notify_one();
            }
            ended
        });
        lock(&self.state).started.take_if(|line| !line.schedule().wants_ends());
        ended
    }

    /// The current state.
    pub(crate) fn view(&self) -> View {
        let (configured, is_paced) = {
            let state = lock(&self.state);
            (state.pace, state.is_paced())
        };
        let mut view = View {
            is_paced,
            throttled: self.throttled.load(Ordering::Relaxed),
            waited: self.waited.load(Ordering::Relaxed),
            ..View::default()
        };
        if !view.is_paced {
            return view;
        }
        view.per_second = configured.and_then(|pace| pace.rate).map(|rate| rate.per_second);
        let now = Instant::now();
        for line in self.lines() {
            let mut schedule = line.schedule();
            if configured.is_none() && schedule.is_over(now) {
                continue;
            }
            let rate = schedule.rate();
            view.per_second = match (view.per_second, rate) {
                (Some(slowest), Some(rate)) => Some(slowest.min(rate)),
                (known, rate) => known.or(rate),
            };
            view.waiting += schedule.waiting();
            view.in_flight += schedule.in_flight();
        }
        view
    }

    fn configure(&self, pace: Option<Pace>) {
        let mut state = lock(&self.state);
        if state.pace != pace {
            state.pace = pace;
            for line in state.lines.values() {
                line.schedule().configure(pace, Instant::now());
                line.changed.notify_one();
            }
            // Without a pace there is no limit until the server throttles. Waiting callers get
            // their turns.
            if pace.is_none() {
                state.lines.clear();
            }
            state.end_start();
        }
        self.is_limited.store(state.is_limited(), Ordering::Relaxed);
    }

    /// Starts to pace an account whose server has throttled; returns false if it is already paced,
    /// or there are too many.
    fn begin(&self, account: &str, now: Instant) -> bool {
        let mut state = lock(&self.state);
        state.forget(now);
        let is_new = state.pace.is_none() && !state.lines.contains_key(account);
        if !is_new || state.lines.len() >= MAX_ACCOUNTS {
            return false;
        }
        state.lines.insert(account.to_owned(), Line::new(Schedule::adaptive(now)));
        state.end_start();
        self.is_limited.store(true, Ordering::Relaxed);
        true
    }

    /// The queue of an account; `None` if it isn't limited.
    fn line(
        &self,
        account: &str,
        exchange: Exchange,
        now: Instant,
    ) -> Result<Option<Arc<Line>>, Denial> {
        let mut state = lock(&self.state);
        if state.pace.is_none() || state.lines.len() >= MAX_ACCOUNTS {
            state.forget(now);
            self.is_limited.store(state.is_limited(), Ordering::Relaxed);
        }
        if let Some(line) = state.lines.get(account) {
            return Ok(Some(Arc::clone(line)));
        }
        let Some(pace) = state.pace else {
            // The slow start counts only exchanges whose end is reported. Others would count as unanswered for too long,
            // and delay the callers of a fast server.
            let is_counted = exchange.takes_place && exchange.is_reported;
            return Ok(state.start.as_ref().filter(|_| is_counted).map(Arc::clone));
        };
        if state.lines.len() >= MAX_ACCOUNTS {
            let why = "too many accounts of the endpoint are in use";
            return Err(Denial::new(Reason::RateLimited, why).retry_after(Duration::from_secs(1)));
        }
        let line = Line::new(Schedule::fixed(pace, now));
        state.lines.insert(account.to_owned(), Arc::clone(&line));
        Ok(Some(line))
    }

    fn lines(&self) -> Vec<Arc<Line>> {
        lock(&self.state).lines.values().map(Arc::clone).collect()
    }

    fn lines_and_starts(&self) -> Vec<Arc<Line>> {
        let state = lock(&self.state);
        let starts = state.start.iter().chain(&state.started);
        state.lines.values().chain(starts).map(Arc::clone).collect()
    }
}

impl Accounts {
    fn is_paced(&self) -> bool {
        self.pace.is_some() || !self.lines.is_empty()
    }

    fn is_limited(&self) -> bool {
        self.is_paced() || self.start.is_some()
    }

    /// Drops the accounts that are no longer needed.
    fn forget(&mut self, now: Instant) {
        self.lines.retain(|_, line| !line.schedule().is_over(now));
        if self.start.as_ref().is_some_and(|line| line.schedule().is_over(now)) {
            self.end_start();
        }
    }

    /// Ends the slow start: the signatures that wait in it ask again.
    fn end_start(&mut self) {
        if let Some(line) = self.start.take() {
            let mut schedule = line.schedule();
            schedule.close();
            let wants_ends = schedule.wants_ends();
            drop(schedule);
            line.changed.notify_one();
            self.started = wants_ends.then_some(line);
        }
    }
}

#[cfg(test)]
mod tests;
