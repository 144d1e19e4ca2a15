//! Landlock: what this process may open from here on, whatever runs in it.
//!
//! <https://docs.kernel.org/userspace-api/landlock.html>
//!
//! Invariant: it holds for the thread that asks for it and for those that it starts: so it is asked for before there is
//! another one. It can't be undone. Children inherit it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use landlock::{
    ABI, Access, AccessFs, BitFlags, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus,
};

/// What is asked for; an older kernel enforces what it knows of it.
const VERSION: ABI = ABI::V5;

static CONFINED: AtomicBool = AtomicBool::new(false);

/// Whether files that weren't named are closed to this process.
pub(super) fn is_confined() -> bool {
    CONFINED.load(Ordering::Relaxed)
}

/// Closes all files to this thread and those that it starts, but the ones that are given with all that is in them. Tells how much of that the
/// kernel enforces.
///
/// # Errors
/// The kernel refuses, though it knows Landlock.
pub(super) fn restrict(readable: &[PathBuf], writable: &[PathBuf]) -> io::Result<RulesetStatus> {
    let status = enforce(readable, writable).map_err(io::Error::other)?;
    CONFINED.store(status.ruleset != RulesetStatus::NotEnforced, Ordering::Relaxed);
    Ok(status.ruleset)
}

fn enforce(readable: &[PathBuf], writable: &[PathBuf]) -> Result<RestrictionStatus, RulesetError> {
    let mut rules = Ruleset::default().handle_access(AccessFs::from_all(VERSION))?.create()?;
    for (paths, access) in [(readable, read()), (writable, read() | write())] {
        // What isn't there can't be opened either.
        for (path, file) in paths.iter().filter_map(|path| Some((path, PathFd::new(path).ok()?))) {
            rules = rules.add_rule(PathBeneath::new(file, fitting(path, access)))?;
        }
    }
    rules.restrict_self()
}

fn read() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::ReadDir
}

/// To write files and sockets, and to put one in place of another in the same directory.
fn write() -> BitFlags<AccessFs> {
    AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSock
        | AccessFs::RemoveFile
}

/// What of it makes sense for a file.
fn fitting(path: &Path, access: BitFlags<AccessFs>) -> BitFlags<AccessFs> {
    if path.is_dir() { access } else { access & AccessFs::from_file(VERSION) }
}
