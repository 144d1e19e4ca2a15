//! The listening socket: made without a moment of wider permissions, or taken over from systemd; and
//! the private broker's one connection.
//!
//! Invariant: a socket file is only ever removed by the broker that holds its lock.

use std::fs::{DirBuilder, File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use rustix::fs::{AtFlags, CWD, FlockOperation, Gid, OFlags};

use crate::config::Listen;
use crate::error::Error;

/// Where to listen if the configuration names no path.
#[derive(Debug)]
pub struct Sockets {
    /// What the service manager passed.
    pub inherited: Option<io::Result<UnixListener>>,
    /// Where a user expects it.
    pub default: PathBuf,
}

impl Sockets {
    /// Takes the socket of the service manager, if there is one. Only before there is another thread: it
    /// removes what it read from the environment.
    #[must_use]
    pub fn take(default: PathBuf) -> Self {
        let inherited = ListenFd::from_env().take_unix_listener(0).transpose();
        Self { inherited, default }
    }
}

/// A listening socket, and the file that goes with it.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    pub(crate) file: Option<SocketFile>,
}

/// A socket file that is removed on drop, if it is still the one that was made.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    /// Locked as long as this broker lives.
    _lock: File,
}

impl Socket {
    /// The socket of systemd, if it passed one, else one at the configured or default path.
    pub(crate) fn open(listen: &Listen, sockets: Sockets) -> Result<Self, Error> {
        match sockets.inherited {
            Some(Ok(listener)) => Self::inherited(listener, listen),
            Some(Err(source)) => Err(refused("the inherited socket", "not a Unix socket", source)),
            None => Self::bind(listen.unix.as_ref().unwrap_or(&sockets.default), listen),
        }
    }

    fn inherited(listener: UnixListener, listen: &Listen) -> Result<Self, Error> {
        let address = listener.local_addr().ok();
        let path = address.as_ref().and_then(|address| address.as_pathname());
        let differs = |wanted: &PathBuf| path != Some(wanted.as_path());
        let why = if listen.unix.as_ref().is_some_and(differs) {
            "the service manager passed a socket of another path than listen.unix: make them equal"
        } else if listen.mode.is_some() || listen.group.is_some() {
            "the service manager made the socket: set SocketMode= and SocketGroup= in its unit, \
             and leave listen.mode and listen.group out"
        } else {
            return Ok(Self { listener, file: None });
        };
        let socket =
            path.map_or_else(|| "the inherited socket".into(), |path| path.display().to_string());
        Err(Error::Listen { socket, why: why.to_owned(), source: None })
    }

    fn bind(path: &Path, listen: &Listen) -> Result<Self, Error> {
        let socket = path.display().to_string();
        let fail = |why: &str, source: io::Error| refused(&socket, why, source);
        let file = claim(path)?;
        // The umask of `harden` makes the file 0700: nobody else can connect until it is opened below.
        let listener =
            UnixListener::bind(path).map_err(|source| fail("the socket can't be made", source))?;
        let made = std::fs::symlink_metadata(path)
            .map_err(|source| fail("the socket is gone again", source))?;
        let file = SocketFile { path: path.to_owned(), identity: identity(&made), _lock: file };
        // The group first: with the mode first, the broker's own group would get in for a moment.
        if let Some(group) = listen.group {
            let group = Some(Gid::from_raw(group.0));
            rustix::fs::chownat(CWD, path, None, group, AtFlags::SYMLINK_NOFOLLOW).map_err(
                |errno| fail("its group can't be set: is the broker in it?", errno.into()),
            )?;
        }
        let mode = std::fs::Permissions::from_mode(listen.mode.unwrap_or(0o600));
        std::fs::set_permissions(path, mode)
            .map_err(|source| fail("its permissions can't be set", source))?;
        Ok(Self { listener, file: Some(file) })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| identity(&found) == self.identity);
        if ours {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Makes the path free for a socket of ours, and keeps other brokers off it by a lock: two that start
/// together would both find a dead socket, and the second would remove the first one's new one.
fn claim(path: &Path) -> Result<File, Error> {
    let socket = path.display().to_string();
    let fail = |why: &str, source: io::Error| refused(&socket, why, source);
    let live = || Error::Listen {
        socket: socket.clone(),
        why: "a broker serves it already: stop that one, or choose another path".to_owned(),
        source: None,
    };
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| fail("its directory can't be made", source))?;
    let about = std::fs::metadata(directory)
        .map_err(|source| fail("its directory can't be read", source))?;
    // In a directory that anyone writes to, anyone could put another socket in our place.
    if about.mode() & 0o002 != 0 && about.mode() & 0o1000 == 0 {
        let why = "its directory is open to all: chmod o-w it, or choose another".to_owned();
        return Err(Error::Listen { socket, why, source: None });
    }
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    // In a directory that others write to, a link there could have us make a file anywhere.
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let file =
        File::options().write(true).create(true).truncate(false).custom_flags(flags).open(&lock);
    let file = file.map_err(|source| fail("its lock file can't be made", source))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| live())?;
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(file),
        Err(error) => Err(fail("what is there can't be read", error)),
        Ok(found) if !found.file_type().is_socket() => {
            let why = "what is there is not a socket, and is left alone".to_owned();
            Err(Error::Listen { socket: socket.clone(), why, source: None })
        }
        // Someone may serve it who knows nothing of our lock.
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => Err(live()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)
                    .map_err(|source| fail("the dead socket there can't be removed", source))?;
                Ok(file)
            }
            Err(error) => Err(fail("what is there can't be tried", error)),
        },
    }
}

/// The private broker's connection, from what standard input was.
pub(crate) fn inherited_connection(stdin: OwnedFd) -> Result<UnixStream, Error> {
    let name = "standard input";
    let address = rustix::net::getsockname(&stdin).map_err(|errno| {
        refused(name, "--connection-on-stdin wants a socket there", errno.into())
    })?;
    if address.address_family() != rustix::net::AddressFamily::UNIX {
        let why = "--connection-on-stdin wants a Unix socket there".to_owned();
        return Err(Error::Listen { socket: name.to_owned(), why, source: None });
    }
    let stream = UnixStream::from(stdin);
    stream.set_nonblocking(true).map_err(|source| refused(name, "it can't be used", source))?;
    Ok(stream)
}

fn refused(socket: &str, why: &str, source: io::Error) -> Error {
    Error::Listen { socket: socket.to_owned(), why: why.to_owned(), source: Some(source) }
}

#[cfg(test)]
mod tests;
