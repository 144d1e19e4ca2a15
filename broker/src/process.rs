//! Protects the process before anything else: the first lines of `main`.
//!
//! `no_new_privs` must be set by the process that starts the broker (systemd's `NoNewPrivileges=`):
//! children inherit it, and a `credential_process` may be set-gid (1Password's `op` is) or run
//! through `sudo`. A confined thread has it; those programs are run by a thread that isn't
//! confined.

#[cfg(target_os = "linux")]
mod landlock;
pub(crate) mod outside;
mod supervisor;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit};

pub use self::supervisor::Supervisor;
use crate::error::Error;

/// Denies other processes access to this process's memory and to the files that it creates.
///
/// # Errors
/// The kernel refused; a broker that can't protect its memory doesn't start.
pub fn harden() -> Result<(), Error> {
    // New files are private to this user unless the permissions are widened explicitly.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    // The attack: another process of the same user reads the keys from /proc/PID/mem, or attaches a
    // debugger.
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|source| failed("make the process undumpable", source))?;
    // A core file would contain the keys.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none)
        .map_err(|source| failed("switch off core files", source))?;
    raise_descriptors();
    Ok(())
}

/// More than the connections that the intake allows, with descriptors for files and children.
const DESCRIPTORS: u64 = 16_384;

/// Raises the usual soft limit of 1024, which is for programs that use select(2). If the hard limit
/// is lower than `DESCRIPTORS`, the intake accepts fewer connections.
fn raise_descriptors() {
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(DESCRIPTORS, |maximum| maximum.min(DESCRIPTORS));
    if current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum };
        // If the kernel refuses, the previous limit stays, and the intake uses that.
        rustix::process::setrlimit(Resource::Nofile, raised).ok();
    }
}

/// The number of file descriptors that this process may open.
pub fn descriptors() -> u64 {
    rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(DESCRIPTORS)
}

/// Takes standard input, and replaces it with `/dev/null`: a `credential_process` inherits standard
/// input, and could read what is sent to the broker.
///
/// # Errors
/// There is no standard input, or no `/dev/null`.
pub fn take_stdin() -> Result<OwnedFd, Error> {
    let duplicate = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| Error::Process { what: "take over standard input", source })?;
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|source| failed("open /dev/null", source))?;
    rustix::stdio::dup2_stdin(&null).map_err(|source| failed("replace standard input", source))?;
    Ok(duplicate)
}

/// The paths that a process may open; paths may be missing.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Access {
    /// Files, and directories with their contents, to be read.
    pub(crate) read: Vec<PathBuf>,
    /// The same, to be written too.
    pub(crate) write: Vec<PathBuf>,
}

/// The result of a confinement.
#[derive(Debug)]
pub(crate) enum Confinement {
    /// The confinement is complete.
    Full,
    /// The kernel supports only a part of it.
    Partial,
    /// The kernel doesn't support it, or refuses.
    None(io::Error),
}

/// Denies this thread, and the threads and programs that it starts, access to all files but the
/// allowed ones, as far as the kernel supports it, even if an attacker takes them over. One thread
/// stays [`outside`].
pub(crate) fn confine(allowed: &Access) -> Confinement {
    if let Err(error) = outside::start() {
        return Confinement::None(error);
    }
    #[cfg(target_os = "linux")]
    match landlock::restrict(&allowed.read, &allowed.write) {
        Ok(::landlock::RulesetStatus::FullyEnforced) => Confinement::Full,
        Ok(::landlock::RulesetStatus::PartiallyEnforced) => Confinement::Partial,
        Ok(::landlock::RulesetStatus::NotEnforced) => {
            Confinement::None(io::Error::other("the kernel has no Landlock, or it is switched off"))
        }
        Err(error) => Confinement::None(error),
    }
    #[cfg(not(target_os = "linux"))]
    {
        let Access { read: _, write: _ } = allowed;
        Confinement::None(io::Error::other("only Linux supports it"))
    }
}

/// Whether this process can open only files that were named at the start.
pub(crate) fn is_confined() -> bool {
    #[cfg(target_os = "linux")]
    return landlock::is_confined();
    #[cfg(not(target_os = "linux"))]
    return false;
}

/// Adds to an error of a file that it may have been named after the confinement, and what to do.
pub(crate) fn explained(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied || !is_confined() {
        return error;
    }
    let hint =
        "the broker may open only what was named when it started: if this is newer, restart it";
    io::Error::new(error.kind(), format!("{error}: {hint}"))
}

/// Whether this process may set this group on its own files.
pub(crate) fn may_give_to(gid: u32) -> bool {
    let is_member = |groups: Vec<rustix::process::Gid>| groups.iter().any(|it| it.as_raw() == gid);
    rustix::process::geteuid().is_root()
        || rustix::process::getegid().as_raw() == gid
        || rustix::process::getgroups().is_ok_and(is_member)
}

fn failed(what: &'static str, source: rustix::io::Errno) -> Error {
    Error::Process { what, source: source.into() }
}
