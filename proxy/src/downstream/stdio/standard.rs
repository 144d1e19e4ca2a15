//! Standard input and output without a blocking thread, and without changing flags that other
//! processes see.
//!
//! `O_NONBLOCK` belongs to the open file description, which may be shared: with the shell on the same terminal, a
//! wrapper script whose next command reads the same input, or a host that kept a copy of its socket. If the proxy set
//! it, the others' reads and writes would fail with EAGAIN ("Resource temporarily unavailable" after a program that
//! left a terminal so). If one of them cleared it, the proxy's only thread would block, and every call with it.
//! Therefore the flags of inherited descriptors are never changed:
//!
//! | type | how it is read and written |
//! |---|---|
//! | a socket (Node and Python hosts use socket pairs) | each call sets `MSG_DONTWAIT` |
//! | a pipe, a pseudo-terminal | reopened through `/proc/self/fd`, which makes a new description |
//! | a file, `/dev/null`, another device | on threads that may block: epoll doesn't accept files, and the read position is part of the shared description |
//!
//! A descriptor that can't be reopened (another user's pipe, no `/proc`) is also read and written
//! on threads.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::fs::{FileType, OFlags};
use rustix::net::{RecvFlags, SendFlags};
use sigward_proto::room::{self, Room};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Stdin, Stdout};

/// Standard input.
#[derive(Debug)]
pub enum Input {
    /// Read when the kernel reports that there is data.
    Ready(Descriptor),
    /// Read on a thread.
    Blocking(Stdin),
}

/// Standard output.
#[derive(Debug)]
pub enum Output {
    /// Written when the kernel reports that there is room.
    Ready(Sink),
    /// Written on a thread.
    Blocking(Stdout),
}

/// The proxy's own descriptor for reading, and how to use it without blocking.
#[derive(Debug)]
pub struct Descriptor {
    inner: AsyncFd<OwnedFd>,
    kind: Kind,
}

/// The proxy's own descriptor for writing, and how to use it without blocking.
#[derive(Debug)]
pub struct Sink {
    inner: OwnedFd,
    kind: Kind,
    room: Room,
    /// Whether the pipe has been enlarged, for a message larger than [`PIPE_ROOM`].
    is_enlarged: bool,
}

/// The size of a pipe that carries a large message: the largest that the kernel allows without
/// privileges. By default it is 64 KiB, and reader and writer would alternate for every 64 KiB.
const PIPE_ROOM: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A socket whose description may be shared.
    Socket,
    /// A pipe with a non-blocking description.
    Pipe,
    /// A terminal with a non-blocking description.
    Terminal,
}

impl Input {
    /// Standard input of this process. Must be called in a runtime.
    #[must_use]
    pub fn of_process() -> Self {
        let standard = io::stdin();
        let is_terminal = standard.is_terminal();
        match Descriptor::of(standard.as_fd(), is_terminal) {
            Ok(descriptor) => Self::Ready(descriptor),
            Err(error) => {
                tracing::debug!(%error, "standard input is read on a thread");
                Self::Blocking(tokio::io::stdin())
            }
        }
    }
}

impl Output {
    /// Standard output of this process. Must be called in a runtime.
    #[must_use]
    pub fn of_process() -> Self {
        let standard = io::stdout();
        let is_terminal = standard.is_terminal();
        match Sink::of(standard.as_fd(), is_terminal) {
            Ok(sink) => Self::Ready(sink),
            Err(error) => {
                tracing::debug!(%error, "standard output is written on a thread");
                Self::Blocking(tokio::io::stdout())
            }
        }
    }
}

/// The descriptor that can be used without blocking.
///
/// # Errors
/// It can only be used by a call that may block.
fn nonblocking(
    inherited: BorrowedFd<'_>,
    is_terminal: bool,
    access: OFlags,
) -> io::Result<(OwnedFd, Kind)> {
    let status = rustix::fs::fstat(inherited)?;
    Ok(match FileType::from_raw_mode(status.st_mode) {
        FileType::Socket => {
            let kind = rustix::net::sockopt::socket_type(inherited)?;
            // For datagrams, a read that is too short would discard the rest, and they have no
            // lines.
            if kind != rustix::net::SocketType::STREAM {
                return Err(io::Error::other("a socket without a stream"));
            }
            (inherited.try_clone_to_owned()?, Kind::Socket)
        }
        FileType::Fifo => (reopened(inherited, access)?, Kind::Pipe),
        FileType::CharacterDevice if is_terminal && is_pseudo_terminal(status.st_rdev) => {
            (reopened(inherited, access)?, Kind::Terminal)
        }
        _ => return Err(io::Error::other("a file or a device")),
    })
}

impl Descriptor {
    fn of(inherited: BorrowedFd<'_>, is_terminal: bool) -> io::Result<Self> {
        let (own, kind) = nonblocking(inherited, is_terminal, OFlags::RDONLY)?;
        Ok(Self { inner: room::registered(own, Interest::READABLE)?, kind })
    }

    fn read(&self, to: &mut [u8]) -> io::Result<usize> {
        let read = match self.kind {
            Kind::Socket => rustix::net::recv(&self.inner, to, RecvFlags::DONTWAIT)?.0,
            Kind::Pipe | Kind::Terminal => rustix::io::read(&self.inner, to)?,
        };
        Ok(read)
    }

    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.inner.poll_read_ready(cx))?;
            let room = buffer.initialize_unfilled();
            let length = room.len();
            match ready.try_io(|_| self.read(room)) {
                Ok(Ok(read)) => {
                    // A stream that returned less than the buffer's size is empty: epoll(7). A terminal returns one
                    // line at a time.
                    if (1..length).contains(&read) && self.kind != Kind::Terminal {
                        ready.clear_ready();
                    }
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                // The other end of a terminal is closed: the end of the input, as for `cat`.
                Ok(Err(error))
                    if self.kind == Kind::Terminal
                        && rustix::io::Errno::from_io_error(&error)
                            == Some(rustix::io::Errno::IO) =>
                {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl Sink {
    fn of(inherited: BorrowedFd<'_>, is_terminal: bool) -> io::Result<Self> {
        let (inner, kind) = nonblocking(inherited, is_terminal, OFlags::WRONLY)?;
        Ok(Self { inner, kind, room: Room::default(), is_enlarged: false })
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        if self.kind == Kind::Pipe
            && from.len() > PIPE_ROOM
            && !std::mem::replace(&mut self.is_enlarged, true)
        {
            self.enlarge();
        }
        let Self { inner, kind, room, .. } = self;
        room.poll_write(cx, inner.as_fd(), || {
            Ok(match kind {
                Kind::Socket => rustix::net::send(&*inner, from, SendFlags::DONTWAIT)?,
                Kind::Pipe | Kind::Terminal => rustix::io::write(&*inner, from)?,
            })
        })
    }

    /// Enlarges the pipe, if its user may do that.
    #[cfg(target_os = "linux")]
    fn enlarge(&self) {
        if let Err(error) = rustix::pipe::fcntl_setpipe_size(&self.inner, PIPE_ROOM) {
            tracing::debug!(%error, "the pipe keeps its size");
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn enlarge(&self) {}
}

/// Opens the same pipe or terminal again, with its own, non-blocking description.
#[cfg(target_os = "linux")]
fn reopened(inherited: BorrowedFd<'_>, access: OFlags) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", inherited.as_raw_fd());
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let own = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
    let (ours, theirs) = (rustix::fs::fstat(&own)?, rustix::fs::fstat(inherited)?);
    // A forged `/proc` must not substitute another file.
    if (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino) {
        Ok(own)
    } else {
        Err(io::Error::other("/proc/self/fd has another file"))
    }
}

/// Other systems can't make a second description of an open pipe.
#[cfg(not(target_os = "linux"))]
fn reopened(_: BorrowedFd<'_>, _: OFlags) -> io::Result<OwnedFd> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// The slave of a pseudo-terminal: reopening it opens the same one, but `/dev/ptmx` would be a new
/// terminal. (Linux, Documentation/admin-guide/devices.txt)
#[cfg(target_os = "linux")]
fn is_pseudo_terminal(device: rustix::fs::Dev) -> bool {
    (136..=143).contains(&rustix::fs::major(device))
}

#[cfg(not(target_os = "linux"))]
fn is_pseudo_terminal(_: rustix::fs::Dev) -> bool {
    false
}

impl AsyncRead for Input {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Ready(descriptor) => descriptor.poll_read(cx, buffer),
            Self::Blocking(input) => Pin::new(input).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Ready(sink) => sink.poll_write(cx, from),
            Self::Blocking(output) => Pin::new(output).poll_write(cx, from),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Ready(sink) => {
                sink.room.all_written();
                Poll::Ready(Ok(()))
            }
            Self::Blocking(output) => Pin::new(output).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

#[cfg(test)]
mod tests;
