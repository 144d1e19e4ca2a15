//! Tables on standard output, for people.

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

/// Rows under a heading, with columns as wide as necessary.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|text| (*text).to_owned()).collect()] }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| shown(cell)).collect());
    }

    pub(super) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Writes to standard output, and returns whether there is a reader: a closed reader (`| head`)
/// isn't an error, and ends a command that runs for ever.
pub(super) fn print(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// Completes when the reader of standard output is closed, which a command that writes nothing
/// wouldn't notice.
pub(super) async fn reader_gone() {
    use rustix::event::{PollFd, PollFlags, poll};

    let gone = tokio::task::spawn_blocking(|| {
        let out = io::stdout();
        // No event is requested; the closing of the other end is always reported. For files and
        // terminals this waits for ever.
        let mut fds = [PollFd::new(&out, PollFlags::empty())];
        while poll(&mut fds, None).is_err_and(|error| error == rustix::io::Errno::INTR) {}
    });
    // This fails only at the end of the runtime.
    gone.await.ok();
}

/// A text of a server or a file, without control characters that could rewrite the terminal.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// A name in a suggested command: unchanged, or quoted for the shell.
pub(super) fn quoted(name: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@+,=%".contains(c);
    if !name.is_empty() && !name.starts_with('-') && name.chars().all(plain) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(format!("'{}'", shown(name).replace('\'', "'\\''")))
}

/// `-` for an empty text, so that no column is empty.
pub(super) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// The time left for credentials, like `59m` or `3h 07m`; `never` if they don't expire.
pub(super) fn time_left(expiry: Option<SystemTime>, now: SystemTime) -> String {
    let Some(expiry) = expiry else { return "never".to_owned() };
    let left = expiry.duration_since(now).unwrap_or(Duration::ZERO).as_secs();
    match (left / 3600, left / 60 % 60, left % 60) {
        (0, 0, 0) => "over".to_owned(),
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, _) => format!("{minutes}m"),
        (hours, minutes, _) => format!("{hours}h {minutes:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["A", "LONG"]);
        table.row(vec!["wide cell".to_owned(), "\u{1b}x\n".to_owned()]);
        assert_eq!(table.render(), "A          LONG\nwide cell  x\n");
    }

    #[test]
    fn names_are_quoted_for_a_shell() {
        for (name, text) in [
            ("prod", "prod"),
            ("Audit/AWSPowerUserAccess", "Audit/AWSPowerUserAccess"),
            ("My MacBook Pro", "'My MacBook Pro'"),
            ("prod-é", "'prod-é'"),
            ("it's", "'it'\\''s'"),
            ("$(id)", "'$(id)'"),
            ("-p", "'-p'"),
        ] {
            assert_eq!(quoted(name), text);
        }
    }

    #[test]
    fn time_left_in_words() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let after = |seconds| Some(now + Duration::from_secs(seconds));
        assert_eq!(time_left(None, now), "never");
        assert_eq!(time_left(Some(SystemTime::UNIX_EPOCH), now), "over");
        assert_eq!(time_left(after(45), now), "45s");
        assert_eq!(time_left(after(3599), now), "59m");
        assert_eq!(time_left(after(11_220), now), "3h 07m");
    }
}
