//! The standard error of a private broker: forwarded line by line to the proxy's standard error.
//! The last lines are stored, because the user needs them if the broker can't start.
//!
//! The broker is trusted for signatures, but its text isn't: the stored lines are bounded, and
//! control characters are removed before they are shown.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use tokio::sync::watch;

use crate::error::printable;

/// The prefix of a broker's error message.
const PREFIX: &str = "sigward-broker: ";

/// The most lines that are stored.
const MAX_LINES: usize = 64;

/// The longest part of a line that is stored, in bytes.
const MAX_LINE: usize = 2048;

/// The most bytes that are forwarded at once.
const MAX_PIECE: u64 = 64 << 10;

/// The longest message that is shown to a client, in characters.
const MAX_SHOWN: usize = 4096;

/// The last lines of a broker's standard error.
#[derive(Debug)]
pub(super) struct ErrorOutput {
    lines: Mutex<VecDeque<String>>,
    closed: watch::Sender<bool>,
}

/// The end of standard error, for callers outside a runtime.
#[derive(Debug)]
pub(super) struct Closed(mpsc::Receiver<()>);

impl ErrorOutput {
    pub(super) fn new() -> Self {
        Self { lines: Mutex::default(), closed: watch::Sender::new(false) }
    }

    /// Forwards the lines of `source` until its end. Blocks, so it needs its own thread.
    pub(super) fn forward(&self, source: UnixStream) {
        let mut source = BufReader::new(source);
        let mut piece = Vec::new();
        let mut begins = true;
        loop {
            piece.clear();
            match source.by_ref().take(MAX_PIECE).read_until(b'\n', &mut piece) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            // A failure is ignored: the broker must be able to write even if the proxy's standard
            // error is closed.
            let _ = io::stderr().write_all(&piece);
            if begins {
                self.keep(&String::from_utf8_lossy(&piece));
            }
            begins = piece.ends_with(b"\n");
        }
        self.closed.send_replace(true);
    }

    fn keep(&self, line: &str) {
        let line = line.trim_end();
        if line.is_empty() {
            return;
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == MAX_LINES {
            lines.pop_front();
        }
        lines.push_back(line[..line.floor_char_boundary(MAX_LINE)].to_owned());
    }

    /// Waits for the end of standard error.
    pub(super) async fn closed(&self) {
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// The broker's last message, in one line or several. Empty if there is none.
    pub(super) fn last_message(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = |line: &String| {
            line.starts_with(PREFIX) || line.starts_with("error: ") || line.starts_with("thread '")
        };
        let is_record = |line: &&String| line.starts_with('{');
        let shown: Vec<&String> = match lines.iter().rposition(begins) {
            Some(first) => lines.iter().skip(first).filter(|line| !is_record(line)).collect(),
            None => {
                let last = lines.iter().rev().filter(|line| !is_record(line)).take(3);
                last.collect::<Vec<_>>().into_iter().rev().collect()
            }
        };
        let shown = shown.iter().enumerate().map(|(at, line)| match at {
            0 => line.strip_prefix(PREFIX).or(line.strip_prefix("error: ")).unwrap_or(line),
            _ => line,
        });
        let lines: Vec<String> = shown.map(|line| printable(line, MAX_LINE)).collect();
        let mut text = lines.join("\n");
        if let Some((end, _)) = text.char_indices().nth(MAX_SHOWN) {
            text.truncate(end);
            text.push('…');
        }
        text
    }
}

impl Closed {
    /// Makes a receiver; dropping the sender signals the end.
    pub(super) fn new() -> (mpsc::Sender<()>, Self) {
        let (sender, receiver) = mpsc::channel();
        (sender, Self(receiver))
    }

    /// Waits for the end, but no longer than `limit`.
    pub(super) fn wait(&self, limit: Duration) {
        let _ = self.0.recv_timeout(limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_message(text: &str) -> String {
        let output = ErrorOutput::new();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let reading = std::thread::scope(|scope| {
            let reading = scope.spawn(|| output.forward(theirs));
            ours.write_all(text.as_bytes()).unwrap();
            drop(ours);
            reading.join()
        });
        reading.unwrap();
        output.last_message()
    }

    #[test]
    fn the_last_message_is_shown_with_all_its_lines() {
        assert_eq!(last_message(""), "");
        assert_eq!(last_message("sigward-broker: no\n"), "no");
        let log = "2026-11-26 01:02:03 | ERROR | sigward_broker::x | something\n";
        assert_eq!(last_message(&format!("{log}sigward-broker: a\n  b\n\n  c")), "a\n  b\n  c");
        assert_eq!(last_message("sigward-broker: old\nsigward-broker: new\n{\"id\":1}\n"), "new");
        let clap = "error: invalid value 'x' for '--log-level'\n\n  [possible values: INFO]\n";
        assert_eq!(
            last_message(clap),
            "invalid value 'x' for '--log-level'\n  [possible values: INFO]"
        );
        let panic = "\nthread 'main' panicked at src/a.rs:1:2:\nno way\n";
        assert_eq!(last_message(panic), panic.trim());
        assert_eq!(last_message("a\nb\nc\n{\"audit\":1}\nd\n"), "b\nc\nd");
    }

    #[test]
    fn the_message_is_bounded_and_has_no_control_characters() {
        let long = format!("sigward-broker: {}\n", "x".repeat(200_000));
        assert_eq!(last_message(&long).chars().count(), MAX_LINE - PREFIX.len());
        let many = format!("sigward-broker: first\n{}", "and another line\n".repeat(1000));
        assert!(last_message(&many).chars().count() <= MAX_SHOWN + 1);
        let many = format!("sigward-broker: {}", "é\u{1b}[31m".repeat(5000));
        let shown = last_message(&many);
        assert!(!shown.contains('\u{1b}') && shown.contains('é'), "{shown}");
        assert_eq!(last_message("sigward-broker: a\u{2028}b\rc\u{202e}d\n"), "a b c d");
    }
}
