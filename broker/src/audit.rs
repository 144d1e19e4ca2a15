//! The audit log: who asked for what, what was decided, and what became of it.
//!
//! Invariant: a record is one line of printable ASCII, whatever a caller put into the texts in it, and
//! carries the hash of the line before (`chain`). A signature that can't be recorded isn't given out,
//! unless the configuration says otherwise; with `sync = "batch"`, recorded means on disk.
//!
//! A thread of its own writes, many records at a time. Its queue is bounded: where the disk hangs, the
//! queue fills and nothing more is signed, but no worker waits for the disk.

mod chain;
mod flood;
mod record;
mod writer;

use std::fmt::Write as _;
use std::io;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{oneshot, watch};

pub use self::chain::{Report, verify};
use self::flood::Flood;
pub use self::record::{Event, Record};
use self::writer::{Job, Writer};
use crate::config;
use crate::error::{Denial, Error, Reason};
use crate::peer::Peer;

/// How long a decision waits for its record. A disk may pause for seconds; a pipe that nobody reads, for ever.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the end of the process waits for records, of decisions and then of events.
const FAREWELL: Duration = Duration::from_millis(400);

/// The log, whatever the configuration in force says of it.
#[derive(Debug)]
pub struct Audit {
    writer: Writer,
    flood: Mutex<Flood>,
    /// Tells this process's records from those of others.
    prefix: String,
    count: AtomicU64,
    failures: AtomicU64,
    /// The process is about to end.
    ending: watch::Sender<bool>,
}

/// A record on its way to the disk; or why it isn't. Nothing, where nothing is recorded.
#[derive(Debug)]
#[must_use = "a decision stands only with its record"]
pub struct Submitted(Result<Option<oneshot::Receiver<io::Result<()>>>, &'static str>);

/// What an operator wants to know of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The hash of the last line.
    pub head: String,
    /// How many records could not be written.
    pub failures: u64,
    /// How many wait to be written.
    pub queued: usize,
    /// How many denials were only counted.
    pub summed_up: u64,
}

impl Audit {
    /// Whether it could be opened. Nothing is opened, made or locked: a broker may be writing to it.
    ///
    /// # Errors
    /// What [`Audit::open`] would fail with.
    pub fn check(config: &config::Audit) -> Result<(), Error> {
        let config::AuditTarget::File(path) = &config.target else { return Ok(()) };
        writer::check(path).map_err(|source| Error::Audit { path: path.clone(), source })
    }

    /// Opens the log; `now` makes the records' ids unique.
    ///
    /// # Errors
    /// The file can't be opened, or another broker writes to it.
    pub fn open(config: &config::Audit, now: SystemTime) -> Result<Self, Error> {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            writer: Writer::start(config, now)?,
            flood: Mutex::default(),
            prefix: format!("{:x}-{:x}", since.as_micros(), std::process::id()),
            count: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            ending: watch::Sender::new(false),
        })
    }

    /// Opens the file again, which someone may have rotated, or another one that `config` names.
    ///
    /// # Errors
    /// It can't be opened; the one before is still written to.
    pub async fn reopen(&self, config: Option<&config::Audit>) -> Result<(), Error> {
        let (done, opened) = oneshot::channel();
        self.writer.wait_and_send(Job::Reopen(config.cloned(), done)).await;
        // The writer ends with the process only.
        opened.await.unwrap_or(Ok(()))
    }

    /// Begins the record of a request: a denial without a reason, until `allow` or `deny` completes it.
    #[must_use]
    pub fn begin(&self, action: &'static str, peer: &Peer, now: SystemTime) -> Record {
        Record::new(self.next_id(), action, peer, now)
    }

    /// Writes the record of a decision, and waits until it is written. Gives back why the decision can't
    /// stand without it.
    ///
    /// # Errors
    /// AUDIT_UNAVAILABLE.
    pub async fn write(&self, record: &Record) -> Result<(), Denial> {
        self.written(self.submit(record)).await
    }

    /// Hands the record of a decision to the thread, which writes it meanwhile. It counts once [`Self::written`] says so.
    pub fn submit(&self, record: &Record) -> Submitted {
        if self.writer.is_off() {
            return Submitted(Ok(None));
        }
        let Some(json) = record::json(record) else {
            return Submitted(Err("it can't be serialised"));
        };
        let (done, written) = oneshot::channel();
        if !self.writer.send(Job::Write(json, Some(done))) {
            return Submitted(Err("its queue is full"));
        }
        Submitted(Ok(Some(written)))
    }

    /// Waits until a record is written. Gives back why the decision can't stand without it.
    ///
    /// # Errors
    /// AUDIT_UNAVAILABLE.
    pub async fn written(&self, submitted: Submitted) -> Result<(), Denial> {
        let written = match submitted.0 {
            Ok(None) => return Ok(()),
            Ok(Some(written)) => written,
            Err(why) => return self.failed(why),
        };
        let written = tokio::select! {
            biased;
            written = written => written,
            () = self.patience() => return self.failed("it isn't written in time"),
        };
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => self.failed(&error.to_string()),
            Err(_) => self.failed("its writer has ended"),
        }
    }

    /// Writes the record of a denial, or counts it: a caller can't make the log grow without bound.
    /// Whether there is a record, whose id can be quoted. `stranger`: no rule matches this peer.
    pub async fn write_denial(
        &self,
        record: &Record,
        stranger: bool,
        now: Instant,
        time: SystemTime,
    ) -> bool {
        let noted = {
            let mut flood = self.flood.lock().unwrap_or_else(PoisonError::into_inner);
            flood.note(record.peer(), stranger, record.reason(), now, time)
        };
        // A denial is answered as it is, recorded or not.
        noted && self.write(record).await.is_ok()
    }

    /// Records what happened by itself: a reload, a load, the end of a sign-in. Nobody waits for it.
    pub fn event(&self, event: Event, now: SystemTime) {
        let Some(json) = record::json(&event.record(self.next_id(), now)) else { return };
        if !self.writer.send(Job::Write(json, None)) {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records how many denials were only counted since the last time.
    pub fn sum_up(&self, now: SystemTime) {
        let sums = self.flood.lock().unwrap_or_else(PoisonError::into_inner).take();
        for (peer, sum) in sums {
            self.event(Event::Denials { peer, sum }, now);
        }
    }

    /// As long as a decision waits for its record: less at the end of the process.
    async fn patience(&self) {
        let mut ending = self.ending.subscribe();
        let ended = ending.wait_for(|ending| *ending);
        if tokio::time::timeout(PATIENCE, ended).await.is_ok() {
            tokio::time::sleep(FAREWELL).await;
        }
    }

    /// From now on, decisions wait for their records a moment only: the process is about to end.
    pub fn hurry(&self) {
        self.ending.send_replace(true);
    }

    /// Waits, for a moment, until all records are written.
    pub async fn close(&self, now: SystemTime) {
        self.sum_up(now);
        let (done, written) = oneshot::channel();
        let last = async {
            self.writer.wait_and_send(Job::Flush(done)).await;
            written.await.ok();
        };
        tokio::time::timeout(FAREWELL, last).await.ok();
    }

    /// How it stands.
    #[must_use]
    pub fn health(&self) -> Health {
        let flood = self.flood.lock().unwrap_or_else(PoisonError::into_inner);
        Health {
            head: self.writer.head(),
            failures: self.failures.load(Ordering::Relaxed) + self.writer.failures(),
            queued: self.writer.queued(),
            summed_up: flood.summed_up(),
        }
    }

    fn next_id(&self) -> String {
        let mut id = String::with_capacity(self.prefix.len() + 17);
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        // A string takes everything.
        let _ = write!(id, "{}-{number:x}", self.prefix);
        id
    }

    fn failed(&self, why: &str) -> Result<(), Denial> {
        self.failures.fetch_add(1, Ordering::Relaxed);
        tracing::error!(why, "the audit log can't be written");
        if self.writer.signs_unrecorded() {
            return Ok(());
        }
        Err(Denial::new(Reason::AuditUnavailable, why.to_owned()))
    }
}

#[cfg(test)]
mod tests;
