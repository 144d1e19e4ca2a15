//! The standard error of a private broker: passed on to ours, line by line, and its last
//! lines kept, since the user of the client needs them when the broker can't start.
//!
//! The broker is trusted for signatures, not for text: the lines kept are bounded, and control
//! characters are removed before they are shown.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use tokio::sync::watch;

use crate::error::printable;

/// What the last sentence of a broker begins with.
const SENTENCE: &str = "sigward-broker: ";

/// How many lines are kept.
const MAX_LINES: usize = 64;

/// How much of a line is kept, in bytes.
const MAX_LINE: usize = 2048;

/// How much is passed on at once, in bytes.
const MAX_PIECE: u64 = 64 << 10;

/// How much of it is shown to a client, in characters.
const MAX_TOLD: usize = 4096;

/// The last lines of a broker.
#[derive(Debug)]
pub(super) struct Words {
    lines: Mutex<VecDeque<String>>,
    closed: watch::Sender<bool>,
}

/// The end of standard error, for callers outside of a runtime.
#[derive(Debug)]
pub(super) struct Closed(mpsc::Receiver<()>);

impl Words {
    pub(super) fn new() -> Self {
        Self { lines: Mutex::default(), closed: watch::Sender::new(false) }
    }

    /// Forwards the lines of `source` until its end. Blocks: for a thread of its own.
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
            // Nobody may be there to read it. The broker must be able to write all the same.
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

    /// Waits until there is nothing more to read.
    pub(super) async fn closed(&self) {
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// The broker's last message, in one line or several. Empty if there is none.
    pub(super) fn sentence(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = |line: &String| {
            line.starts_with(SENTENCE)
                || line.starts_with("error: ")
                || line.starts_with("thread '")
        };
        let is_record = |line: &&String| line.starts_with('{');
        let told: Vec<&String> = match lines.iter().rposition(begins) {
            Some(first) => lines.iter().skip(first).filter(|line| !is_record(line)).collect(),
            None => {
                let last = lines.iter().rev().filter(|line| !is_record(line)).take(3);
                last.collect::<Vec<_>>().into_iter().rev().collect()
            }
        };
        let told = told.iter().enumerate().map(|(at, line)| match at {
            0 => line.strip_prefix(SENTENCE).or(line.strip_prefix("error: ")).unwrap_or(line),
            _ => line,
        });
        let lines: Vec<String> = told.map(|line| printable(line, MAX_LINE)).collect();
        let mut text = lines.join("\n");
        if let Some((end, _)) = text.char_indices().nth(MAX_TOLD) {
            text.truncate(end);
            text.push('…');
        }
        text
    }
}

impl Closed {
    /// One that `forwarding` closes by its end.
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

    fn sentence(text: &str) -> String {
        let words = Words::new();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let reading = std::thread::scope(|scope| {
            let reading = scope.spawn(|| words.forward(theirs));
            ours.write_all(text.as_bytes()).unwrap();
            drop(ours);
            reading.join()
        });
        reading.unwrap();
        words.sentence()
    }

    #[test]
    fn the_last_sentence_counts_and_all_of_its_lines() {
        assert_eq!(sentence(""), "");
        assert_eq!(sentence("sigward-broker: no\n"), "no");
        let log = "2026-11-26 01:02:03 | ERROR | sigward_broker::x | something\n";
        assert_eq!(sentence(&format!("{log}sigward-broker: a\n  b\n\n  c")), "a\n  b\n  c");
        assert_eq!(sentence("sigward-broker: old\nsigward-broker: new\n{\"id\":1}\n"), "new");
        let clap = "error: invalid value 'x' for '--log-level'\n\n  [possible values: INFO]\n";
        assert_eq!(
            sentence(clap),
            "invalid value 'x' for '--log-level'\n  [possible values: INFO]"
        );
        let panic = "\nthread 'main' panicked at src/a.rs:1:2:\nno way\n";
        assert_eq!(sentence(panic), panic.trim());
        assert_eq!(sentence("a\nb\nc\n{\"audit\":1}\nd\n"), "b\nc\nd");
    }

    #[test]
    fn what_is_shown_is_bounded_and_without_control_characters() {
        let long = format!("sigward-broker: {}\n", "x".repeat(200_000));
        assert_eq!(sentence(&long).chars().count(), MAX_LINE - SENTENCE.len());
        let many = format!("sigward-broker: first\n{}", "and another line\n".repeat(1000));
        assert!(sentence(&many).chars().count() <= MAX_TOLD + 1);
        let many = format!("sigward-broker: {}", "é\u{1b}[31m".repeat(5000));
        let shown = sentence(&many);
        assert!(!shown.contains('\u{1b}') && shown.contains('é'), "{shown}");
        assert_eq!(sentence("sigward-broker: a\u{2028}b\rc\u{202e}d\n"), "a b c d");
    }
}
