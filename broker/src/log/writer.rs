//! Standard error, written by a thread of its own.
//!
//! Invariant: nobody who logs waits for whoever reads. The queue is bounded; lines that find no room are dropped and
//! counted, and a line says how many were. The attack, or the accident: a supervisor that stalls, or an MCP client that
//! never reads the standard error of its private broker, would hold every worker in `write`.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written; as many are in the thread's hands.
const MAX_LINES: usize = 1024;

/// The way to the thread. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    waiting: VecDeque<Vec<u8>>,
    /// How many found no room since the last were written.
    dropped: u64,
    /// The thread has taken lines, and writes them.
    writing: bool,
}

impl Queue {
    /// Starts the thread, which writes to `output`; `notice` says in a line how many were dropped.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn start(
        output: impl Write + Send + 'static,
        notice: fn(u64) -> String,
    ) -> io::Result<Self> {
        let queue = Self::default();
        let shared = Arc::clone(&queue.shared);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || shared.write_all_to(output, notice))?;
        Ok(queue)
    }

    /// Waits until all lines are written, but not for longer than `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let is_busy = |lines: &mut Lines| lines.writing || !lines.waiting.is_empty();
        let waited = self.shared.changed.wait_timeout_while(self.shared.lock(), patience, is_busy);
        // Late or not, the process ends now.
        drop(waited);
    }

    fn push(&self, line: &[u8]) {
        let mut lines = self.shared.lock();
        if lines.waiting.len() >= MAX_LINES {
            lines.dropped += 1;
            return;
        }
        lines.waiting.push_back(line.to_vec());
        drop(lines);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's life: as long as the process.
    fn write_all_to(&self, mut output: impl Write, notice: fn(u64) -> String) {
        loop {
            let lines = self.lock();
            let waited = self.changed.wait_while(lines, |lines| lines.waiting.is_empty());
            let mut lines = waited.unwrap_or_else(PoisonError::into_inner);
            lines.writing = true;
            let batch = std::mem::take(&mut lines.waiting);
            let dropped = std::mem::take(&mut lines.dropped);
            drop(lines);
            let mut text: Vec<u8> = batch.into_iter().flatten().collect();
            // They came after those that wait.
            if dropped > 0 {
                text.extend_from_slice(notice(dropped).as_bytes());
            }
            // Nobody is left to tell where standard error is gone.
            output.write_all(&text).ok();
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }
}

/// One line, which the formatter hands over as a whole.
impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Queue {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// An output whose reader takes a write only when it wants to.
    struct Stalled(mpsc::SyncSender<Vec<u8>>);

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_who_stalls_holds_nobody_and_hears_how_many_lines_it_missed() {
        let (sender, reader) = mpsc::sync_channel(0);
        let queue = Queue::start(Stalled(sender), |dropped| format!("{dropped} dropped\n"));
        let queue = queue.expect("a thread");
        queue.push(b"first\n");
        // The thread has it in its hands, and is stuck with it.
        let taken =
            queue.shared.changed.wait_timeout_while(queue.shared.lock(), PATIENCE, |lines| {
                !lines.waiting.is_empty()
            });
        drop(taken.expect("no poison"));
        for number in 0..MAX_LINES + 7 {
            queue.push(format!("line {number}\n").as_bytes());
        }
        let before = Instant::now();
        queue.flush(Duration::from_millis(10));
        assert!(before.elapsed() < PATIENCE, "the end of the process doesn't wait either");

        let read =
            || String::from_utf8(reader.recv_timeout(PATIENCE).expect("text")).expect("text");
        assert_eq!(read(), "first\n");
        let rest = read();
        assert_eq!(rest.lines().count(), MAX_LINES + 1);
        assert!(rest.starts_with("line 0\n") && rest.ends_with("line 1023\n7 dropped\n"), "{rest}");
        queue.push(b"last\n");
        assert_eq!(read(), "last\n");
        queue.flush(PATIENCE);
        assert!(!queue.shared.lock().writing);
    }
}
