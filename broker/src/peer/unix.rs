//! The process at the other end of a Unix socket, as the kernel reports it.
//!
//! Invariant: a [`UnixPeer`] exists only if the kernel has reported a uid. A connection without one
//! has no peer, and is denied. The uid is the identity; `exe` is only an additional condition,
//! because a process can be made to run other code than its file.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

#[cfg(target_os = "linux")]
use crate::process::outside;

/// The process that opened a connection, as it was then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixPeer {
    /// The user.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The supplementary groups of the process, if they can be read.
    pub groups: Vec<u32>,
    /// The process id, if the process is in this pid namespace.
    pub pid: Option<i32>,
    /// The executable, if it can be read.
    pub exe: Option<PathBuf>,
}

/// A rule's condition on processes. All given parts must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnixPattern {
    /// The user.
    pub uid: Option<u32>,
    /// A group, primary or supplementary.
    pub gid: Option<u32>,
    /// The executable's absolute path.
    pub exe: Option<PathBuf>,
}

impl UnixPattern {
    /// Whether the pattern matches the peer. An empty pattern matches no peer.
    #[must_use]
    pub fn matches(&self, peer: &UnixPeer) -> bool {
        *self != Self::default()
            && self.uid.is_none_or(|uid| uid == peer.uid)
            && self.gid.is_none_or(|gid| peer.is_in(gid))
            && self.exe.as_ref().is_none_or(|exe| peer.exe.as_ref() == Some(exe))
    }

    /// Whether one process may match both patterns, if it has one group.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        fn agree<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
            one.zip(other).is_none_or(|(one, other)| one == other)
        }
        agree(self.uid.as_ref(), other.uid.as_ref())
            && agree(self.gid.as_ref(), other.gid.as_ref())
            && agree(self.exe.as_ref(), other.exe.as_ref())
    }
}

impl UnixPeer {
    /// The peer with credentials from the kernel; `None` if the user isn't mapped. The executable
    /// is always read, because a later rule may need it.
    #[must_use]
    pub fn new(uid: u32, gid: u32, pid: Option<i32>) -> Option<Self> {
        if is_unmapped_uid(uid) {
            return None;
        }
        // The kernel reports 0 for a process outside this pid namespace.
        let pid = pid.filter(|pid| *pid > 0);
        let process = pid.and_then(|pid| process(pid, uid)).unwrap_or_default();
        Some(Self { uid, gid, groups: process.groups, pid, exe: process.exe })
    }

    fn is_in(&self, gid: u32) -> bool {
        (gid == self.gid || self.groups.contains(&gid)) && !is_unmapped_gid(gid)
    }

    /// Whether it is the user that the broker runs as, who could read the broker's AWS files itself.
    pub(super) fn is_own_user(&self) -> bool {
        self.uid == rustix::process::getuid().as_raw()
    }
}

/// Whether the kernel uses this uid for users that aren't mapped in this user namespace.
///
/// The attack: all of them have the same uid, and if the broker runs as that one too (a container
/// with `runAsUser: 65534`), any process of the host that reaches the socket would count as the
/// broker's own.
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
    // The kernel's default, if it can't be read.
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(65534)
}

/// Data about a process from `/proc`.
#[derive(Debug, Default)]
struct Process {
    exe: Option<PathBuf>,
    groups: Vec<u32>,
}

/// Reads data about a process that exists before and after.
///
/// The attack: connect, hand the socket to a child, exit, and wait until the pid belongs to an
/// allowed program. So the process is pinned first, and must still exist after its /proc entry was
/// read; a process that can't be pinned has no data.
///
/// A known limit: this doesn't prove that the program itself is speaking. A pid that was reused
/// before it was pinned is pinned as well; and a process may share its socket with a child,
/// connect, and become the allowed program while the child uses it. So `exe` only narrows a uid or
/// gid, and a rule with `exe` alone is refused; and the groups are used only if the process has the
/// same user.
#[cfg(target_os = "linux")]
fn process(pid: i32, uid: u32) -> Option<Process> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    let pinned = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let entry = Path::new("/proc").join(pid.to_string());
    let link = entry.join("exe");
    let exe = outside::run(move || std::fs::read_link(link)).ok();
    let status = std::fs::read_to_string(entry.join("status")).unwrap_or_default();
    // A pidfd is readable once its process has exited.
    let mut fds = [PollFd::new(&pinned, PollFlags::IN)];
    let exited = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).ok()? > 0;
    // A replaced file reads as "… (deleted)", and matches no rule.
    (!exited).then(|| Process { exe, groups: groups(&status, uid).unwrap_or_default() })
}

/// The supplementary groups in the text of `/proc/PID/status`, if the process has this user.
#[cfg(target_os = "linux")]
fn groups(status: &str, uid: u32) -> Option<Vec<u32>> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    // The real, effective, saved and file system uids. A connection has the effective one.
    let effective = field("Uid:")?.split_whitespace().nth(1)?;
    if effective.parse() != Ok(uid) {
        return None;
    }
    field("Groups:")?.split_whitespace().map(|gid| gid.parse().ok()).collect()
}

/// Only Linux provides this; elsewhere an `exe` rule matches no peer, and a group is the primary one.
#[cfg(not(target_os = "linux"))]
fn process(_pid: i32, _uid: u32) -> Option<Process> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> UnixPeer {
        let exe = Some("/usr/bin/agent".into());
        UnixPeer { uid: 1000, gid: 100, groups: vec![27, 44], pid: Some(7), exe }
    }

    #[test]
    fn all_parts_of_a_pattern_must_match() {
        let by = |uid, gid, exe: Option<&str>| UnixPattern { uid, gid, exe: exe.map(Into::into) };
        assert!(by(Some(1000), None, None).matches(&peer()));
        assert!(!by(Some(1001), None, None).matches(&peer()));
        assert!(by(None, Some(100), None).matches(&peer()));
        assert!(!by(Some(1000), Some(101), None).matches(&peer()));
        assert!(by(None, Some(44), None).matches(&peer()), "a supplementary group");
        assert!(!by(None, Some(45), None).matches(&peer()));
        assert!(by(Some(1000), None, Some("/usr/bin/agent")).matches(&peer()));
        assert!(!by(Some(1000), None, Some("/usr/bin/other")).matches(&peer()));
        let faceless = UnixPeer { exe: None, ..peer() };
        assert!(!by(None, None, Some("/usr/bin/agent")).matches(&faceless));
        assert!(!UnixPattern::default().matches(&peer()));
    }

    #[test]
    fn an_unmapped_user_is_not_a_peer() {
        let unmapped = overflow("overflowuid");
        assert_eq!(UnixPeer::new(unmapped, 0, None), None);
        assert!(UnixPeer::new(unmapped - 1, 0, None).is_some());
        let gid = overflow("overflowgid");
        let pattern = UnixPattern { gid: Some(gid), ..UnixPattern::default() };
        assert!(!pattern.matches(&UnixPeer { gid, ..peer() }));
        assert!(!pattern.matches(&UnixPeer { groups: vec![gid], ..peer() }));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn groups_are_those_of_a_process_of_the_same_user() {
        let status = "Name:\tx\nUid:\t0\t1000\t0\t0\nGid:\t100\t100\t100\t100\nGroups:\t27 44 \n";
        assert_eq!(groups(status, 1000), Some(vec![27, 44]));
        assert_eq!(groups(status, 0), None, "the pid is another user's by now");
        assert_eq!(groups(&status.replace("27 44 ", ""), 1000), Some(Vec::new()));
        assert_eq!(groups(&status.replace("44", "x"), 1000), None);
        assert_eq!(groups("", 1000), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_running_process_has_an_executable_and_an_exited_one_has_none() {
        let own = std::process::id().cast_signed();
        let uid = rustix::process::geteuid().as_raw();
        let new = |pid| UnixPeer::new(uid, 0, Some(pid)).expect("a peer");
        assert_eq!(new(own).exe, std::env::current_exe().ok());
        let groups = rustix::process::getgroups().expect("groups");
        let mut groups: Vec<u32> = groups.into_iter().map(|group| group.as_raw()).collect();
        let mut seen = new(own).groups;
        groups.sort_unstable();
        seen.sort_unstable();
        assert_eq!(seen, groups);
        let mut child = std::process::Command::new("true").spawn().expect("spawn");
        let pid = child.id().cast_signed();
        child.wait().expect("wait");
        assert_eq!(new(pid).exe, None);
        let outside = new(0);
        assert_eq!((outside.pid, outside.exe), (None, None));
    }
}
