//! The writing thread: many records with one write, and one `fdatasync` for all of them.
//!
//! Invariant: the file consists of complete lines. A failed write is undone, or, if that fails,
//! terminated by a line break, so that it never swallows the next record. Only one process writes
//! to a file: it holds a lock.

use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::SystemTime;

use rustix::fs::{FlockOperation, OFlags};
use tokio::sync::{mpsc, oneshot};

use super::chain::{Hash, link};
use super::record::{self, Record};
use crate::clock;
use crate::config::{self, AuditTarget, Rotate, Sync};
use crate::error::Error;
use crate::trusted::Trusted;

/// The number of records that can wait for the disk; if the queue is full, nothing is signed.
const QUEUE: usize = 1024;
/// The most records of one write.
const BATCH: usize = 256;
/// The longest tail that is searched for the last line of a file, in bytes.
const MAX_LINE: u64 = 64 << 10;

/// A job of the writing thread.
#[derive(Debug)]
pub(super) enum Job {
    /// Writes a record, and reports the result to the waiting decision.
    Write(String, Option<oneshot::Sender<io::Result<()>>>),
    /// Reopens the file, or opens another one.
    Reopen(Option<config::Audit>, oneshot::Sender<Result<(), Error>>),
    /// Reports when all previous records are written.
    Flush(oneshot::Sender<()>),
}

/// A handle to the writing thread.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: mpsc::Sender<Job>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    head: Mutex<Hash>,
    sign_unrecorded: AtomicBool,
    /// The log is off.
    off: AtomicBool,
    /// The number of events that could not be written.
    failures: AtomicU64,
}

impl Writer {
    pub(super) fn start(config: &config::Audit, now: SystemTime) -> Result<Self, Error> {
        let mut log = Log::open(config, Hash::NONE, now)?;
        let shared = Arc::new(Shared {
            head: Mutex::new(log.head),
            sign_unrecorded: AtomicBool::new(config.sign_unrecorded),
            off: AtomicBool::new(config.target == AuditTarget::None),
            failures: AtomicU64::new(0),
        });
        let (jobs, queue) = mpsc::channel(QUEUE);
        let of_thread = Arc::clone(&shared);
        let mut config = config.clone();
        thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || work(queue, &mut log, &mut config, &of_thread))
            .map_err(|source| Error::Process { what: "start the audit log's thread", source })?;
        Ok(Self { jobs, shared })
    }

    /// Queues a job. Returns false if there is no room.
    pub(super) fn send(&self, job: Job) -> bool {
        self.jobs.try_send(job).is_ok()
    }

    pub(super) async fn wait_and_send(&self, job: Job) {
        // The thread ends only with the last sender.
        self.jobs.send(job).await.ok();
    }

    pub(super) fn head(&self) -> String {
        self.shared.head.lock().unwrap_or_else(PoisonError::into_inner).hex()
    }

    pub(super) fn failures(&self) -> u64 {
        self.shared.failures.load(Ordering::Relaxed)
    }

    pub(super) fn queued(&self) -> usize {
        self.jobs.max_capacity() - self.jobs.capacity()
    }

    pub(super) fn is_off(&self) -> bool {
        self.shared.off.load(Ordering::Relaxed)
    }

    pub(super) fn signs_unrecorded(&self) -> bool {
        self.shared.sign_unrecorded.load(Ordering::Relaxed)
    }
}

/// Runs the writing thread, until the last sender is dropped.
fn work(
    mut queue: mpsc::Receiver<Job>,
    log: &mut Log,
    config: &mut config::Audit,
    shared: &Shared,
) {
    let mut later = VecDeque::new();
    while let Some(job) = later.pop_front().or_else(|| queue.blocking_recv()) {
        match job {
            Job::Write(record, waiting) => {
                let mut batch = vec![(record, waiting)];
                while batch.len() < BATCH {
                    match queue.try_recv() {
                        Ok(Job::Write(record, waiting)) => batch.push((record, waiting)),
                        Ok(other) => {
                            later.push_back(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                let records = batch.iter().map(|(record, _)| record.as_str());
                let outcome = log.write(records, config);
                *shared.head.lock().unwrap_or_else(PoisonError::into_inner) = log.head;
                for (_, waiting) in batch {
                    let outcome = match &outcome {
                        Ok(()) => Ok(()),
                        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
                    };
                    match waiting {
                        // The receiver is dropped if the caller hung up.
                        Some(waiting) => drop(waiting.send(outcome)),
                        None if outcome.is_err() => {
                            shared.failures.fetch_add(1, Ordering::Relaxed);
                        }
                        None => {}
                    }
                }
            }
            Job::Reopen(other, done) => {
                let wanted = other.unwrap_or_else(|| config.clone());
                let outcome = log.reopen(&wanted, config);
                if outcome.is_ok() {
                    shared.sign_unrecorded.store(wanted.sign_unrecorded, Ordering::Relaxed);
                    shared.off.store(wanted.target == AuditTarget::None, Ordering::Relaxed);
                    *config = wanted;
                }
                *shared.head.lock().unwrap_or_else(PoisonError::into_inner) = log.head;
                drop(done.send(outcome));
            }
            Job::Flush(done) => drop(done.send(())),
        }
    }
}

/// The log's target and chain, owned by the thread.
struct Log {
    target: Target,
    head: Hash,
}

enum Target {
    Stderr,
    File(Output),
    None,
}

/// An open file.
struct Output {
    path: PathBuf,
    file: File,
    identity: (u64, u64),
    /// Whether it is a regular file, which can be locked, truncated, synced and rotated.
    regular: bool,
    length: u64,
    /// Whether the last write failed and couldn't be undone: the next one must terminate its line
    /// first.
    cut: bool,
}

impl Log {
    fn open(config: &config::Audit, before: Hash, now: SystemTime) -> Result<Self, Error> {
        let failed = |path: &Path, source| Error::Audit { path: path.to_owned(), source };
        let (target, last) = match &config.target {
            AuditTarget::None => (Target::None, None),
            AuditTarget::Stderr => (Target::Stderr, None),
            AuditTarget::File(path) => {
                let (output, last) = Output::open(path).map_err(|source| failed(path, source))?;
                (Target::File(output), last)
            }
        };
        // The chain continues at the end of the file, whichever process wrote it.
        let mut log = Self { target, head: last.unwrap_or(before) };
        if last.is_none() && before != Hash::NONE {
            log.begin(config, now);
        }
        Ok(log)
    }

    /// Writes the first record of a new file, which continues the chain.
    fn begin(&mut self, config: &config::Audit, now: SystemTime) {
        let Some(record) = record::json(&Record::opened(now)) else { return };
        if let Err(error) = self.write([record.as_str()].into_iter(), config) {
            tracing::error!(%error, "the audit log can't be written");
        }
    }

    fn write<'r>(
        &mut self,
        records: impl Iterator<Item = &'r str>,
        config: &config::Audit,
    ) -> io::Result<()> {
        let mut head = self.head;
        let mut text = String::new();
        for record in records {
            let line = link(head, record);
            head = Hash::of(line.as_bytes());
            text += &line;
            text.push('\n');
        }
        match &mut self.target {
            Target::None => return Ok(()),
            // A single write call, so that log lines don't interleave.
            Target::Stderr => io::stderr().lock().write_all(text.as_bytes())?,
            Target::File(output) => output.write(text.as_bytes(), config.sync)?,
        }
        self.head = head;
        self.rotate(config);
        Ok(())
    }

    fn reopen(&mut self, wanted: &config::Audit, before: &config::Audit) -> Result<(), Error> {
        let AuditTarget::File(path) = &wanted.target else {
            if wanted.target != before.target {
                *self = Self::open(wanted, self.head, clock::now())?;
            }
            return Ok(());
        };
        if let Target::File(output) = &self.target
            && output.path == *path
            && output.is_still_there()
        {
            return Ok(());
        }
        *self = Self::open(wanted, self.head, clock::now())?;
        Ok(())
    }

    /// Starts a new file if this one has become too large.
    fn rotate(&mut self, config: &config::Audit) {
        let (Target::File(output), Some(Rotate { bytes, keep })) = (&self.target, config.rotate)
        else {
            return;
        };
        if !output.regular || output.length < bytes {
            return;
        }
        let path = output.path.clone();
        let numbered = |number: u32| {
            let mut name = path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..keep).rev() {
            // Missing numbers are normal.
            std::fs::rename(numbered(number), numbered(number + 1)).ok();
        }
        let moved = std::fs::rename(&path, numbered(1));
        let opened = moved.map_err(|source| Error::Audit { path: path.clone(), source });
        match opened.and_then(|()| Self::open(config, self.head, clock::now())) {
            Ok(log) => *self = log,
            // Records are still written to the same file.
            Err(error) => tracing::error!(%error, "the audit log can't be rotated"),
        }
    }
}

impl Output {
    /// Opens the file; returns the hash of its last line, too.
    fn open(path: &Path) -> io::Result<(Self, Option<Hash>)> {
        // The attack: a user who can change the file or its directory changes records, or redirects
        // them with a link to another file of the broker's user.
        let place = Trusted::place(path)?;
        let mut options = File::options();
        options.read(true).append(true).create(true).mode(0o600);
        let none = OFlags::empty();
        let mut file =
            place.open(&mut options, none).or_else(|error| match error.raw_os_error() {
                // The path is a pipe, or a device that can't be read.
                Some(code) if code == rustix::io::Errno::ACCESS.raw_os_error() => {
                    place.open(File::options().append(true), none)
                }
                _ => Err(error),
            })?;
        let about = file.metadata()?;
        let regular = about.is_file();
        if regular && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(io::Error::other(
                "another broker writes to it; configure a different file for each",
            ));
        }
        let (last, cut) = if regular { last_line(&mut file, about.size())? } else { (None, false) };
        let output = Self {
            path: path.to_owned(),
            file,
            identity: (about.dev(), about.ino()),
            regular,
            length: about.size(),
            cut,
        };
        Ok((output, last))
    }

    fn is_still_there(&self) -> bool {
        std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
    }

    fn write(&mut self, text: &[u8], sync: Sync) -> io::Result<()> {
        if self.cut {
            self.file.write_all(b"\n")?;
            self.length += 1;
            self.cut = false;
        }
        let outcome = self.file.write_all(text).and_then(|()| match sync {
            Sync::Batch if self.regular => self.file.sync_data(),
            Sync::Batch | Sync::None => Ok(()),
        });
        match outcome {
            Ok(()) => self.length += text.len() as u64,
            // A part of the text may have been written, which would make the next record unreadable.
            Err(_) if self.regular => self.cut = self.file.set_len(self.length).is_err(),
            Err(_) => {}
        }
        outcome
    }
}

/// Checks whether a log at this path could be opened.
pub(super) fn check(path: &Path) -> io::Result<()> {
    let place = Trusted::place(path)?;
    if place.found().is_some_and(Metadata::is_dir) {
        return Err(rustix::io::Errno::ISDIR.into());
    }
    place.check_writable()
}

/// The hash of the last line, if there is one, and whether its line break is missing.
fn last_line(file: &mut File, size: u64) -> io::Result<(Option<Hash>, bool)> {
    if size == 0 {
        return Ok((None, false));
    }
    let start = size.saturating_sub(MAX_LINE);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(MAX_LINE).read_to_end(&mut tail)?;
    let cut = tail.last() != Some(&b'\n');
    let text = if cut { &tail[..] } else { &tail[..tail.len() - 1] };
    let line = text.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok((Some(Hash::of(line)), cut))
}
