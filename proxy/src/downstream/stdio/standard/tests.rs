use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use futures_util::FutureExt;
use rustix::fs::Mode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// The inherited end of a connection, and the other end.
type Ends = (OwnedFd, OwnedFd);

fn socket() -> Ends {
    let (inherited, other) = UnixStream::pair().unwrap();
    (inherited.into(), other.into())
}

/// A terminal in raw mode: otherwise it would echo and rewrite the data.
fn terminal() -> Ends {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    let mut settings = rustix::termios::tcgetattr(&slave).unwrap();
    settings.make_raw();
    rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &settings).unwrap();
    (slave, master)
}

fn readable() -> Vec<(&'static str, Ends)> {
    let (read, write) = rustix::pipe::pipe().unwrap();
    vec![("socket", socket()), ("pipe", (read, write)), ("terminal", terminal())]
}

fn writable() -> Vec<(&'static str, Ends)> {
    let (read, write) = rustix::pipe::pipe().unwrap();
    vec![("socket", socket()), ("pipe", (write, read)), ("terminal", terminal())]
}

fn opened(inherited: &OwnedFd) -> io::Result<Descriptor> {
    Descriptor::of(inherited.as_fd(), rustix::termios::isatty(inherited))
}

fn sink(inherited: &OwnedFd) -> io::Result<Sink> {
    Sink::of(inherited.as_fd(), rustix::termios::isatty(inherited))
}

fn waits(descriptor: &OwnedFd) -> bool {
    !rustix::fs::fcntl_getfl(descriptor).unwrap().contains(OFlags::NONBLOCK)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn input_is_read_when_ready_and_the_inherited_description_stays_blocking() {
    for (kind, (inherited, other)) in readable() {
        let mut input = Input::Ready(opened(&inherited).unwrap());
        let mut buffer = [0; 64];
        assert!(input.read(&mut buffer).now_or_never().is_none(), "{kind}: nothing is there");
        for text in [&b"one\n"[..], b"two\nthree\n"] {
            rustix::io::write(&other, text).unwrap();
            let mut got = Vec::new();
            while got.len() < text.len() {
                let read = input.read(&mut buffer).await.unwrap();
                got.extend_from_slice(&buffer[..read]);
            }
            assert_eq!(got, text, "{kind}");
            assert!(input.read(&mut buffer).now_or_never().is_none(), "{kind}");
        }
        assert!(waits(&inherited) && waits(&other), "{kind}: others share this flag");
        rustix::io::write(&other, b"last").unwrap();
        if kind != "terminal" {
            drop(other);
        }
        assert_eq!(input.read(&mut buffer).await.unwrap(), 4, "{kind}: the data before the end");
        if kind != "terminal" {
            assert_eq!(input.read(&mut buffer).await.unwrap(), 0, "{kind}: the end");
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_closed_terminal_is_the_end_of_the_input() {
    let (inherited, other) = terminal();
    let mut input = Input::Ready(opened(&inherited).unwrap());
    drop(other);
    assert_eq!(input.read(&mut [0; 8]).await.unwrap(), 0);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn output_waits_for_room_without_blocking() {
    for (kind, (inherited, other)) in writable() {
        let mut output = Output::Ready(sink(&inherited).unwrap());
        let piece = [b'x'; 4096];
        let mut written = output.write(&piece).await.unwrap();
        while let Some(count) = output.write(&piece).now_or_never() {
            written += count.unwrap();
        }
        assert!(written >= 2 * piece.len(), "{kind}: {written}");
        assert!(waits(&inherited) && waits(&other), "{kind}: others share this flag");
        let drained = tokio::task::spawn_blocking(move || {
            let (mut left, mut buffer) = (written, [0; 4096]);
            while left > 0 {
                left -= rustix::io::read(&other, &mut buffer).unwrap().min(left);
            }
            other
        });
        output.write_all(b"end").await.unwrap();
        drop(drained.await.unwrap());
        if kind != "terminal" {
            let gone = output.write_all(&piece).await.unwrap_err();
            assert_eq!(gone.kind(), io::ErrorKind::BrokenPipe, "{kind}");
        }
    }
}

/// The message is written in fewer turns of writer and reader, and arrives unchanged.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_pipe_is_enlarged_for_a_large_message() {
    let room = |of: &OwnedFd| rustix::pipe::fcntl_getpipe_size(of).unwrap();
    let (read, write) = rustix::pipe::pipe().unwrap();
    // Less than the limit of every user for all pipes together.
    rustix::pipe::fcntl_setpipe_size(&write, 4096).unwrap();
    let mut output = Output::Ready(sink(&write).unwrap());
    output.write_all(b"small").await.unwrap();
    assert_eq!(room(&write), 4096);
    let large: Vec<u8> = (0..3 * PIPE_ROOM).map(|at| (at % 251) as u8).collect();
    let expected = [b"small", large.as_slice()].concat();
    let reader = tokio::task::spawn_blocking(move || {
        let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
        while all.len() < expected.len() {
            let count = rustix::io::read(&read, &mut buffer).unwrap();
            all.extend_from_slice(&buffer[..count]);
        }
        (all == expected, read)
    });
    output.write_all(&large).await.unwrap();
    let (same, _read) = reader.await.unwrap();
    assert!(same);
    // If the user has too many large pipes already, the kernel refuses, and the pipe keeps its
    // size.
    assert!([4096, PIPE_ROOM].contains(&room(&write)));
}

/// A second reader of the same socket takes the announced data: the proxy keeps waiting without
/// blocking.
#[tokio::test]
async fn data_that_another_reader_took_does_not_block() {
    let (inherited, other) = socket();
    let mut input = Input::Ready(opened(&inherited).unwrap());
    let mut buffer = [0; 8];
    assert!(input.read(&mut buffer).now_or_never().is_none());
    rustix::io::write(&other, b"theirs").unwrap();
    assert_eq!(rustix::io::read(&inherited, &mut buffer).unwrap(), 6);
    tokio::task::yield_now().await;
    assert!(input.read(&mut buffer).now_or_never().is_none(), "a plain read would block here");
    rustix::io::write(&other, b"ours").unwrap();
    assert_eq!(input.read(&mut buffer).await.unwrap(), 4);
}

#[tokio::test]
async fn files_and_devices_are_for_threads() {
    let file = tempfile::tempfile().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let (datagrams, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
    for fd in [OwnedFd::from(file), null.into(), datagrams.into()] {
        assert!(opened(&fd).is_err());
    }
}
