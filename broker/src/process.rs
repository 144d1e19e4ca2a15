//! What the process does to itself before anything else: the first lines of `main`.
//!
//! `no_new_privs` is left to whoever starts the broker (systemd's `NoNewPrivileges=`): children inherit
//! it, and a `credential_process` may well be set-gid (1Password's `op` is) or run through `sudo`. A confined thread has it;
//! those programs are run by one that isn't.

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

/// Closes the doors to this process's memory and to the files that it makes.
///
/// # Errors
/// The kernel refused; a broker that can't protect its memory doesn't start.
pub fn harden() -> Result<(), Error> {
    // Whatever is made from here on is for this user alone until someone widens it on purpose.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    // Another process of the same user could read the keys from /proc/PID/mem, or attach a debugger.
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|source| failed("make the process undumpable", source))?;
    // A core file would hold them.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none)
        .map_err(|source| failed("switch off core files", source))?;
    raise_descriptors();
    Ok(())
}

/// More connections than the limits of the intake allow, and descriptors for files and children beside.
const DESCRIPTORS: u64 = 16_384;

/// The usual soft limit of 1024 is for programs that use select(2). Where the hard limit is lower than we
/// would like, the intake takes fewer connections.
fn raise_descriptors() {
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(DESCRIPTORS, |maximum| maximum.min(DESCRIPTORS));
    if current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum };
        // Where the kernel refuses, the limit of before holds, and the intake goes by that.
        rustix::process::setrlimit(Resource::Nofile, raised).ok();
    }
}

/// How many descriptors this process may have.
pub fn descriptors() -> u64 {
    rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(DESCRIPTORS)
}

/// Takes what standard input is and leaves `/dev/null` in its place: a `credential_process` inherits
/// our standard input, and would read from it what was meant for us.
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

/// What a process may open: what isn't there may be missing.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Access {
    /// Files, and directories with all that is in them, to be read.
    pub(crate) read: Vec<PathBuf>,
    /// The same, to be written too.
    pub(crate) write: Vec<PathBuf>,
}

/// What came of a confinement.
#[derive(Debug)]
pub(crate) enum Confinement {
    /// It holds.
    Full,
    /// The kernel knows only a part of it.
    Partial,
    /// The kernel doesn't know it, or refuses.
    None(io::Error),
}

/// Closes all files to this thread, and to those that it starts, but the ones that are allowed: also to what an attacker
/// makes them run. As far as the kernel can. One thread stays [`outside`].
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
        Confinement::None(io::Error::other("only Linux does it"))
    }
}

/// Whether files that weren't named at the start are closed to this process.
pub(crate) fn is_confined() -> bool {
    #[cfg(target_os = "linux")]
    return landlock::is_confined();
    #[cfg(not(target_os = "linux"))]
    return false;
}

/// An error of a file, with what to do where it may be closed to this process for being named too late.
pub(crate) fn explained(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied || !is_confined() {
        return error;
    }
    let hint =
        "the broker may open only what was named when it started: if this is newer, restart it";
    io::Error::new(error.kind(), format!("{error}: {hint}"))
}

/// Whether this process may make a file of its own one of this group.
pub(crate) fn may_give_to(gid: u32) -> bool {
    let is_member = |groups: Vec<rustix::process::Gid>| groups.iter().any(|it| it.as_raw() == gid);
    rustix::process::geteuid().is_root()
        || rustix::process::getegid().as_raw() == gid
        || rustix::process::getgroups().is_ok_and(is_member)
}

fn failed(what: &'static str, source: rustix::io::Errno) -> Error {
    Error::Process { what, source: source.into() }
}
