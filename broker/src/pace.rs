//! The quotas of servers, which all callers of the broker share: signatures for an endpoint and account are given by turns,
//! as fast as the configuration says (`pace`), or as the server turns out to take them.
//!
//! Invariant: an endpoint that isn't paced costs one atomic load. A signature that waits holds no worker and no key, and
//! its turn goes to others when its caller goes away. Who may have a signature at all is the policy's to say, before and
//! after.
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

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

pub(crate) use self::queue::Who;
use self::schedule::{Asked, Schedule};
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
#[derive(Debug, Default)]
pub(crate) struct Lane {
    is_paced: AtomicBool,
    state: Mutex<Accounts>,
    throttled: AtomicU64,
    waited: AtomicU64,
}

#[derive(Debug, Default)]
struct Accounts {
    pace: Option<Pace>,
    lines: HashMap<String, Arc<Line>>,
}

/// One endpoint and account.
struct Line {
    schedule: Mutex<Schedule<oneshot::Sender<()>>>,
    /// Whether a task gives the turns; there is one while somebody waits.
    is_driven: AtomicBool,
    /// Tells it to look again.
    changed: Notify,
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
            let lane = known.get(&url).map(Arc::clone).unwrap_or_default();
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
        for lane in lock(&self.lanes).values().filter(|lane| lane.is_paced()) {
            for line in lane.lines() {
                if line.schedule().closed(connection) {
                    line.changed.notify_one();
                }
            }
        }
    }
}

impl Lane {
    /// Whether signatures are by turns: the one question that every signature asks.
    pub(crate) fn is_paced(&self) -> bool {
        self.is_paced.load(Ordering::Relaxed)
    }

    /// Whether the end of each exchange is to be reported.
    pub(crate) fn wants_ends(&self) -> bool {
        lock(&self.state).pace.is_some_and(|pace| pace.in_flight.is_some())
    }

    /// Waits for a turn; `place`: of those that may be in flight at the same time. None where the account isn't paced.
    ///
    /// # Errors
    /// RATE_LIMITED: it didn't come in time.
    pub(crate) async fn turn(
        &self,
        account: &str,
        who: Who,
        place: bool,
    ) -> Result<Option<Turn>, Denial> {
        let Some(line) = self.line(account, Instant::now())? else { return Ok(None) };
        let (turn, wait, comes) = {
            let mut schedule = line.schedule();
            let (send, comes) = oneshot::channel();
            let asked = schedule.ask(&who, place, send, Instant::now());
            let (number, comes) = match asked {
                Asked::Now(number) => (number, None),
                Asked::Later(number) => (number, Some(comes)),
            };
            let turn = Turn { ticket: Ticket { line: Arc::clone(&line), who, number } };
            (turn, schedule.wait().unwrap_or(WAIT), comes)
        };
        if let Some(comes) = comes {
            self.waited.fetch_add(1, Ordering::Relaxed);
            drive(&line);
            if tokio::time::timeout(wait, comes).await.is_err() {
                drop(turn);
                let estimate = line.schedule().estimate();
                let detail = format!("no turn within {} s (pace)", wait.as_secs_f64());
                return Err(Denial::new(Reason::RateLimited, detail).retry_after(estimate));
            }
        }
        Ok(Some(turn))
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
        self.lines().iter().any(|line| {
            let ended = line.schedule().ended(peer, audit_id);
            if ended {
                line.changed.notify_one();
            }
            ended
        })
    }

    /// How it is now.
    pub(crate) fn view(&self) -> View {
        let mut view = View {
            is_paced: self.is_paced(),
            throttled: self.throttled.load(Ordering::Relaxed),
            waited: self.waited.load(Ordering::Relaxed),
            ..View::default()
        };
        if !view.is_paced {
            return view;
        }
        let configured = lock(&self.state).pace;
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
        }
        self.is_paced.store(state.is_paced(), Ordering::Relaxed);
    }

    /// Begins to pace an account whose server has throttled; false where it is paced, or there are too many.
    fn begin(&self, account: &str, now: Instant) -> bool {
        let mut state = lock(&self.state);
        state.forget(now);
        let is_new = state.pace.is_none() && !state.lines.contains_key(account);
        if !is_new || state.lines.len() >= MAX_ACCOUNTS {
            return false;
        }
        state.lines.insert(account.to_owned(), Line::new(None, now));
        self.is_paced.store(true, Ordering::Relaxed);
        true
    }

    /// The line of an account; none where it isn't paced.
    fn line(&self, account: &str, now: Instant) -> Result<Option<Arc<Line>>, Denial> {
        let mut state = lock(&self.state);
        if state.pace.is_none() || state.lines.len() >= MAX_ACCOUNTS {
            state.forget(now);
            self.is_paced.store(state.is_paced(), Ordering::Relaxed);
        }
        if let Some(line) = state.lines.get(account) {
            return Ok(Some(Arc::clone(line)));
        }
        let Some(pace) = state.pace else { return Ok(None) };
        if state.lines.len() >= MAX_ACCOUNTS {
            let why = "too many accounts of the endpoint are in use";
            return Err(Denial::new(Reason::RateLimited, why).retry_after(Duration::from_secs(1)));
        }
        let line = Line::new(Some(pace), now);
        state.lines.insert(account.to_owned(), Arc::clone(&line));
        Ok(Some(line))
    }

    fn lines(&self) -> Vec<Arc<Line>> {
        lock(&self.state).lines.values().map(Arc::clone).collect()
    }
}

impl Accounts {
    fn is_paced(&self) -> bool {
        self.pace.is_some() || !self.lines.is_empty()
    }

    /// Drops those for which nothing has to be kept.
    fn forget(&mut self, now: Instant) {
        self.lines.retain(|_, line| !line.schedule().is_over(now));
    }
}

impl Line {
    fn new(pace: Option<Pace>, now: Instant) -> Arc<Self> {
        let schedule = Mutex::new(Schedule::new(pace, now));
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
    pub(crate) fn signed(self, audit_id: &str) {
        let ticket = &self.ticket;
        ticket.line.schedule().signed(ticket.number, audit_id, Instant::now());
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
