//! A proxy with its private broker, driven over pipes or over socket pairs by a client that costs next to nothing.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use memchr::{memchr_iter, memmem};
use sigward_tests::{memory, processes};

/// What hosts give their servers as standard input and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    /// Shells, and hosts in Rust and Go.
    Pipes,
    /// Node and what is built on it.
    Sockets,
}

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    child: Child,
    input: File,
    output: File,
    buffer: Vec<u8>,
}

impl Proxy {
    /// Starts it, and waits for the answer to `initialize`. Also how long both took.
    pub(crate) fn start(mut command: Command, channel: Channel) -> (Self, Duration) {
        let started = Instant::now();
        let (child, input, output) = match channel {
            Channel::Pipes => {
                command.stdin(Stdio::piped()).stdout(Stdio::piped());
                let mut child = command.spawn().unwrap();
                let input = OwnedFd::from(child.stdin.take().unwrap());
                let output = OwnedFd::from(child.stdout.take().unwrap());
                (child, input, output)
            }
            Channel::Sockets => {
                let ((input, its_input), (output, its_output)) =
                    (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
                command.stdin(OwnedFd::from(its_input)).stdout(OwnedFd::from(its_output));
                (command.spawn().unwrap(), input.into(), output.into())
            }
        };
        // What is passed to the child stays open here as long as the command does.
        drop(command);
        let (input, output) = (File::from(input), File::from(output));
        let mut proxy = Self { child, input, output, buffer: vec![0; 256 << 10] };
        proxy.call(INITIALIZE);
        let took = started.elapsed();
        proxy.input.write_all(INITIALIZED.as_bytes()).unwrap();
        proxy.call(LIST);
        (proxy, took)
    }

    /// Sends a line, and waits for one. The length of the answer, in bytes.
    pub(crate) fn call(&mut self, line: &str) -> usize {
        self.input.write_all(line.as_bytes()).unwrap();
        self.answer()
    }

    fn answer(&mut self) -> usize {
        let (mut length, mut is_result) = (0, false);
        loop {
            let read = self.output.read(&mut self.buffer).unwrap();
            assert!(read > 0, "the proxy is gone");
            let piece = &self.buffer[..read];
            if length == 0 {
                is_result = memmem::find(piece, b"\"result\":{").is_some();
            }
            length += read;
            if piece.ends_with(b"\n") {
                let is_error = memmem::find(piece, b"\"isError\":true").is_some();
                assert!(is_result && !is_error, "{}", String::from_utf8_lossy(piece));
                return length;
            }
        }
    }

    /// Makes `count` calls, with `in_flight` of them unanswered. The answers a second.
    pub(crate) fn flood(&mut self, count: usize, in_flight: usize) -> f64 {
        let lines: Vec<String> = (0..count).map(|number| call(number, "")).collect();
        let (length, lines) = (lines[0].len(), lines.concat().into_bytes());
        let started = Instant::now();
        let (mut sent, mut answered) = (0, 0);
        while answered < count {
            // All lines have the same length.
            let until = count.min(answered + in_flight);
            self.input.write_all(&lines[sent * length..until * length]).unwrap();
            sent = until;
            let read = self.output.read(&mut self.buffer).unwrap();
            assert!(read > 0, "the proxy is gone");
            let piece = &self.buffer[..read];
            let is_error = memmem::find(piece, b"\"error\":").is_some()
                || memmem::find(piece, b"\"isError\":true").is_some();
            assert!(!is_error, "{}", String::from_utf8_lossy(piece));
            answered += memchr_iter(b'\n', piece).count();
        }
        count as f64 / started.elapsed().as_secs_f64()
    }

    /// The resident memory of the process and of all below it, in bytes.
    pub(crate) fn memory(&self) -> [u64; 2] {
        let mut all = self.processes().into_iter().map(|pid| memory::resident(pid).unwrap());
        [all.next().unwrap(), all.sum()]
    }

    /// The processor time of both processes until now.
    pub(crate) fn processor(&self) -> [Duration; 2] {
        let mut all = self.processes().into_iter().map(processor);
        [all.next().unwrap(), all.next().unwrap()]
    }

    /// The process and all below it.
    fn processes(&self) -> Vec<u32> {
        let mut all = vec![self.child.id()];
        let mut seen = 0;
        while seen < all.len() {
            all.extend(processes::children(all[seen]));
            seen += 1;
        }
        all
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The user and system time of a process: fields 14 and 15 of proc(5), in hundredths.
fn processor(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// A call of the usual size, as a line; `more` is put into its arguments.
pub(crate) fn call(number: usize, more: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":"call-{number:07}","method":"tools/call","params":{{"name":"echo","arguments":{{{more}"text":"a call of the usual size","n":1}}}}}}"#
    ) + "\n"
}

const INITIALIZE: &str = concat!(
    r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#,
    "\n"
);
const INITIALIZED: &str =
    concat!(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, "\n");
const LIST: &str = concat!(r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#, "\n");
