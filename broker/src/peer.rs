//! Who is at the other end of a connection, by the kernel's word.
//!
//! Invariant: a [`Peer`] exists only where the kernel named a uid. A connection without one has no
//! peer, and no peer is denied. The uid is the identity; what `exe` says is a convenience on top,
//! since a process can be made to run other code than its file.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

/// The process that opened a connection, as it was then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The user.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The process, where the kernel can name it in our pid namespace.
    pub pid: Option<i32>,
    /// The executable, where it can be seen.
    pub exe: Option<PathBuf>,
}

/// Who is at the other end of a connection, as its calls see it; nobody, where the kernel didn't say.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The peer.
    pub peer: Option<Arc<Peer>>,
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
            && self.gid.is_none_or(|gid| gid == peer.gid && !is_unmapped_gid(gid))
            && self.exe.as_ref().is_none_or(|exe| peer.exe.as_ref() == Some(exe))
    }
}

impl Peer {
    /// The peer of credentials that the kernel gave; nobody, where it couldn't name the user. The
    /// executable is looked up whether or not a rule asks for it: the next one may.
    #[must_use]
    pub fn new(uid: u32, gid: u32, pid: Option<i32>) -> Option<Self> {
        if is_unmapped_uid(uid) {
            return None;
        }
        // 0 is what a process outside our pid namespace looks like.
        let pid = pid.filter(|pid| *pid > 0);
        let exe = pid.and_then(executable);
        Some(Self { uid, gid, pid, exe })
    }

    /// Whether it is the user that the broker runs as, who could read the broker's AWS files itself.
    pub(crate) fn is_own_user(&self) -> bool {
        self.uid == rustix::process::getuid().as_raw()
    }
}

/// Whether the kernel gives this uid to users that have none in our user namespace.
///
/// The attack: all of them are one user then, and where the broker runs as that one too (a container
/// with `runAsUser: 65534`), any process of the host that reaches the socket would be the broker's own.
#[must_use]
pub fn is_unmapped_uid(uid: u32) -> bool {
    static OVERFLOW: LazyLock<u32> = LazyLock::new(|| overflow("overflowuid"));
    uid == *OVERFLOW
}

/// The same for groups.
#[must_use]
pub fn is_unmapped_gid(gid: u32) -> bool {
    static OVERFLOW: LazyLock<u32> = LazyLock::new(|| overflow("overflowgid"));
    gid == *OVERFLOW
}

fn overflow(name: &str) -> u32 {
    let text = std::fs::read_to_string(Path::new("/proc/sys/kernel").join(name));
    // The kernel's default, where it doesn't say.
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(65534)
}

/// The executable of a process that was there before and after the look.
///
/// The attack: connect, hand the socket to a child, exit, and wait until the pid belongs to an
/// allowed program. So the process is pinned first, and must still live after its /proc entry was
/// read; what can't be pinned has no executable.
///
/// What it can't promise: that the program speaks. A pid that was taken again before we pinned it is
/// pinned as well; and a process may share its socket with a child, connect, and become the allowed
/// program while the child speaks. So `exe` narrows a uid or gid, and a rule with `exe` alone is refused.
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

    #[test]
    fn a_user_whom_the_kernel_cannot_name_is_no_peer() {
        let unmapped = overflow("overflowuid");
        assert_eq!(Peer::new(unmapped, 0, None), None);
        assert!(Peer::new(unmapped - 1, 0, None).is_some());
        let gid = overflow("overflowgid");
        let pattern = PeerPattern { gid: Some(gid), ..PeerPattern::default() };
        assert!(!pattern.matches(&Peer { gid, ..peer() }));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_living_process_has_an_executable_and_a_dead_one_has_none() {
        let own = std::process::id().cast_signed();
        let new = |pid| Peer::new(0, 0, Some(pid)).expect("a peer");
        assert_eq!(new(own).exe, std::env::current_exe().ok());
        let mut child = std::process::Command::new("true").spawn().expect("spawn");
        let pid = child.id().cast_signed();
        child.wait().expect("wait");
        assert_eq!(new(pid).exe, None);
        let outside = new(0);
        assert_eq!((outside.pid, outside.exe), (None, None));
    }
}
