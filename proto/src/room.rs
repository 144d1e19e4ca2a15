//! Waits for room in a pipe or a socket, but only if it is full.
//!
//! A task registered for writability with epoll is woken whenever the other end has read, even if there was room
//! before: a wasted turn of the thread with each message. Therefore a descriptor is registered only after a write found
//! no room, until all data is written.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The registration of one descriptor, if it is full.
#[derive(Debug, Default)]
pub struct Room(Option<AsyncFd<OwnedFd>>);

impl Room {
    /// Polls `write`, which writes to `descriptor` without blocking, once there is room.
    ///
    /// # Errors
    /// The write or the registration failed.
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

    /// Removes the registration, because no data waits any more.
    pub fn all_written(&mut self) {
        self.0 = None;
    }
}

/// Registers a non-blocking descriptor with the runtime. Must be called in a runtime.
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
    async fn it_is_registered_only_while_there_is_no_room() {
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
