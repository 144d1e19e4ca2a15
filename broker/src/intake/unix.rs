//! The listening socket: created without a moment of wider permissions, or inherited from systemd;
//! and the private broker's only connection.
//!
//! Invariant: a socket file is removed only by the broker that holds its lock.

mod node;

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use rustix::fs::{FlockOperation, OFlags};
use rustix::net::AddressFamily;

use crate::config::Listen;
use crate::error::Error;
use crate::process;
use crate::trusted::Trusted;

/// The sockets to listen on if the configuration names no path.
#[derive(Debug)]
pub struct Sockets {
    /// The socket that the service manager passed.
    pub inherited: Option<io::Result<UnixListener>>,
    /// The default path, where clients expect the socket.
    pub default: PathBuf,
}

impl Sockets {
    /// The path that would be bound for this configuration; `None` if the service manager passed a
    /// socket.
    pub fn bound<'s>(&'s self, listen: &'s Listen) -> Option<&'s Path> {
        let path = listen.unix.as_deref().unwrap_or(&self.default);
        self.inherited.is_none().then_some(path)
    }

    /// Takes the socket of the service manager, if there is one. Call it before starting threads:
    /// it removes variables from the environment.
    #[must_use]
    pub fn take(default: PathBuf) -> Self {
        let inherited = ListenFd::from_env().take_unix_listener(0).transpose();
        Self { inherited, default }
    }
}

/// A listening socket and its file.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    pub(crate) file: Option<SocketFile>,
}

/// A socket file that is removed on drop, unless another file has replaced it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    /// The lock is held until this broker ends.
    _lock: File,
}

impl Socket {
    /// The inherited socket of systemd if there is one, else a socket at the configured or default
    /// path.
    pub(crate) fn open(listen: &Listen, sockets: Sockets) -> Result<Self, Error> {
        match sockets.inherited {
            Some(Ok(listener)) => Self::inherited(listener, listen),
            Some(Err(source)) => Err(refused("the inherited socket", "not a Unix socket", source)),
            None => Self::bind(listen.unix.as_ref().unwrap_or(&sockets.default), listen),
        }
    }

    /// Checks whether the socket could be created at `path`, without creating or connecting
    /// anything. An existing socket is in use by a broker or the service manager, or it is stale
    /// and would be replaced.
    pub(crate) fn check(path: &Path, listen: &Listen) -> Result<(), Error> {
        let socket = path.display().to_string();
        let fail = |why: &str, source: io::Error| refused(&socket, why, source);
        let directory = Trusted::directory_to_be(directory_of(path))
            .map_err(|source| fail(NO_DIRECTORY, source))?;
        let path = directory.path().join(path.file_name().unwrap_or_default());
        SocketAddr::from_pathname(&path)
            .map_err(|source| fail("the path can't be a socket's", source))?;
        if directory.found().is_some() {
            let lock = Trusted::place(&lock_of(&path));
            lock.map_err(|source| fail(NO_LOCK, source))?;
            let place = Trusted::place(&path).map_err(|source| fail(NO_PLACE, source))?;
            match place.found() {
                Some(found) if found.file_type().is_socket() => return Ok(()),
                Some(_) => return Err(not_a_socket(&socket)),
                None => {}
            }
        }
        directory.check_writable().map_err(|source| fail(NO_DIRECTORY, source))?;
        match listen.group {
            Some(group) if !process::may_give_to(group.0) => Err(Error::Listen {
                socket: socket.clone(),
                why: node::NO_GROUP.to_owned(),
                source: None,
            }),
            _ => Ok(()),
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
        let (path, lock) = claim(path)?;
        let (mode, group) = (listen.mode.unwrap_or(0o600), listen.group.map(|group| group.0));
        let (listener, identity) =
            node::bind(&path, mode, group).map_err(|(why, source)| fail(why, source))?;
        let file = SocketFile { path, identity, _lock: lock };
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

const NO_DIRECTORY: &str = "the directory can't be used";
const NO_LOCK: &str = "the lock file can't be created";
const NO_PLACE: &str = "the existing file can't be used";

fn not_a_socket(socket: &str) -> Error {
    let why = "a file that isn't a socket exists there; it isn't replaced".to_owned();
    Error::Listen { socket: socket.to_owned(), why, source: None }
}

fn directory_of(path: &Path) -> &Path {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    directory.unwrap_or(Path::new("."))
}

fn lock_of(path: &Path) -> PathBuf {
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    lock.into()
}

/// Frees the path for a new socket, and takes the lock that keeps other brokers away: two that
/// start together would both find a stale socket, and the second would remove the first one's new
/// socket. Returns the path without links: its directory is trusted, so that other users can't
/// replace the socket.
fn claim(path: &Path) -> Result<(PathBuf, File), Error> {
    let socket = path.display().to_string();
    let fail = |why: &str, source: io::Error| refused(&socket, why, source);
    let live = || Error::Listen {
        socket: socket.clone(),
        why: "a broker serves it already: stop that one, or choose another path".to_owned(),
        source: None,
    };
    let directory =
        Trusted::directory(directory_of(path)).map_err(|source| fail(NO_DIRECTORY, source))?;
    let path = directory.path().join(path.file_name().unwrap_or_default());
    let lock = lock_of(&path);
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = Trusted::place(&lock)
        .and_then(|place| place.open(&mut options, OFlags::NONBLOCK))
        .map_err(|source| fail(NO_LOCK, source))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| live())?;
    let place = Trusted::place(&path).map_err(|source| fail(NO_PLACE, source))?;
    match place.found() {
        None => Ok((path, file)),
        Some(found) if !found.file_type().is_socket() => Err(not_a_socket(&socket)),
        // A process that doesn't use the lock may serve it.
        Some(_) => match UnixStream::connect(&path) {
            Ok(_) => Err(live()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(&path)
                    .map_err(|source| fail("the stale socket can't be removed", source))?;
                Ok((path, file))
            }
            Err(error) => Err(fail("the existing socket can't be tested", error)),
        },
    }
}

/// The private broker's connection, from its standard input.
pub(crate) fn inherited_connection(stdin: OwnedFd) -> Result<UnixStream, Error> {
    let name = "standard input";
    let address = rustix::net::getsockname(&stdin).map_err(|errno| {
        refused(name, "--connection-on-stdin needs a socket on standard input", errno.into())
    })?;
    if address.address_family() != AddressFamily::UNIX {
        let why = "--connection-on-stdin needs a Unix socket on standard input".to_owned();
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
