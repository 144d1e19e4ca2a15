//! The socket's file: it gets its group and its mode before anyone can connect.
//!
//! The attack: a member of a group with write access to the directory replaces the socket with a
//! link to another file before the mode is set, and the broker gives the group access to that file.
//! The check of the directory (`trusted`) prevents this; on Linux, the change is also made on an
//! open descriptor that is known to be a socket, not on a path.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// The step that failed, and the error.
type Failure = (&'static str, io::Error);

const NOT_MADE: &str = "the socket can't be created";
const GONE: &str = "the socket was removed";
pub(super) const NO_GROUP: &str = "the group can't be set: is the broker in it?";
const NO_MODE: &str = "the permissions can't be set";

/// A listening socket, and the device and inode of its file.
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

    /// The number of connections that can wait to be accepted; the value of std.
    const BACKLOG: i32 = 4096;

    let failed = |what| move |errno: Errno| (what, io::Error::from(errno));
    let mode = Mode::from_raw_mode(mode);
    let make = || -> rustix::io::Result<OwnedFd> {
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        // The file gets the mode of the socket, reduced by the umask.
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
    // Restores the bits that the umask has removed, because the umask is for other files of this
    // process. There is no fchmod(2) for a descriptor of this kind.
    let name = format!("/proc/self/fd/{}", node.as_raw_fd());
    rustix::fs::chmod(name, mode).map_err(failed(NO_MODE))?;
    // No one can connect before this, so the permissions are never wider than configured.
    rustix::net::listen(&socket, BACKLOG).map_err(failed("it can't be listened on"))?;
    Ok((UnixListener::from(socket), (found.st_dev, found.st_ino)))
}

/// A listening socket, and the device and inode of its file.
#[cfg(not(target_os = "linux"))]
pub(super) fn bind(
    path: &Path,
    mode: u32,
    group: Option<u32>,
) -> Result<(UnixListener, (u64, u64)), Failure> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    // With the umask the mode is 0700: no one else can connect until the group and then the mode
    // are set.
    let listener = UnixListener::bind(path).map_err(|error| (NOT_MADE, error))?;
    let found = std::fs::symlink_metadata(path).map_err(|error| (GONE, error))?;
    if group.is_some() {
        std::os::unix::fs::lchown(path, None, group).map_err(|error| (NO_GROUP, error))?;
    }
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, mode).map_err(|error| (NO_MODE, error))?;
    Ok((listener, (found.dev(), found.ino())))
}
