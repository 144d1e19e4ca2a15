//! `audit verify`: checks whether the hash chain of an audit log is intact.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::table::print;
use crate::audit::{self, Report};
use crate::error::Error;

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check that no record was changed, removed or moved
    Verify(Verify),
}

#[derive(Debug, Args)]
struct Verify {
    /// Audit log, as the broker writes it
    file: PathBuf,
    /// SHA-256 of the last line, from the metric sigward_audit_head; without it, records removed
    /// from the end aren't detected
    #[arg(long, value_name = "SHA256")]
    head: Option<String>,
}

/// Prints the result. Succeeds if the chain is intact.
pub(super) fn run(options: &Options) -> Result<ExitCode, Error> {
    let Command::Verify(Verify { file, head }) = &options.command;
    let failed = |source| Error::Audit { path: file.clone(), source };
    let open = File::open(file).map_err(failed)?;
    let report = audit::verify(BufReader::new(open)).map_err(failed)?;
    let (text, whole) = describe(&report, head.as_deref());
    print(&text);
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn describe(report: &Report, head: Option<&str>) -> (String, bool) {
    let Report { records, first, head: found, faults } = report;
    let mut text = format!("{records} records\nfollows {first}\nhead    {found}\n");
    for fault in faults {
        text += &format!("{fault}\n");
    }
    let cut = head.is_some_and(|head| !head.eq_ignore_ascii_case(found));
    if cut {
        text += "the head differs: records are missing at the end, or the last one was changed\n";
    }
    let whole = faults.is_empty() && !cut;
    text += if whole { "The chain is whole.\n" } else { "The chain is broken.\n" };
    (text, whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_tail_is_detected_by_the_head() {
        let report =
            Report { records: 2, first: "0".to_owned(), head: "AB".to_owned(), faults: Vec::new() };
        assert!(describe(&report, None).1 && describe(&report, Some("ab")).1);
        let (text, whole) = describe(&report, Some("cd"));
        assert!(!whole && text.contains("records are missing"), "{text}");
        let broken = Report { faults: vec!["line 2 isn't a record".to_owned()], ..report };
        let (text, whole) = describe(&broken, Some("AB"));
        assert!(!whole && text.contains("line 2 isn't a record\nThe chain is broken."), "{text}");
    }
}
