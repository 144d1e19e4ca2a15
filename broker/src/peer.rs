//! Who is at the other end of a connection, by the kernel's word.
//!
//! Invariant: a [`Peer`] exists only where the kernel named a uid. A connection without one has no
//! peer, and no peer is denied. The uid is the identity; what `exe` says is a convenience on top,
//! since a process can be made to run other code than its file.

use std::path::{Path, PathBuf};

/// The process that opened a connection, as it was then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The user.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The process, where the kernel can name it in our pid namespace.
    pub pid: Option<i32>,
    /// The executable, looked up only where a rule asks for it.
    pub exe: Option<PathBuf>,
}

/// What a rule says about peers. All that is given must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerPattern {
    /// The user.
    pub uid: Option<u32>,
    /// The primary group.
    pub gid: Option<u32>,
    /// The executable's absolute path.
    pub exe: Option<PathBuf>,
}

impl PeerPattern {
    /// Whether the peer is one of those meant. A pattern that says nothing means nobody.
    #[must_use]
    pub fn matches(&self, peer: &Peer) -> bool {
        *self != Self::default()
            && self.uid.is_none_or(|uid| uid == peer.uid)
            && self.gid.is_none_or(|gid| gid == peer.gid)
            && self.exe.as_ref().is_none_or(|exe| peer.exe.as_ref() == Some(exe))
    }
}

impl Peer {
    /// The peer of credentials that the kernel gave. `look_up_exe` costs two reads of /proc, and is
    /// asked for only where a rule needs it.
    #[must_use]
    pub fn new(uid: u32, gid: u32, pid: Option<i32>, look_up_exe: bool) -> Self {
        // 0 is what a process outside our pid namespace looks like.
        let pid = pid.filter(|pid| *pid > 0);
        let exe = if look_up_exe { pid.and_then(executable) } else { None };
        Self { uid, gid, pid, exe }
    }

    /// Whether it is the user that the broker runs as, who could read the broker's AWS files itself.
    pub(crate) fn is_own_user(&self) -> bool {
        self.uid == rustix::process::getuid().as_raw()
    }
}

/// The executable of a process that was there before and after the look.
///
/// The attack: connect, hand the socket to a child, exit, and wait until the pid belongs to an
/// allowed program. So the process is pinned first, and must still live after its /proc entry was
/// read; what can't be pinned has no executable.
#[cfg(target_os = "linux")]
fn executable(pid: i32) -> Option<PathBuf> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    let pinned = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let exe = std::fs::read_link(Path::new("/proc").join(pid.to_string()).join("exe")).ok()?;
    // A pidfd is readable once its process has exited.
    let mut fds = [PollFd::new(&pinned, PollFlags::IN)];
    let exited = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).ok()? > 0;
    // A file that was replaced since reads as "… (deleted)", and matches no rule.
    (!exited).then_some(exe)
}

/// Only Linux can answer; elsewhere an `exe` rule matches nobody.
#[cfg(not(target_os = "linux"))]
fn executable(_pid: i32) -> Option<PathBuf> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer { uid: 1000, gid: 100, pid: Some(7), exe: Some("/usr/bin/agent".into()) }
    }

    #[test]
    fn all_that_a_pattern_says_must_match() {
        let by = |uid, gid, exe: Option<&str>| PeerPattern { uid, gid, exe: exe.map(Into::into) };
        assert!(by(Some(1000), None, None).matches(&peer()));
        assert!(!by(Some(1001), None, None).matches(&peer()));
        assert!(by(None, Some(100), None).matches(&peer()));
        assert!(!by(Some(1000), Some(101), None).matches(&peer()));
        assert!(by(Some(1000), None, Some("/usr/bin/agent")).matches(&peer()));
        assert!(!by(Some(1000), None, Some("/usr/bin/other")).matches(&peer()));
        let faceless = Peer { exe: None, ..peer() };
        assert!(!by(None, None, Some("/usr/bin/agent")).matches(&faceless));
        assert!(!PeerPattern::default().matches(&peer()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_living_process_has_an_executable_and_a_dead_one_has_none() {
        let own = std::process::id().cast_signed();
        assert_eq!(Peer::new(0, 0, Some(own), true).exe, std::env::current_exe().ok());
        assert_eq!(Peer::new(0, 0, Some(own), false).exe, None);
        let mut child = std::process::Command::new("true").spawn().expect("spawn");
        let pid = child.id().cast_signed();
        child.wait().expect("wait");
        assert_eq!(Peer::new(0, 0, Some(pid), true).exe, None);
        let outside = Peer::new(0, 0, Some(0), true);
        assert_eq!((outside.pid, outside.exe), (None, None));
    }
}
