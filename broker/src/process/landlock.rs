//! Landlock: restricts the files that this process can open, whatever code runs in it.
//!
//! <https://docs.kernel.org/userspace-api/landlock.html>
//!
//! Invariant: a restriction applies to the calling thread and the threads that it starts, so it is
//! set before there are others. It can't be removed. Children inherit it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use landlock::{
    ABI, Access, AccessFs, BitFlags, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus,
};

/// The requested version; an older kernel enforces what it supports.
const VERSION: ABI = ABI::V5;

static CONFINED: AtomicBool = AtomicBool::new(false);

/// Whether this process can open only the named files.
pub(super) fn is_confined() -> bool {
    CONFINED.load(Ordering::Relaxed)
}

/// Denies this thread and the threads that it starts access to all files but the given ones and
/// their contents. Returns how much of that the kernel enforces.
///
/// # Errors
/// The kernel refuses, although it supports Landlock.
pub(super) fn restrict(readable: &[PathBuf], writable: &[PathBuf]) -> io::Result<RulesetStatus> {
    let status = enforce(readable, writable).map_err(io::Error::other)?;
    CONFINED.store(status.ruleset != RulesetStatus::NotEnforced, Ordering::Relaxed);
    Ok(status.ruleset)
}

fn enforce(readable: &[PathBuf], writable: &[PathBuf]) -> Result<RestrictionStatus, RulesetError> {
    let mut rules = Ruleset::default().handle_access(AccessFs::from_all(VERSION))?.create()?;
    for (paths, access) in [(readable, read()), (writable, read() | write())] {
        // A missing path can't be opened anyway.
        for (path, file) in paths.iter().filter_map(|path| Some((path, PathFd::new(path).ok()?))) {
            rules = rules.add_rule(PathBeneath::new(file, fitting(path, access)))?;
        }
    }
    rules.restrict_self()
}

fn read() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::ReadDir
}

/// Writes files and sockets, and replaces them within a directory.
fn write() -> BitFlags<AccessFs> {
    AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSock
        | AccessFs::RemoveFile
}

/// The access rights that apply to a file.
fn fitting(path: &Path, access: BitFlags<AccessFs>) -> BitFlags<AccessFs> {
    if path.is_dir() { access } else { access & AccessFs::from_file(VERSION) }
}
