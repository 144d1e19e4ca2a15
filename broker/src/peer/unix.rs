//! The process at the other end of a Unix socket, as the kernel reports it.
//!
//! Invariant: a [`UnixPeer`] exists only where the kernel named a uid. A connection without one has no
//! peer, and no peer is denied. The uid is the identity; what `exe` says is a convenience on top,
//! since a process can be made to run other code than its file.

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
    /// The other groups that its process was in, where they can be seen.
    pub groups: Vec<u32>,
    /// The process, where the kernel can name it in our pid namespace.
    pub pid: Option<i32>,
    /// The executable, where it can be seen.
    pub exe: Option<PathBuf>,
}

/// What a rule says about processes. All that is given must match.
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
    /// Whether the peer is one of those meant. A pattern that says nothing means nobody.
    #[must_use]
    pub fn matches(&self, peer: &UnixPeer) -> bool {
        *self != Self::default()
            && self.uid.is_none_or(|uid| uid == peer.uid)
            && self.gid.is_none_or(|gid| peer.is_in(gid))
            && self.exe.as_ref().is_none_or(|exe| peer.exe.as_ref() == Some(exe))
    }

    /// Whether one process may be meant by both, if it has one group.
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
    /// The peer of credentials that the kernel gave; nobody, where it couldn't name the user. The
    /// executable is looked up whether or not a rule asks for it: the next one may.
    #[must_use]
    pub fn new(uid: u32, gid: u32, pid: Option<i32>) -> Option<Self> {
        if is_unmapped_uid(uid) {
            return None;
        }
        // 0 is what a process outside our pid namespace looks like.
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

/// What `/proc` says of a process.
#[derive(Debug, Default)]
struct Process {
    exe: Option<PathBuf>,
    groups: Vec<u32>,
}

/// What there is to know of a process that was there before and after the look.
///
/// The attack: connect, hand the socket to a child, exit, and wait until the pid belongs to an
/// allowed program. So the process is pinned first, and must still live after its /proc entry was
/// read; of what can't be pinned nothing is known.
///
/// What it can't promise: that the program speaks. A pid that was taken again before we pinned it is
/// pinned as well; and a process may share its socket with a child, connect, and become the allowed
/// program while the child speaks. So `exe` narrows a uid or gid, and a rule with `exe` alone is refused;
/// and the groups are those of a process of the same user, or none.
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
    // A file that was replaced since reads as "… (deleted)", and matches no rule.
    (!exited).then(|| Process { exe, groups: groups(&status, uid).unwrap_or_default() })
}

/// The supplementary groups in the text of `/proc/PID/status`, of a process that is this user's.
#[cfg(target_os = "linux")]
fn groups(status: &str, uid: u32) -> Option<Vec<u32>> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    // Real, effective, saved, of the file system. A connection has the effective one.
    let effective = field("Uid:")?.split_whitespace().nth(1)?;
    if effective.parse() != Ok(uid) {
        return None;
    }
    field("Groups:")?.split_whitespace().map(|gid| gid.parse().ok()).collect()
}

/// Only Linux can answer; elsewhere an `exe` rule matches nobody, and a group is the primary one.
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
    fn all_that_a_pattern_says_must_match() {
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
    fn a_user_whom_the_kernel_cannot_name_is_no_peer() {
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
    fn a_living_process_has_an_executable_and_a_dead_one_has_none() {
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
