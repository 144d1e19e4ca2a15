//! The listening socket: TCP, or a socket file that never has wider permissions than configured.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as Probe;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::process::umask;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use crate::config::{Listen, ListenAddress};

/// A listening socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpListener),
    /// A socket file, removed on drop.
    Unix(UnixListener, SocketFile),
}

/// One connection.
pub(super) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

impl Socket {
    /// Listens at the configured address. The error is the reason why that isn't possible.
    pub async fn open(listen: &Listen) -> io::Result<Self> {
        match &listen.address {
            ListenAddress::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
            ListenAddress::Unix(path) => {
                claim(path)?;
                // No other user can connect between bind and chmod.
                let before = umask(Mode::RWXG | Mode::RWXO);
                let bound = UnixListener::bind(path);
                umask(before);
                let listener = bound?;
                let file = SocketFile {
                    path: path.clone(),
                    identity: identity(&std::fs::symlink_metadata(path)?),
                };
                std::fs::set_permissions(path, PermissionsExt::from_mode(listen.mode))?;
                Ok(Self::Unix(listener, file))
            }
        }
    }

    /// The address in the form of `--listen`.
    pub fn address(&self) -> io::Result<String> {
        match self {
            Self::Tcp(listener) => Ok(listener.local_addr()?.to_string()),
            Self::Unix(_, file) => Ok(format!("unix:{}", file.path.display())),
        }
    }

    /// The next connection.
    pub(super) async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(listener, _) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

/// A socket file that is removed on drop, unless it has been replaced.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let found = std::fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| identity(&found) == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Removes the socket of an earlier run at `path`; any other file stays.
fn claim(path: &Path) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let about = std::fs::metadata(directory)?;
    // The attack: another user replaces the socket with one of theirs, and receives the clients' requests.
    if about.mode() & 0o002 != 0 && about.mode() & 0o1000 == 0 {
        let why = "every user can write its directory: run chmod o-w on it, or choose another";
        return Err(io::Error::other(why));
    }
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            Err(io::Error::other("a file that isn't a socket exists there, and isn't replaced"))
        }
        Ok(_) => match Probe::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)
            }
            Err(error) => Err(error),
            Ok(_) => {
                let why =
                    "another process serves it already: stop that one, or choose another path";
                Err(io::Error::other(why))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &Path, mode: u32) -> Listen {
        Listen { address: ListenAddress::Unix(path.to_owned()), mode, token_file: None }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o777
    }

    #[tokio::test]
    async fn a_socket_file_has_the_configured_permissions_and_is_removed_on_exit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mcp.sock");
        for wanted in [0o600, 0o660] {
            let socket = Socket::open(&unix(&path, wanted)).await.unwrap();
            assert_eq!(mode(&path), wanted);
            assert_eq!(socket.address().unwrap(), format!("unix:{}", path.display()));
            drop(socket);
            assert!(!path.exists());
        }
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mcp.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let live = Socket::open(&unix(&path, 0o600)).await.unwrap();
        let error = Socket::open(&unix(&path, 0o600)).await.unwrap_err();
        assert!(error.to_string().contains("already"), "{error}");
        drop(live);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious");
        std::fs::write(&path, "x").unwrap();
        let error = Socket::open(&unix(&path, 0o600)).await.unwrap_err();
        assert!(error.to_string().contains("isn't a socket"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"x");
    }

    #[tokio::test]
    async fn a_directory_that_every_user_can_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let open = PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(directory.path(), open).unwrap();
        let error = Socket::open(&unix(&directory.path().join("s"), 0o600)).await.unwrap_err();
        assert!(error.to_string().contains("every user can write"), "{error}");
    }
}
