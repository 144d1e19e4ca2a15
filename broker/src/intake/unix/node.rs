//! The socket's file: made with its group and its mode before anybody can connect.
//!
//! The attack: a member of a group that writes to the directory puts a link to another file in the place of the socket
//! before its mode is set, and the broker opens that file to the group. The check of the directory (`trusted`) is
//! against that; on Linux, what is changed is also what is open and known to be a socket, not a name.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// What failed, and why.
type Failure = (&'static str, io::Error);

const NOT_MADE: &str = "the socket can't be made";
const GONE: &str = "the socket is gone again";
pub(super) const NO_GROUP: &str = "its group can't be set: is the broker in it?";
const NO_MODE: &str = "its permissions can't be set";

/// A listening socket, and its file's device and inode.
#[cfg(target_os = "linux")]
pub(super) fn bind(
    path: &Path,
    mode: u32,
    group: Option<u32>,
) -> Result<(UnixListener, (u64, u64)), Failure> {
    use std::os::fd::{AsRawFd, OwnedFd};

    use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags};
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

    /// As many connections wait to be accepted; std's value.
    const BACKLOG: i32 = 4096;

    let failed = |what| move |errno: Errno| (what, io::Error::from(errno));
    let mode = Mode::from_raw_mode(mode);
    let make = || -> rustix::io::Result<OwnedFd> {
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        // A socket hands its mode on to its file, cut by the umask.
        rustix::fs::fchmod(&socket, mode)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    };
    let socket = make().map_err(failed(NOT_MADE))?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::open(path, flags, Mode::empty()).map_err(failed(GONE))?;
    let found = rustix::fs::fstat(&node).map_err(failed(GONE))?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
        return Err(failed(GONE)(Errno::NOTSOCK));
    }
    if let Some(group) = group {
        let group = Some(Gid::from_raw(group));
        let this = AtFlags::EMPTY_PATH;
        rustix::fs::chownat(&node, "", None, group, this).map_err(failed(NO_GROUP))?;
    }
    // What the umask has cut: it is for everything else that this process makes. There is no fchmod(2) for a
    // descriptor of this kind.
    let name = format!("/proc/self/fd/{}", node.as_raw_fd());
    rustix::fs::chmod(name, mode).map_err(failed(NO_MODE))?;
    // Until here nobody can connect, so there is no moment of other permissions.
    rustix::net::listen(&socket, BACKLOG).map_err(failed("it can't be listened on"))?;
    Ok((UnixListener::from(socket), (found.st_dev, found.st_ino)))
}

/// A listening socket, and its file's device and inode.
#[cfg(not(target_os = "linux"))]
pub(super) fn bind(
    path: &Path,
    mode: u32,
    group: Option<u32>,
) -> Result<(UnixListener, (u64, u64)), Failure> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    // The umask makes it 0700: nobody else can connect until its group and then its mode are set.
    let listener = UnixListener::bind(path).map_err(|error| (NOT_MADE, error))?;
    let found = std::fs::symlink_metadata(path).map_err(|error| (GONE, error))?;
    if group.is_some() {
        std::os::unix::fs::lchown(path, None, group).map_err(|error| (NO_GROUP, error))?;
    }
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, mode).map_err(|error| (NO_MODE, error))?;
    Ok((listener, (found.dev(), found.ino())))
}
