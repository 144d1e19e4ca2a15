//! The same calls straight to the server: what a proxy can't be faster than.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use memchr::memmem;

/// One connection that is kept open.
#[derive(Debug)]
pub(crate) struct Direct {
    connection: TcpStream,
    head: String,
    buffer: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status line and the headers.
    pub(crate) head: String,
    /// The beginning of the body, as far as it came with the head.
    pub(crate) beginning: String,
    /// The length of the body, in bytes.
    pub(crate) length: usize,
}

impl Answer {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Direct {
    /// A connection to `address`, with the headers that the proxy sends.
    pub(crate) fn new(address: &str) -> Self {
        let signature = "0".repeat(64);
        Self::with_headers(
            address,
            &format!(
                "mcp-session-id: a-session-of-the-bench\r\nmcp-protocol-version: 2025-11-25\r\n\
                 x-amz-date: 20260101T000000Z\r\nauthorization: AWS4-HMAC-SHA256 \
                 Credential=AKIAEXAMPLEEXAMPLE00/20260101/us-east-1/bench/aws4_request, \
                 SignedHeaders=accept;content-type;host;mcp-protocol-version;mcp-session-id;x-amz-date, \
                 Signature={signature}\r\n"
            ),
        )
    }

    /// A connection to `address`, with `headers` (each with its line end).
    pub(crate) fn with_headers(address: &str, headers: &str) -> Self {
        let connection = TcpStream::connect(address).unwrap();
        connection.set_nodelay(true).unwrap();
        let head = format!(
            "POST /mcp HTTP/1.1\r\nhost: {address}\r\naccept: application/json, text/event-stream\r\n\
             content-type: application/json\r\n{headers}content-length: "
        );
        Self { connection, head, buffer: vec![0; 64 << 10] }
    }

    /// Sends a message and reads the answer.
    pub(crate) fn call(&mut self, message: &str) -> io::Result<Answer> {
        let head = format!("{}{}\r\n\r\n", self.head, message.len());
        if message.len() < 64 << 10 {
            self.connection.write_all(format!("{head}{message}").as_bytes())?;
        } else {
            self.connection.write_all(head.as_bytes())?;
            self.connection.write_all(message.as_bytes())?;
        }
        let mut filled = 0;
        let end = loop {
            let read = self.connection.read(&mut self.buffer[filled..])?;
            assert!(read > 0, "the connection is closed");
            filled += read;
            if let Some(end) = memmem::find(&self.buffer[..filled], b"\r\n\r\n") {
                break end + 4;
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        let beginning = String::from_utf8_lossy(&self.buffer[end..filled]).into_owned();
        let mut answer = Answer { head, beginning, length: 0 };
        assert!(answer.head.starts_with("HTTP/1.1 2"), "{}", answer.head);
        answer.length = answer.header("content-length").unwrap_or("0").parse().unwrap();
        let mut rest = answer.length - (filled - end);
        while rest > 0 {
            let read = self.connection.read(&mut self.buffer)?;
            assert!(read > 0, "the connection is closed");
            rest -= read;
        }
        Ok(answer)
    }
}
