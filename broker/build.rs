//! The text of `--version`: the version, and if known the commit and the date of the sources, as rustc prints them.
//!
//! `proxy/build.rs` is a link to this file, since a published crate has its own build script.
//!
//! The script runs again only when sources of the crate change, which recompiles the crate in any case: a commit alone
//! recompiles nothing. So the commit is the one at which these sources were first built, with `+changes` if they
//! differed from it.
//!
//! The date is `SOURCE_DATE_EPOCH`, else the commit's. The clock is never used, so builds are reproducible. A build from a
//! package of crates.io has no date: cargo keeps only the commit.

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The sources of the crate. Some are missing for a published crate.
const SOURCES: [&str; 7] = [
    "build.rs",
    "Cargo.toml",
    "src",
    "deploy/systemd",
    "../Cargo.lock",
    "../proto/src",
    "../proto/sigward",
];

/// The files in which cargo and our source archive keep the commit of a package.
const VCS_INFO: [&str; 2] = [".cargo_vcs_info.json", "../.cargo_vcs_info.json"];

/// The number of digits of a commit that are shown.
const DIGITS: usize = 12;

#[allow(clippy::print_stdout, reason = "cargo reads build scripts on standard output")]
fn main() -> Result<(), Box<dyn Error>> {
    for path in SOURCES.iter().chain(&VCS_INFO).filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
    for variable in ["SIGWARD_COMMIT", "SOURCE_DATE_EPOCH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let known: Vec<String> = [commit()?, date()?].into_iter().flatten().collect();
    let version = variable("CARGO_PKG_VERSION").unwrap_or_default();
    let details = if known.is_empty() { String::new() } else { format!(" ({})", known.join(" ")) };
    println!("cargo::rustc-env=SIGWARD_VERSION={version}{details}");
    Ok(())
}

/// The commit, from the environment, the package or the repository.
fn commit() -> Result<Option<String>, String> {
    if let Some(given) = variable("SIGWARD_COMMIT") {
        let short = shortened(&given);
        return short.map(Some).ok_or(format!("SIGWARD_COMMIT={given} isn't a commit"));
    }
    for path in VCS_INFO {
        let Ok(text) = fs::read_to_string(path) else { continue };
        let sha1 = text.split_once("\"sha1\"").and_then(|(_, rest)| rest.split('"').nth(1));
        let commit = sha1.and_then(shortened).ok_or(format!("{path} names no commit"))?;
        return Ok(Some(if text.contains("\"dirty\"") { commit + "+changes" } else { commit }));
    }
    // Not of an unrelated repository around these sources.
    if git(&["ls-files", "--error-unmatch", "build.rs"]).is_none() {
        return Ok(None);
    }
    let Some(commit) = git(&["rev-parse", "HEAD"]).as_deref().and_then(shortened) else {
        return Ok(None);
    };
    let status = ["status", "--porcelain", "--untracked-files=no", "--"];
    let sources = SOURCES.into_iter().filter(|path| Path::new(path).exists());
    let changed = git(&status.into_iter().chain(sources).collect::<Vec<_>>());
    let is_clean = changed.is_some_and(|changed| changed.is_empty());
    Ok(Some(if is_clean { commit } else { commit + "+changes" }))
}

fn shortened(commit: &str) -> Option<String> {
    let is_commit = commit.len() >= DIGITS && commit.chars().all(|c| c.is_ascii_hexdigit());
    is_commit.then(|| commit[..DIGITS].to_owned())
}

/// The date in UTC, as `2026-11-26`.
fn date() -> Result<Option<String>, String> {
    if let Some(given) = variable("SOURCE_DATE_EPOCH") {
        let seconds =
            given.parse().map_err(|_| format!("SOURCE_DATE_EPOCH={given}: not a number"))?;
        return Ok(Some(day(seconds)));
    }
    if let Some(text) = VCS_INFO.iter().find_map(|path| fs::read_to_string(path).ok()) {
        // Only our source archive has it.
        let time = text.split_once("\"time\":").map(|(_, rest)| rest.trim_start());
        let digits = time.map(|time| time.split(|c: char| !c.is_ascii_digit()));
        return Ok(digits.and_then(|mut it| it.next()?.parse().ok()).map(day));
    }
    if git(&["ls-files", "--error-unmatch", "build.rs"]).is_none() {
        return Ok(None);
    }
    let seconds = git(&["show", "--no-patch", "--format=%ct", "HEAD"]);
    Ok(seconds.and_then(|seconds| seconds.parse().ok()).map(day))
}

/// The day of a Unix time, in the Gregorian calendar.
fn day(seconds: u64) -> String {
    // Years begin with March, so that the leap day is the last one; 1 March 0000 is 719,468 days before 1970.
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", era * 400 + year_of_era + carry)
}

/// The output of git, unless it fails or is missing.
fn git(arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    // Without locks: another git may be working in the same tree.
    let output = command.env("GIT_OPTIONAL_LOCKS", "0").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

#[allow(clippy::disallowed_methods, reason = "cargo passes values in the environment")]
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}
