//! Writes standard error in a separate thread.
//!
//! Invariant: logging never waits for the reader. The queue is bounded; lines that don't fit are
//! dropped and counted, and a line reports their number. The attack, or the accident: a supervisor
//! that stalls, or an MCP client that never reads the standard error of its private broker, would
//! block every worker in `write`.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// The most lines that wait; the thread may be writing as many.
const MAX_LINES: usize = 1024;

/// A handle to the thread, cheap to clone.
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
    /// The number of lines that were dropped since the last write.
    dropped: u64,
    /// Whether the thread is writing lines.
    writing: bool,
}

impl Queue {
    /// Starts the thread, which writes to `output`; `notice` formats the number of dropped lines.
    ///
    /// # Errors
    /// The thread can't be started.
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

    /// Waits until all lines are written, but at most for `timeout`.
    pub(super) fn flush(&self, timeout: Duration) {
        let is_busy = |lines: &mut Lines| lines.writing || !lines.waiting.is_empty();
        let waited = self.shared.changed.wait_timeout_while(self.shared.lock(), timeout, is_busy);
        // Complete or not, the process exits now.
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

    /// Runs the thread, as long as the process.
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
            // They were dropped after the waiting ones were queued.
            if dropped > 0 {
                text.extend_from_slice(notice(dropped).as_bytes());
            }
            // If standard error is closed, there is no other output.
            output.write_all(&text).ok();
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }
}

/// Each write is one complete line of the formatter.
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

    const DEADLINE: Duration = Duration::from_secs(20);

    /// An output that blocks until its reader accepts a write.
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
    fn a_stalled_reader_blocks_no_one_and_gets_the_number_of_dropped_lines() {
        let (sender, reader) = mpsc::sync_channel(0);
        let queue = Queue::start(Stalled(sender), |dropped| format!("{dropped} dropped\n"));
        let queue = queue.expect("a thread");
        queue.push(b"first\n");
        // The thread has taken the line, and is blocked in the write.
        let taken =
            queue.shared.changed.wait_timeout_while(queue.shared.lock(), DEADLINE, |lines| {
                !lines.waiting.is_empty()
            });
        drop(taken.expect("no poison"));
        for number in 0..MAX_LINES + 7 {
            queue.push(format!("line {number}\n").as_bytes());
        }
        let before = Instant::now();
        queue.flush(Duration::from_millis(10));
        assert!(before.elapsed() < DEADLINE, "exiting doesn't wait either");

        let read =
            || String::from_utf8(reader.recv_timeout(DEADLINE).expect("text")).expect("text");
        assert_eq!(read(), "first\n");
        let rest = read();
        assert_eq!(rest.lines().count(), MAX_LINES + 1);
        assert!(rest.starts_with("line 0\n") && rest.ends_with("line 1023\n7 dropped\n"), "{rest}");
        queue.push(b"last\n");
        assert_eq!(read(), "last\n");
        queue.flush(DEADLINE);
        assert!(!queue.shared.lock().writing);
    }
}
