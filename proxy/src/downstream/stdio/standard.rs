//! Standard input and output without a thread that blocks, and without a change that others notice.
//!
//! `O_NONBLOCK` belongs to the open file description, and that may be shared: with the shell on the
//! same terminal, a wrapper script whose next command reads the same input, a host that kept a copy of
//! its socket. Set there, the others' reads and writes fail with EAGAIN ("Resource temporarily
//! unavailable" after a program that left a terminal so); and cleared there by one of them, our only
//! thread would block, and every call with it. So the flags of what was inherited are never changed:
//!
//! | what it is | how it is read and written |
//! |---|---|
//! | a socket (Node and Python hosts make pairs of them) | each call carries `MSG_DONTWAIT` |
//! | a pipe, a pseudo-terminal | opened again through `/proc/self/fd`: a description of our own |
//! | a file, `/dev/null`, another device | on threads that may block: epoll takes no files, and where a file is read is part of the shared description |
//!
//! What can't be opened again (another user's pipe, no `/proc`) is left to the threads too.

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
    /// Read when the kernel says that there is something.
    Ready(Descriptor),
    /// Read on a thread.
    Blocking(Stdin),
}

/// Standard output.
#[derive(Debug)]
pub enum Output {
    /// Written while there is room, and when the kernel says that there is room again.
    Ready(Sink),
    /// Written on a thread.
    Blocking(Stdout),
}

/// A descriptor of our own to read, and how to use it without waiting.
#[derive(Debug)]
pub struct Descriptor {
    inner: AsyncFd<OwnedFd>,
    way: Way,
}

/// A descriptor of our own to write, and how to use it without waiting.
#[derive(Debug)]
pub struct Sink {
    inner: OwnedFd,
    way: Way,
    room: Room,
    /// Something larger than [`PIPE_ROOM`] was written.
    is_wide: bool,
}

/// The room of a pipe through which something larger passes: all that the kernel allows without
/// privileges. Usually it is 64 KiB, and reader and writer would wait for each other that often.
const PIPE_ROOM: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A socket of a description that may be shared.
    Socket,
    /// A pipe whose description doesn't wait.
    Pipe,
    /// A terminal whose description doesn't wait.
    Terminal,
}

impl Input {
    /// Standard input of this process. In a runtime.
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
    /// Standard output of this process. In a runtime.
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

/// What may be used without waiting.
///
/// # Errors
/// It can only be used by a call that may block.
fn own(inherited: BorrowedFd<'_>, is_terminal: bool, access: OFlags) -> io::Result<(OwnedFd, Way)> {
    let status = rustix::fs::fstat(inherited)?;
    Ok(match FileType::from_raw_mode(status.st_mode) {
        FileType::Socket => {
            let kind = rustix::net::sockopt::socket_type(inherited)?;
            // Of datagrams, a read that is too short loses the rest: there are no lines in them.
            if kind != rustix::net::SocketType::STREAM {
                return Err(io::Error::other("a socket without a stream"));
            }
            (inherited.try_clone_to_owned()?, Way::Socket)
        }
        FileType::Fifo => (opened_again(inherited, access)?, Way::Pipe),
        FileType::CharacterDevice if is_terminal && is_pseudo_terminal(status.st_rdev) => {
            (opened_again(inherited, access)?, Way::Terminal)
        }
        _ => return Err(io::Error::other("a file or a device")),
    })
}

impl Descriptor {
    fn of(inherited: BorrowedFd<'_>, is_terminal: bool) -> io::Result<Self> {
        let (own, way) = own(inherited, is_terminal, OFlags::RDONLY)?;
        Ok(Self { inner: room::registered(own, Interest::READABLE)?, way })
    }

    fn read(&self, to: &mut [u8]) -> io::Result<usize> {
        let read = match self.way {
            Way::Socket => rustix::net::recv(&self.inner, to, RecvFlags::DONTWAIT)?.0,
            Way::Pipe | Way::Terminal => rustix::io::read(&self.inner, to)?,
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
                    // A stream that gave less than there was room for is empty: epoll(7). A terminal
                    // gives a line at a time.
                    if (1..length).contains(&read) && self.way != Way::Terminal {
                        ready.clear_ready();
                    }
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                // The other end of a terminal is closed: the end, as for `cat`.
                Ok(Err(error))
                    if self.way == Way::Terminal
                        && rustix::io::Errno::from_io_error(&error)
                            == Some(rustix::io::Errno::IO) =>
                {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_nothing_there) => {}
            }
        }
    }
}

impl Sink {
    fn of(inherited: BorrowedFd<'_>, is_terminal: bool) -> io::Result<Self> {
        let (inner, way) = own(inherited, is_terminal, OFlags::WRONLY)?;
        Ok(Self { inner, way, room: Room::default(), is_wide: false })
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        if self.way == Way::Pipe
            && from.len() > PIPE_ROOM
            && !std::mem::replace(&mut self.is_wide, true)
        {
            self.widen();
        }
        let Self { inner, way, room, .. } = self;
        room.poll_write(cx, inner.as_fd(), || {
            Ok(match way {
                Way::Socket => rustix::net::send(&*inner, from, SendFlags::DONTWAIT)?,
                Way::Pipe | Way::Terminal => rustix::io::write(&*inner, from)?,
            })
        })
    }

    /// More room in the pipe, if its user may have that.
    #[cfg(target_os = "linux")]
    fn widen(&self) {
        if let Err(error) = rustix::pipe::fcntl_setpipe_size(&self.inner, PIPE_ROOM) {
            tracing::debug!(%error, "the pipe keeps its size");
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn widen(&self) {}
}

/// The same pipe or terminal under a description of our own, which doesn't wait.
#[cfg(target_os = "linux")]
fn opened_again(inherited: BorrowedFd<'_>, access: OFlags) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", inherited.as_raw_fd());
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let own = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
    let (ours, theirs) = (rustix::fs::fstat(&own)?, rustix::fs::fstat(inherited)?);
    // A `/proc` of somebody's making must not put another file in its place.
    if (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino) {
        Ok(own)
    } else {
        Err(io::Error::other("/proc/self/fd has another file"))
    }
}

/// Elsewhere there is no second description of an open pipe.
#[cfg(not(target_os = "linux"))]
fn opened_again(_: BorrowedFd<'_>, _: OFlags) -> io::Result<OwnedFd> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// The slave of a pseudo-terminal: opened again, it is itself. `/dev/ptmx` would be a new terminal.
/// (Linux, Documentation/admin-guide/devices.txt)
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
