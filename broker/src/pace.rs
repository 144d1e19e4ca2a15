//! The quotas of servers, which all callers of the broker share: signatures for an endpoint and account are given by turns,
//! as fast as the configuration says (`pace`), or as the server turns out to take them.
//!
//! Invariant: an endpoint that isn't paced costs one atomic load, once it is known that its server takes many requests at
//! a time ([`slow_start`]). A signature that waits holds no worker and no key, and its turn goes to others when its caller
//! goes away. Who may have a signature at all is the policy's to say, before and after.
//!
//! What a caller who lies can do: report throttling that there wasn't, for an account that it may have things signed for.
//! That has the broker begin to pace it: one signature a second, twice as many each second. From then on a report counts
//! only for a signature that the peer was given, once, and not below one in two seconds; and turns are fair. So a liar
//! slows others down as long as it lies, by turns, and starves nobody; the log and the metrics show it. Where `pace`
//! gives the numbers, a report takes back saved tokens, and changes no rate. And it can keep places of `in_flight`: those
//! of signatures that it was given, until its connection ends or for a quarter of an hour.

mod adaptive;
mod bucket;
mod queue;
mod schedule;
mod slow_start;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

pub(crate) use self::queue::Who;
use self::schedule::{Schedule, Terms};
use crate::config::{Config, Pace};
use crate::error::{Denial, Reason};
use crate::peer::{ConnectionId, PeerId};

/// How long a signature waits where nobody has given a pace: as long as the calls of most clients last.
const WAIT: Duration = Duration::from_secs(300);
/// Accounts of one endpoint, before those are forgotten that nothing is kept for.
const MAX_ACCOUNTS: usize = 64;

/// Every endpoint that there is or was. Reloads change the numbers, and nobody's place in the queue.
#[derive(Debug, Default)]
pub(crate) struct Paces {
    lanes: Mutex<HashMap<String, Arc<Lane>>>,
    open: Mutex<HashSet<ConnectionId>>,
}

/// One endpoint.
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
    /// Of all accounts that have no line of their own, until it is known whether the server throttles.
    start: Option<Arc<Line>>,
    /// The start that is over, for as long as there are exchanges of it whose end will be reported.
    started: Option<Arc<Line>>,
}

/// One endpoint and account.
struct Line {
    schedule: Mutex<Schedule<oneshot::Sender<()>>>,
    /// Whether a task gives the turns; there is one while somebody waits.
    is_driven: AtomicBool,
    /// Tells it to look again.
    changed: Notify,
}

/// What came of asking for a turn.
#[derive(Debug)]
pub(crate) enum Asked {
    /// Nothing limits it.
    Free,
    /// It is there.
    Now(Turn),
    /// It comes.
    Later(Waiting),
}

/// A turn that comes. Whoever drops it doesn't wait any more.
#[derive(Debug)]
pub(crate) struct Waiting {
    turn: Turn,
    comes: oneshot::Receiver<()>,
    limit: Duration,
}

/// A turn that came. Dropped before its signature is made, it goes to others.
#[derive(Debug)]
pub(crate) struct Turn {
    ticket: Ticket,
}

/// A place in the queue, and then the turn; whoever drops it loses it.
struct Ticket {
    line: Arc<Line>,
    who: Who,
    number: u64,
}

/// What came of a report of throttling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Throttled {
    /// The endpoint is paced from now on.
    Begins,
    /// It is paced already.
    Known,
    /// The peer wasn't given that signature lately, while signatures were by turns.
    NotYours,
}

/// How an endpoint is paced, all accounts together.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct View {
    /// Whether signatures are by turns.
    pub is_paced: bool,
    /// Signatures a second, of the slowest account; none where only the number in flight is limited.
    pub per_second: Option<f64>,
    /// Signatures that wait for their turn.
    pub waiting: usize,
    /// Places that are taken.
    pub in_flight: u32,
    /// Requests that the server throttled, since the start.
    pub throttled: u64,
    /// Signatures that had to wait, since the start.
    pub waited: u64,
}

impl Paces {
    /// Those of the endpoints of a configuration, in their order, with its numbers.
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

    /// A connection is open, until [`Paces::closed`].
    pub(crate) fn opened(&self, connection: ConnectionId) {
        lock(&self.open).insert(connection);
    }

    /// A signature was given over a connection: if that was closed meanwhile, its place is free.
    pub(crate) fn given(&self, connection: ConnectionId) {
        if !lock(&self.open).contains(&connection) {
            self.closed(connection);
        }
    }

    /// A connection is closed: its places are free.
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

    /// Whether a signature may have to wait: the one question that every signature asks.
    pub(crate) fn is_limited(&self) -> bool {
        self.is_limited.load(Ordering::Relaxed)
    }

    /// Asks for a turn; `place`: of those that may be in flight at the same time.
    ///
    /// # Errors
    /// RATE_LIMITED: too many accounts are in use.
    pub(crate) fn ask(&self, account: &str, who: Who, place: bool) -> Result<Asked, Denial> {
        let now = Instant::now();
        let Some(line) = self.line(account, place, now)? else { return Ok(Asked::Free) };
        let (send, comes) = oneshot::channel();
        let (asked, limit) = {
            let mut schedule = line.schedule();
            (schedule.ask(&who, place, send, now), schedule.wait().unwrap_or(WAIT))
        };
        let turn = |number| Turn { ticket: Ticket { line: Arc::clone(&line), who, number } };
        Ok(match asked {
            schedule::Asked::Now(number) => Asked::Now(turn(number)),
            schedule::Asked::Later(number) => {
                self.waited.fetch_add(1, Ordering::Relaxed);
                drive(&line);
                Asked::Later(Waiting { turn: turn(number), comes, limit })
            }
        })
    }

    /// A server throttled a request for this account that was signed under this id. Whether the peer may have things
    /// signed for it was decided before.
    pub(crate) fn throttled(&self, account: &str, peer: &PeerId, audit_id: &str) -> Throttled {
        let now = Instant::now();
        let is_known = self.lines().iter().any(|line| {
            let changes = line.schedule().throttled(peer, audit_id, now);
            line.changed.notify_one();
            changes.is_some()
        });
        let throttled = match is_known {
            true => Throttled::Known,
            // What was signed before the first report isn't remembered.
            false if self.begin(account, now) => Throttled::Begins,
            false => return Throttled::NotYours,
        };
        self.throttled.fetch_add(1, Ordering::Relaxed);
        throttled
    }

    /// The exchange of a signature with this id is over. False if the peer wasn't given that, or it was over.
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

    /// How it is now.
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
            // From now on there is no limit until the server throttles. Whoever waits has its turn.
            if pace.is_none() {
                state.lines.clear();
            }
            state.end_start();
        }
        self.is_limited.store(state.is_limited(), Ordering::Relaxed);
    }

    /// Begins to pace an account whose server has throttled; false where it is paced, or there are too many.
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

    /// The line of an account; none where nothing limits it.
    fn line(&self, account: &str, place: bool, now: Instant) -> Result<Option<Arc<Line>>, Denial> {
        let mut state = lock(&self.state);
        if state.pace.is_none() || state.lines.len() >= MAX_ACCOUNTS {
            state.forget(now);
            self.is_limited.store(state.is_limited(), Ordering::Relaxed);
        }
        if let Some(line) = state.lines.get(account) {
            return Ok(Some(Arc::clone(line)));
        }
        let Some(pace) = state.pace else {
            // What takes no place isn't counted.
            return Ok(state.start.as_ref().filter(|_| place).map(Arc::clone));
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

    /// Drops those for which nothing has to be kept.
    fn forget(&mut self, now: Instant) {
        self.lines.retain(|_, line| !line.schedule().is_over(now));
        if self.start.as_ref().is_some_and(|line| line.schedule().is_over(now)) {
            self.end_start();
        }
    }

    /// Enough is known of the server: those who wait at the start ask again.
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

impl Waiting {
    /// Waits for the turn. None: it has to be asked for again, since other limits hold now.
    ///
    /// # Errors
    /// RATE_LIMITED: it didn't come in time.
    pub(crate) async fn turn(self) -> Result<Option<Turn>, Denial> {
        let Self { turn, comes, limit } = self;
        match tokio::time::timeout(limit, comes).await {
            Ok(Ok(())) => Ok(Some(turn)),
            Ok(Err(_)) => Ok(None),
            Err(_) => {
                let line = Arc::clone(&turn.ticket.line);
                drop(turn);
                let estimate = line.schedule().estimate();
                let detail = format!("no turn within {} s (pace)", limit.as_secs_f64());
                Err(Denial::new(Reason::RateLimited, detail).retry_after(estimate))
            }
        }
    }
}

impl Line {
    fn new(schedule: Schedule<oneshot::Sender<()>>) -> Arc<Self> {
        let schedule = Mutex::new(schedule);
        Arc::new(Self { schedule, is_driven: AtomicBool::new(false), changed: Notify::new() })
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule<oneshot::Sender<()>>> {
        lock(&self.schedule)
    }
}

/// Sees to it that a task gives the turns, for as long as somebody waits.
fn drive(line: &Arc<Line>) {
    if line.is_driven.swap(true, Ordering::AcqRel) {
        line.changed.notify_one();
        return;
    }
    let line = Arc::clone(line);
    tokio::spawn(async move {
        loop {
            let next = {
                let mut schedule = line.schedule();
                let now = Instant::now();
                for waiter in schedule.due(now) {
                    // Whoever is gone gives the turn back by itself.
                    let _ = waiter.send(());
                }
                if schedule.waiting() == 0 {
                    // Under the lock: whoever asks next finds that nobody drives.
                    line.is_driven.store(false, Ordering::Release);
                    return;
                }
                schedule.next(now)
            };
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = line.changed.notified() => {}
            }
        }
    });
}

impl Turn {
    /// It is signed, under this audit id.
    pub(crate) fn signed(self, audit_id: &str) -> Terms {
        let ticket = &self.ticket;
        ticket.line.schedule().signed(ticket.number, audit_id, Instant::now())
    }
}

impl Drop for Ticket {
    /// A turn that was used isn't there any more.
    fn drop(&mut self) {
        self.line.schedule().leave(&self.who, self.number);
        self.line.changed.notify_one();
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("who", &self.who).finish_non_exhaustive()
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
