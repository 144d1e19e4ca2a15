//! Waiting for room in a pipe or a socket, only where there is none.
//!
//! Whoever is registered for room with epoll is woken each time the other end has read, even where there
//! was room all along: a turn of the thread for nothing, with each message. So a descriptor is
//! registered once a write has found no room, until all is written.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The room behind one descriptor.
#[derive(Debug, Default)]
pub struct Room(Option<AsyncFd<OwnedFd>>);

impl Room {
    /// What `write` says, which writes to `descriptor` without waiting, once there is room.
    ///
    /// # Errors
    /// It can't be written, or not be waited for.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        descriptor: BorrowedFd<'_>,
        mut write: impl FnMut() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let written = match &self.0 {
                None => write(),
                Some(waiting) => {
                    let mut ready = ready!(waiting.poll_write_ready(cx))?;
                    match ready.try_io(|_| write()) {
                        Ok(written) => written,
                        Err(_no_room) => continue,
                    }
                }
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let own = descriptor.try_clone_to_owned()?;
                    self.0 = Some(registered(own, Interest::WRITABLE)?);
                }
                written => return Poll::Ready(written),
            }
        }
    }

    /// Nothing waits for room any more.
    pub fn all_written(&mut self) {
        self.0 = None;
    }
}

/// A descriptor that doesn't wait, registered with the runtime. In a runtime.
///
/// # Errors
/// It can't be registered.
pub fn registered<T: AsRawFd>(descriptor: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    #[allow(
        deprecated,
        reason = "unsound for types whose descriptor changes, and its successor is unsafe; what is \
                  registered here keeps its descriptor (tokio-rs/tokio#8587)"
    )]
    AsyncFd::with_interest(descriptor, interest)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn it_is_registered_while_there_is_no_room_and_no_longer() {
        let (writer, mut reader) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        let mut room = Room::default();
        let piece = [7; 4096];
        let write = |room: &mut Room| {
            let wrote = std::future::poll_fn(|cx| {
                room.poll_write(cx, writer.as_fd(), || (&writer).write(&piece))
            });
            wrote.now_or_never().map(Result::unwrap)
        };
        let mut written = write(&mut room).unwrap();
        assert!(room.0.is_none(), "it wasn't needed");
        while let Some(more) = write(&mut room) {
            written += more;
        }
        assert!(room.0.is_some());
        let mut all = vec![0; written];
        reader.read_exact(&mut all).unwrap();
        let wrote = std::future::poll_fn(|cx| {
            room.poll_write(cx, writer.as_fd(), || (&writer).write(&piece))
        });
        assert_eq!(wrote.await.unwrap(), piece.len(), "woken once there is room");
        room.all_written();
        assert!(room.0.is_none());
        drop(reader);
        let gone = std::future::poll_fn(|cx| {
            room.poll_write(cx, writer.as_fd(), || (&writer).write(&piece))
        });
        assert_eq!(gone.await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
