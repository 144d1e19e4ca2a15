//! The hash chain: each line contains the SHA-256 of the previous line, across files and processes.
//!
//! So a record that was changed, removed or moved is detected at the next one. Only the last has no
//! successor: the head of the chain is among the metrics, and `audit verify --head` compares it.

use std::io::{self, BufRead};

use serde::Deserialize;
use sha2::{Digest, Sha256};

/// The hash of a line, without its line break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hash([u8; 32]);

impl Hash {
    /// The predecessor of the very first line.
    pub(super) const NONE: Self = Self([0; 32]);

    pub(super) fn of(line: &[u8]) -> Self {
        Self(Sha256::digest(line).into())
    }

    pub(super) fn hex(self) -> String {
        hex::encode(self.0)
    }
}

/// Links a record to the line before; returns the line to write, without its line break.
pub(super) fn link(before: Hash, record: &str) -> String {
    let members = record.strip_prefix('{').unwrap_or(record);
    format!("{{\"prev\":\"{}\",{members}", before.hex())
}

/// The result of verifying a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The number of records.
    pub records: u64,
    /// The predecessor of the first record: the head of the previous file.
    pub first: String,
    /// The hash of the last record.
    pub head: String,
    /// The breaks of the chain, as texts for people.
    pub faults: Vec<String>,
}

#[derive(Deserialize)]
struct Link {
    prev: String,
}

/// Verifies the chain of a file.
///
/// # Errors
/// The file can't be read.
pub fn verify(mut file: impl BufRead) -> io::Result<Report> {
    /// Further faults are usually consequences of the same cause.
    const MAX_FAULTS: usize = 20;

    let mut report =
        Report { records: 0, first: Hash::NONE.hex(), head: Hash::NONE.hex(), faults: Vec::new() };
    let mut line = Vec::new();
    let mut number = 0_u64;
    loop {
        line.clear();
        if file.read_until(b'\n', &mut line)? == 0 {
            return Ok(report);
        }
        number += 1;
        let whole = line.last() == Some(&b'\n');
        let text = if whole { &line[..line.len() - 1] } else { &line[..] };
        let fault = match serde_json::from_slice::<Link>(text) {
            _ if !whole => Some("is incomplete: it has no line break".to_owned()),
            Err(_) => Some("isn't a record".to_owned()),
            Ok(link) if report.records == 0 => {
                report.first = link.prev;
                None
            }
            Ok(link) if link.prev != report.head => Some(
                "doesn't follow the line before: one of the two was changed, or records between them were \
                 removed or moved"
                    .to_owned(),
            ),
            Ok(_) => None,
        };
        if let Some(fault) = fault
            && report.faults.len() < MAX_FAULTS
        {
            report.faults.push(format!("line {number} {fault}"));
        }
        report.records += 1;
        report.head = Hash::of(text).hex();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chained(records: &[&str]) -> Vec<String> {
        let mut before = Hash::NONE;
        let lines = records.iter().map(|record| {
            let line = link(before, record);
            before = Hash::of(line.as_bytes());
            line
        });
        lines.collect()
    }

    fn faults(lines: &[String]) -> Vec<String> {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        verify(text.as_bytes()).expect("readable").faults
    }

    #[test]
    fn every_change_is_detected() {
        let lines = chained(&[r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#, r#"{"a":4}"#]);
        assert_eq!(faults(&lines), [""; 0]);
        let mut changed = lines.clone();
        changed[1] = changed[1].replace("\"a\":2", "\"a\":9");
        assert!(faults(&changed)[0].starts_with("line 3 doesn't follow"));
        let mut removed = lines.clone();
        removed.remove(1);
        assert!(faults(&removed)[0].starts_with("line 2 doesn't follow"));
        let mut moved = lines.clone();
        moved.swap(1, 2);
        assert_eq!(faults(&moved).len(), 3);
        let mut added = lines.clone();
        added.insert(2, lines[1].clone());
        assert!(faults(&added)[0].starts_with("line 3 doesn't follow"));
        let mut other = lines.clone();
        other[2] = "nonsense".to_owned();
        assert_eq!(faults(&other).len(), 2);
        let whole = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let cut = verify(&whole.as_bytes()[..whole.len() - 5]).expect("readable");
        assert_eq!(cut.faults, ["line 4 is incomplete: it has no line break"]);
        // Complete lines that are missing at the end are detected only by the head.
        let report = verify(whole.as_bytes()).expect("readable");
        let shorter: String = lines[..3].iter().map(|line| format!("{line}\n")).collect();
        let tail = verify(shorter.as_bytes()).expect("readable");
        assert!(tail.faults.is_empty() && tail.head != report.head);
        assert_eq!((report.records, report.first), (4, Hash::NONE.hex()));
    }
}
