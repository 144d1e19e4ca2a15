//! The queue of one endpoint and account, and the task that gives its turns.
//!
//! Invariant: the task runs only while callers wait. A turn that isn't used goes to others, whatever
//! happens to its caller.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::queue::Requester;
use super::schedule::{self, Schedule, Terms};
use crate::error::{Denial, Reason};

/// How long a signature waits without a configured pace: the usual timeout of clients.
const WAIT: Duration = Duration::from_secs(300);

/// The queue of one endpoint and account.
pub(super) struct Line {
    schedule: Mutex<Schedule<oneshot::Sender<()>>>,
    /// Whether a task gives the turns; it runs while callers wait.
    is_driven: AtomicBool,
    /// Wakes the task.
    pub(super) changed: Notify,
}

/// The result of asking for a turn.
#[derive(Debug)]
pub(crate) enum Asked {
    /// No turn is needed.
    Free,
    /// The turn was given at once.
    Now(Turn),
    /// The caller has to wait.
    Later(Waiting),
}

/// A waiting turn. Dropping it leaves the queue.
#[derive(Debug)]
pub(crate) struct Waiting {
    turn: Turn,
    ready: oneshot::Receiver<()>,
    limit: Duration,
}

/// A place in the queue, and then the turn. Dropping it gives up both: a turn that is dropped before a signature is
/// made goes to others.
pub(crate) struct Turn {
    line: Arc<Line>,
    requester: Requester,
    number: u64,
}

impl Line {
    pub(super) fn new(schedule: Schedule<oneshot::Sender<()>>) -> Arc<Self> {
        let schedule = Mutex::new(schedule);
        Arc::new(Self { schedule, is_driven: AtomicBool::new(false), changed: Notify::new() })
    }

    pub(super) fn schedule(&self) -> MutexGuard<'_, Schedule<oneshot::Sender<()>>> {
        lock(&self.schedule)
    }

    /// Asks for a turn. With `place`, it takes one of the places for unanswered requests.
    pub(super) fn ask(self: &Arc<Self>, requester: Requester, place: bool, now: Instant) -> Asked {
        let (send, ready) = oneshot::channel();
        let (asked, limit) = {
            let mut schedule = self.schedule();
            (schedule.ask(&requester, place, send, now), schedule.wait().unwrap_or(WAIT))
        };
        let turn = |number| Turn { line: Arc::clone(self), requester, number };
        match asked {
            schedule::Asked::Now(number) => Asked::Now(turn(number)),
            schedule::Asked::Later(number) => {
                drive(self);
                Asked::Later(Waiting { turn: turn(number), ready, limit })
            }
        }
    }
}

impl Waiting {
    /// Waits for the turn. Returns `None` if it has to be asked for again, because the limits have
    /// changed.
    ///
    /// # Errors
    /// RATE_LIMITED: timeout.
    pub(crate) async fn turn(self) -> Result<Option<Turn>, Denial> {
        let Self { turn, ready, limit } = self;
        match tokio::time::timeout(limit, ready).await {
            Ok(Ok(())) => Ok(Some(turn)),
            Ok(Err(_)) => Ok(None),
            Err(_) => {
                let line = Arc::clone(&turn.line);
                drop(turn);
                let estimate = line.schedule().estimate();
                let detail = format!("no turn within {} s (pace)", limit.as_secs_f64());
                Err(Denial::new(Reason::RateLimited, detail).retry_after(estimate))
            }
        }
    }
}

impl Turn {
    /// Uses the turn for the signature with this audit id.
    pub(crate) fn signed(self, audit_id: &str) -> Terms {
        self.line.schedule().signed(self.number, audit_id, Instant::now())
    }
}

impl Drop for Turn {
    /// After use, this changes nothing.
    fn drop(&mut self) {
        self.line.schedule().leave(&self.requester, self.number);
        self.line.changed.notify_one();
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("requester", &self.requester).finish_non_exhaustive()
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}

/// Starts the task that gives the turns, if it isn't running. It runs while callers wait.
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
                    // A dropped receiver gives its turn back by itself.
                    let _ = waiter.send(());
                }
                if schedule.waiting() == 0 {
                    // Stored under the lock, so that the next caller starts a new task.
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

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
