//! The audit log: requests, decisions and their outcomes.
//!
//! Invariant: a record is one line of printable ASCII, whatever texts a caller sends, and contains
//! the hash of the previous line (`chain`). A signature that can't be recorded isn't returned,
//! unless the configuration allows it; with `sync = "batch"`, recorded means on disk.
//!
//! A separate thread writes many records at a time. Its queue is bounded: if the disk hangs, the
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

/// The timeout of a record before its decision is denied. A disk may pause for seconds, and a pipe
/// without a reader for ever.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the process waits for records while it shuts down, first of decisions and then of events.
const LAST_WAIT: Duration = Duration::from_millis(400);

/// The audit log, for all configurations in turn.
#[derive(Debug)]
pub struct Audit {
    writer: Writer,
    flood: Mutex<Flood>,
    /// Distinguishes the record ids of this process from those of others.
    prefix: String,
    count: AtomicU64,
    failures: AtomicU64,
    /// Set when the process is about to end.
    ending: watch::Sender<bool>,
}

/// A record that is being written, or the reason why it can't be; `None` if the log is off.
#[derive(Debug)]
#[must_use = "a decision stands only with its record"]
pub struct Submitted(Result<Option<oneshot::Receiver<io::Result<()>>>, &'static str>);

/// The state of the log, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The hash of the last line.
    pub head: String,
    /// The number of records that could not be written.
    pub failures: u64,
    /// The number of records that wait to be written.
    pub queued: usize,
    /// The number of denials that were only counted.
    pub summed_up: u64,
}

impl Audit {
    /// Checks whether the log could be opened, without opening, creating or locking anything: a
    /// broker may be writing to it.
    ///
    /// # Errors
    /// The error that [`Audit::open`] would return.
    pub fn check(config: &config::Audit) -> Result<(), Error> {
        let config::AuditTarget::File(path) = &config.target else { return Ok(()) };
        writer::check(path).map_err(|source| Error::Audit { path: path.clone(), source })
    }

    /// Opens the log; `now` makes the ids of records unique.
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

    /// Reopens the file, which may have been rotated, or opens the one in `config`.
    ///
    /// # Errors
    /// The file can't be opened; records are still written to the previous one.
    pub async fn reopen(&self, config: Option<&config::Audit>) -> Result<(), Error> {
        let (done, opened) = oneshot::channel();
        self.writer.wait_and_send(Job::Reopen(config.cloned(), done)).await;
        // The writer ends only with the process.
        opened.await.unwrap_or(Ok(()))
    }

    /// Starts the record of a request: a denial without a reason, until `allow` or `deny` completes it.
    #[must_use]
    pub fn begin(&self, action: &'static str, peer: &Peer, now: SystemTime) -> Record {
        Record::new(self.next_id(), action, peer, now)
    }

    /// Writes the record of a decision, and waits until it is written.
    ///
    /// # Errors
    /// AUDIT_UNAVAILABLE: the decision must not take effect without a record.
    pub async fn write(&self, record: &Record) -> Result<(), Denial> {
        self.written(self.submit(record)).await
    }

    /// Hands the record of a decision to the writing thread. The record is complete only after
    /// [`Self::written`] succeeds.
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

    /// Waits until a record is written.
    ///
    /// # Errors
    /// AUDIT_UNAVAILABLE: the decision must not take effect without a record.
    pub async fn written(&self, submitted: Submitted) -> Result<(), Denial> {
        let written = match submitted.0 {
            Ok(None) => return Ok(()),
            Ok(Some(written)) => written,
            Err(why) => return self.failed(why),
        };
        let written = tokio::select! {
            biased;
            written = written => written,
            () = self.timeout() => return self.failed("timeout"),
        };
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => self.failed(&error.to_string()),
            Err(_) => self.failed("its writer has ended"),
        }
    }

    /// Writes the record of a denial, or only counts it, so that a caller can't make the log grow
    /// without bound. Returns whether there is a record, whose id can be sent. `stranger` is set if
    /// no rule matches the peer.
    pub async fn write_denial(
        &self,
        record: &Record,
        stranger: bool,
        now: Instant,
        time: SystemTime,
    ) -> bool {
        let is_recorded = {
            let mut flood = self.flood.lock().unwrap_or_else(PoisonError::into_inner);
            flood.note(record.peer(), stranger, record.reason(), now, time)
        };
        // A denial is sent even if its record can't be written.
        is_recorded && self.write(record).await.is_ok()
    }

    /// Records an event, like a reload, a load, or the end of a sign-in, without waiting.
    pub fn event(&self, event: Event, now: SystemTime) {
        let Some(json) = record::json(&event.record(self.next_id(), now)) else { return };
        if !self.writer.send(Job::Write(json, None)) {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records how many denials were only counted since the last call.
    pub fn sum_up(&self, now: SystemTime) {
        let sums = self.flood.lock().unwrap_or_else(PoisonError::into_inner).take();
        for (peer, sum) in sums {
            self.event(Event::Denials { peer, sum }, now);
        }
    }

    /// Completes when a decision has waited long enough for its record: earlier while the process
    /// shuts down.
    async fn timeout(&self) {
        let mut ending = self.ending.subscribe();
        let ended = ending.wait_for(|ending| *ending);
        if tokio::time::timeout(TIMEOUT, ended).await.is_ok() {
            tokio::time::sleep(LAST_WAIT).await;
        }
    }

    /// Shortens the timeout of records, because the process is about to end.
    pub fn shorten_timeouts(&self) {
        self.ending.send_replace(true);
    }

    /// Waits until all records are written, but not longer than `LAST_WAIT`.
    pub async fn close(&self, now: SystemTime) {
        self.sum_up(now);
        let (done, written) = oneshot::channel();
        let last = async {
            self.writer.wait_and_send(Job::Flush(done)).await;
            written.await.ok();
        };
        tokio::time::timeout(LAST_WAIT, last).await.ok();
    }

    /// The state of the log.
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
        // Writing to a string can't fail.
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
