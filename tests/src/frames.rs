//! HTTP/2 as an attacker writes it: frames without the limits that libraries keep (RFC 9113). Blocking; responses are
//! counted, not read.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const INITIAL_WINDOW: i64 = 65_535;
const MAX_FRAME: usize = 16_384;
/// How long to wait for something that must come from the server.
const PATIENCE: Duration = Duration::from_secs(60);

/// An HTTP/2 connection.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    next: u32,
    seen: Arc<(Mutex<Seen>, Condvar)>,
}

/// What the server has sent so far.
#[derive(Debug, Default)]
pub struct Seen {
    /// Streams with a complete response.
    pub answered: usize,
    /// Streams that were reset.
    pub reset: usize,
    /// The server sent GOAWAY, or closed the connection.
    pub closed: bool,
    settings: bool,
    /// The bytes that may be sent on the connection, on a new stream, and in addition on the last one.
    connection: i64,
    initial: i64,
    last: i64,
}

impl Connection {
    /// Connects and sends the preface, without waiting for the server's settings.
    ///
    /// # Errors
    /// There is no server.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_with(path, &[])
    }

    /// The same with a window of zero: the server can't send response bodies before [`Connection::allow`].
    ///
    /// # Errors
    /// There is no server.
    pub fn open_deaf(path: &Path) -> io::Result<Self> {
        // SETTINGS_INITIAL_WINDOW_SIZE
        Self::open_with(path, &[0, 4, 0, 0, 0, 0])
    }

    fn open_with(path: &Path, settings: &[u8]) -> io::Result<Self> {
        let mut stream = UnixStream::connect(path)?;
        let first = Seen { connection: INITIAL_WINDOW, initial: INITIAL_WINDOW, ..Seen::default() };
        let seen = Arc::new((Mutex::new(first), Condvar::new()));
        let (reading, of_thread) = (stream.try_clone()?, Arc::clone(&seen));
        std::thread::spawn(move || {
            let gone = read(reading, &of_thread);
            lock(&of_thread).closed = true;
            of_thread.1.notify_all();
            gone
        });
        let mut hello = PREFACE.to_vec();
        frame(&mut hello, SETTINGS, 0, 0, settings);
        // If the server has closed already, the reader notices.
        stream.write_all(&hello).ok();
        Ok(Self { stream, next: 1, seen })
    }

    /// Waits for the server's settings, and accepts them.
    ///
    /// # Errors
    /// The connection ends.
    pub fn accept_settings(&mut self) -> io::Result<()> {
        drop(self.wait(|seen| seen.settings)?);
        let mut answer = Vec::new();
        frame(&mut answer, SETTINGS, ACK, 0, &[]);
        self.stream.write_all(&answer)
    }

    /// Starts a gRPC POST on a new stream; with `ends` it has no body.
    ///
    /// # Errors
    /// The connection is closed.
    pub fn request(&mut self, path: &str, more: &[(&str, &str)], ends: bool) -> io::Result<()> {
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "broker"),
            (":path", path),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
        .iter()
        .chain(more)
        {
            // RFC 7541, 6.2.2: a literal that isn't added to a table.
            block.push(0);
            for text in [name, value] {
                length(&mut block, text.len());
                block.extend_from_slice(text.as_bytes());
            }
        }
        let stream = self.next;
        self.next += 2;
        let flags = END_HEADERS | if ends { END_STREAM } else { 0 };
        let mut out = Vec::new();
        frame(&mut out, HEADERS, flags, stream, &block);
        lock(&self.seen).last = 0;
        self.stream.write_all(&out)
    }

    /// Sends `bytes` on the last stream, and with `ends` its end, as fast as the server permits.
    ///
    /// # Errors
    /// The connection is closed, or the server has ended the stream early.
    pub fn send(&mut self, bytes: &[u8], ends: bool) -> io::Result<()> {
        let over = {
            let seen = lock(&self.seen);
            seen.answered + seen.reset
        };
        let stream = self.next - 2;
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = |seen: &Seen| seen.connection.min(seen.initial + seen.last);
            let is_over = |seen: &Seen| seen.answered + seen.reset > over;
            let mut seen = self.wait(|seen| room(seen) > 0 || is_over(seen))?;
            if is_over(&seen) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let room = usize::try_from(room(&seen)).unwrap_or(0);
            let (piece, after) = rest.split_at(room.min(MAX_FRAME).min(rest.len()));
            let taken = i64::try_from(piece.len()).unwrap_or(i64::MAX);
            seen.connection -= taken;
            seen.last -= taken;
            drop(seen);
            let flags = if ends && after.is_empty() { END_STREAM } else { 0 };
            let mut out = Vec::with_capacity(piece.len() + 9);
            frame(&mut out, DATA, flags, stream, piece);
            self.stream.write_all(&out)?;
            rest = after;
        }
        Ok(())
    }

    /// Permits the server to send this number of bytes on the last stream.
    ///
    /// # Errors
    /// The connection is closed.
    pub fn allow(&mut self, bytes: u32) -> io::Result<()> {
        let mut out = Vec::new();
        frame(&mut out, WINDOW_UPDATE, 0, self.next - 2, &bytes.to_be_bytes());
        self.stream.write_all(&out)
    }

    /// Waits until `reached` is true.
    ///
    /// # Errors
    /// The connection ends first, or it takes too long.
    pub fn wait(&self, reached: impl Fn(&Seen) -> bool) -> io::Result<MutexGuard<'_, Seen>> {
        let waiting = |seen: &mut Seen| !reached(seen) && !seen.closed;
        let waited = self.seen.1.wait_timeout_while(lock(&self.seen), PATIENCE, waiting);
        let (seen, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if reached(&seen) { Ok(seen) } else { Err(io::ErrorKind::ConnectionAborted.into()) }
    }

    /// What the server has sent so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }
}

fn lock(seen: &(Mutex<Seen>, Condvar)) -> MutexGuard<'_, Seen> {
    seen.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts received frames until the connection ends.
fn read(mut stream: UnixStream, seen: &(Mutex<Seen>, Condvar)) -> io::Result<()> {
    let mut payload = Vec::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [a, b, c, kind, flags, s0, s1, s2, s3] = head;
        let stream_id = u32::from_be_bytes([s0, s1, s2, s3]);
        payload.resize(u32::from_be_bytes([0, a, b, c]) as usize, 0);
        stream.read_exact(&mut payload)?;
        let mut now = lock(seen);
        match kind {
            SETTINGS if flags & ACK == 0 => {
                now.settings = true;
                for setting in payload.chunks_exact(6) {
                    // SETTINGS_INITIAL_WINDOW_SIZE
                    if setting[..2] == [0, 4] {
                        now.initial = number(&setting[2..]);
                    }
                }
            }
            WINDOW_UPDATE if stream_id == 0 => now.connection += number(&payload),
            WINDOW_UPDATE => now.last += number(&payload),
            RST_STREAM => now.reset += 1,
            GOAWAY => now.closed = true,
            HEADERS | DATA if flags & END_STREAM != 0 => now.answered += 1,
            _ => {}
        }
        drop(now);
        seen.1.notify_all();
    }
}

fn number(bytes: &[u8]) -> i64 {
    bytes.iter().take(4).fold(0, |number, byte| number << 8 | i64::from(*byte))
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// An integer (RFC 7541, 5.1) with a prefix of 7 bits.
fn length(out: &mut Vec<u8>, length: usize) {
    let byte = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
    if length < 127 {
        out.push(byte(length));
        return;
    }
    out.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        out.push(byte(rest % 128 + 128));
        rest /= 128;
    }
    out.push(byte(rest));
}
