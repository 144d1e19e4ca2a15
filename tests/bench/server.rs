//! An MCP server that costs next to nothing: what is measured is the proxy and its broker.
//!
//! It runs in a process of its own, on one thread, and answers from the bytes without parsing them. The verifying
//! server of the tests would take more time for a call than both programs together. What it does check, since a
//! measurement of refused calls would be worthless: that each request is signed.

use std::io;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The argument that makes this program the server.
pub(crate) const ARGUMENT: &str = "serve";

/// The server as a child process, ended on drop.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// Where it listens.
    pub(crate) address: String,
}

impl Server {
    /// Starts it.
    pub(crate) fn start() -> Self {
        let program = std::env::current_exe().unwrap();
        let mut child = Command::new(program).arg(ARGUMENT).stdout(Stdio::piped()).spawn().unwrap();
        let address = line(child.stdout.take().unwrap());
        Self { child, address }
    }

    /// The URL of its MCP endpoint.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn line(output: ChildStdout) -> String {
    let mut line = String::new();
    io::BufRead::read_line(&mut io::BufReader::new(output), &mut line).unwrap();
    line.trim().to_owned()
}

/// Serves until the process is ended.
pub(crate) fn serve() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            connection.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                // A peer that goes away ends its connection, nothing else.
                let _ = answer(connection).await;
            });
        }
    });
}

async fn answer(mut connection: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(4 << 10);
    loop {
        let head = loop {
            if let Some(end) = memmem::find(&buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if connection.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let length = header(&buffer[..head], b"content-length").map_or(0, number);
        buffer.reserve((head + length).saturating_sub(buffer.len()));
        while buffer.len() < head + length {
            if connection.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        if buffer.starts_with(b"GET ") {
            // What the server says on its own account: nothing.
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            connection.write_all(head.as_bytes()).await?;
            while connection.read_buf(&mut buffer).await? > 0 {}
            return Ok(());
        }
        let (head, body) = buffer[..head + length].split_at(head);
        connection.write_all(&response(head, body)).await?;
        if buffer.len() == head.len() + length {
            buffer.clear();
        } else {
            buffer.drain(..head.len() + length);
        }
        buffer.shrink_to(64 << 10);
    }
}

fn response(head: &[u8], body: &[u8]) -> Vec<u8> {
    let signed = b"AWS4-HMAC-SHA256 ";
    if !header(head, b"authorization").is_some_and(|value| value.starts_with(signed)) {
        return b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n".to_vec();
    }
    if head.starts_with(b"DELETE ") {
        return b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec();
    }
    // All that is looked for stands at the beginning, as this bench sends it.
    let start = &body[..body.len().min(512)];
    let Some(id) = memmem::find(start, b"\"id\":") else {
        return b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n".to_vec();
    };
    let id = &start[id + 5..];
    let id = &id[..memchr::memchr2(b',', b'}', id).unwrap_or(0)];
    let (session, result) = if memmem::find(start, b"\"initialize\"").is_some() {
        // Of its own for each: a client with the session of another one would take its place.
        static SESSIONS: AtomicU64 = AtomicU64::new(0);
        let number = SESSIONS.fetch_add(1, Ordering::Relaxed);
        (format!("mcp-session-id: session-{number:016}\r\n"), INITIALIZED.as_bytes().to_vec())
    } else if memmem::find(start, b"\"tools/list\"").is_some() {
        (String::new(), TOOLS.as_bytes().to_vec())
    } else {
        (String::new(), result(field(start, b"\"size\":").unwrap_or(0)))
    };
    let text = [br#"{"jsonrpc":"2.0","id":"#, id, br#","result":"#, &result, b"}"];
    let length: usize = text.iter().map(|part| part.len()).sum();
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{session}content-length: {length}\r\n\r\n"
    )
    .into_bytes();
    answer.reserve(length);
    text.iter().for_each(|part| answer.extend_from_slice(part));
    answer
}

/// The result of a tool: of the usual size, or `size` bytes longer.
fn result(size: usize) -> Vec<u8> {
    let mut text = br#"{"content":[{"type":"text","text":"a result of the usual size"#.to_vec();
    text.resize(text.len() + size, b'x');
    text.extend_from_slice(br#""}],"isError":false}"#);
    text
}

/// The number behind `name`.
fn field(text: &[u8], name: &[u8]) -> Option<usize> {
    Some(number(&text[memmem::find(text, name)? + name.len()..]))
}

/// The number that a text begins with.
fn number(text: &[u8]) -> usize {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
}

/// The value of a header. Names come in any case: Python's `Authorization` is hyper's `authorization`.
fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (key, value) = line.split_at_checked(name.len())?;
        let value = key.eq_ignore_ascii_case(name).then(|| value.strip_prefix(b":"))??;
        Some(value.trim_ascii())
    })
}

const INITIALIZED: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"bench","version":"1"}}"#;
const TOOLS: &str = r#"{"tools":[{"name":"echo","description":"Gives back","inputSchema":{"type":"object","properties":{"text":{"type":"string"},"n":{"type":"integer"}}}}]}"#;
