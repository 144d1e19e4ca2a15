//! An MCP client over standard input and output that only handles lines: tests control every byte.

use std::process::{ExitStatus, Stdio};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio::sync::mpsc;

use super::{Process, assert_no_canary};
use crate::deadline;

/// A child process with line-based communication. Every wait has a deadline, and no received line may contain a canary.
#[derive(Debug)]
pub struct StdioClient {
    process: Process,
    input: Option<ChildStdin>,
    output: mpsc::UnboundedReceiver<String>,
    /// Received lines that no test has taken yet.
    unread: Vec<String>,
    /// Every line in both directions, for the message of a failed test.
    transcript: Vec<String>,
    last_id: u64,
}

impl StdioClient {
    /// Starts `command` with pipes.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(command);
        let (input, output) = process.pipes();
        let (lines, received) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut output = BufReader::new(output).lines();
            while let Ok(Some(line)) = output.next_line().await {
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            process,
            input: Some(input),
            output: received,
            unread: Vec::new(),
            transcript: Vec::new(),
            last_id: 0,
        }
    }

    /// The process on the other side.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Sends one line as it is.
    pub async fn send(&mut self, line: &str) {
        self.note("→", line);
        self.send_bytes(format!("{line}\n").as_bytes()).await;
    }

    /// Sends text as it is, unless the process has ended; returns whether it was written.
    pub async fn try_send(&mut self, text: &str) -> bool {
        self.note("→", text.trim_end());
        let input = self.input.as_mut().expect("the input is open");
        let written = async {
            input.write_all(text.as_bytes()).await?;
            input.flush().await
        };
        let written = deadline::within(written, || "the process doesn't read its input".to_owned());
        written.await.is_ok()
    }

    /// Sends bytes as they are, without an end of line.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().expect("the input is open");
        let written = async {
            input.write_all(bytes).await?;
            input.flush().await
        };
        let written = deadline::within(written, || "the process doesn't read its input".to_owned());
        if let Err(error) = written.await {
            panic!("the input is closed ({error})\n{}", self.story());
        }
    }

    /// Sends a request with a new id, and returns the response with that id.
    pub async fn request(&mut self, method: &str, params: &str) -> Value {
        let id = self.start_request(method, params).await;
        self.response(&id).await
    }

    /// Sends a request with a new id, and returns the id.
    pub async fn start_request(&mut self, method: &str, params: &str) -> Value {
        self.last_id += 1;
        let id = self.last_id;
        self.send(&format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#
        ))
        .await;
        Value::from(id)
    }

    /// Waits for the response with this id.
    pub async fn response(&mut self, id: &Value) -> Value {
        let what = format!("the response to {id}");
        self.expect(&what, |message| message.get("method").is_none() && message["id"] == *id).await
    }

    /// The response with this id; `None` if the process ends without it.
    pub async fn response_or_end(&mut self, id: &Value) -> Option<Value> {
        loop {
            let parsed = |line: &String| serde_json::from_str::<Value>(line).unwrap_or_default();
            let response =
                |message: &Value| message.get("method").is_none() && message["id"] == *id;
            if let Some(found) = self.unread.iter().position(|line| response(&parsed(line))) {
                return Some(parsed(&self.unread.remove(found)));
            }
            match tokio::time::timeout(deadline::DEADLINE, self.output.recv()).await {
                Ok(Some(line)) => {
                    self.note("←", &line);
                    assert_no_canary("a line on standard output", &line);
                    self.unread.push(line);
                }
                Ok(None) => return None,
                Err(_) => panic!("no response to {id}, and no end\n{}", self.story()),
            }
        }
    }

    /// Calls a tool, with `arguments` as JSON text. Returns the response.
    pub async fn call(&mut self, tool: &str, arguments: &str) -> Value {
        self.request("tools/call", &call(tool, arguments)).await
    }

    /// The handshake of the version with sessions. Returns the result of `initialize`.
    pub async fn initialize(&mut self) -> Value {
        self.initialize_as("2025-11-25", "{}").await
    }

    /// The handshake with this version and these capabilities (JSON text).
    pub async fn initialize_as(&mut self, version: &str, capabilities: &str) -> Value {
        let params = format!(
            r#"{{"protocolVersion":"{version}","capabilities":{capabilities},"clientInfo":{{"name":"sigward-tests","version":"1.0"}}}}"#
        );
        let response = self.request("initialize", &params).await;
        assert!(response["result"].is_object(), "initialize failed: {response}\n{}", self.story());
        self.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        response["result"].clone()
    }

    /// The first message, received already or in the future, that `matches`; `what` is its name in the panic if none
    /// comes. Other lines stay unread.
    pub async fn expect(&mut self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        let line = self.expect_line(what, |line| {
            serde_json::from_str(line).is_ok_and(|message| matches(&message))
        });
        let line = line.await;
        serde_json::from_str(&line).expect("it was parsed before")
    }

    /// [`StdioClient::expect`] for the text of a line.
    pub async fn expect_line(&mut self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        if let Some(found) = self.unread.iter().position(|line| matches(line)) {
            return self.unread.remove(found);
        }
        loop {
            match tokio::time::timeout(deadline::DEADLINE, self.output.recv()).await {
                Ok(Some(line)) => {
                    self.note("←", &line);
                    assert_no_canary("a line on standard output", &line);
                    if matches(&line) {
                        return line;
                    }
                    self.unread.push(line);
                }
                Ok(None) => panic!("standard output ended before {what}\n{}", self.story()),
                Err(_) => panic!("{what} never came\n{}", self.story()),
            }
        }
    }

    /// The received lines that no test has taken.
    #[must_use]
    pub fn unread(&mut self) -> &[String] {
        while let Ok(line) = self.output.try_recv() {
            self.note("←", &line);
            self.unread.push(line);
        }
        &self.unread
    }

    /// Closes standard input, and waits for the end of the process. Returns its status, the unread lines, and standard
    /// error.
    pub async fn close(mut self) -> (ExitStatus, Vec<String>, String) {
        self.input = None;
        let (status, errors) = self.process.ended().await;
        while let Some(line) = self.output.recv().await {
            assert_no_canary("a line on standard output", &line);
            self.unread.push(line);
        }
        (status, std::mem::take(&mut self.unread), errors)
    }

    /// Waits for the end of the process, with its standard input open.
    pub async fn ended(mut self) -> (ExitStatus, String) {
        self.process.ended().await
    }

    fn note(&mut self, direction: &str, line: &str) {
        const SHOWN: usize = 2000;
        let end = line.char_indices().nth(SHOWN).map_or(line.len(), |(end, _)| end);
        self.transcript.push(format!("{direction} {}", &line[..end]));
    }

    fn story(&self) -> String {
        let lines = self.transcript.join("\n");
        format!("{lines}\n--- standard error:\n{}", self.process.errors())
    }
}

/// The parameters of a `tools/call`, with unchanged `arguments`.
#[must_use]
pub fn call(tool: &str, arguments: &str) -> String {
    format!(r#"{{"name":"{tool}","arguments":{arguments}}}"#)
}
