//! MCP over standard input and output: one message a line.
//!
//! A line that isn't a valid message is refused, and doesn't affect the next one. Only messages are
//! written to standard output.

mod lines;
mod standard;

use std::io;

use sigward_proto::traces::Since;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;

pub use self::lines::Intake;
pub use self::standard::{Input, Output};
use crate::budget::{Budget, Message, Share};
use crate::wire::Fault;

/// The most messages that wait for a slow client.
pub const OUTPUT_QUEUE: usize = 64;

/// Messages up to this size are copied into one buffer and sent in one write, which wakes the client once.
const MAX_COPIED: usize = 64 << 10;

/// One line of the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// The text without its line break.
    Text(String),
    /// The line isn't UTF-8.
    NotText,
    /// The line was longer than the limit, and was skipped.
    TooLong,
}

/// Passes the client's lines to `intake` until the input ends.
pub async fn serve(input: impl AsyncRead + Unpin, intake: &Intake, limit: usize, budget: &Budget) {
    let mut lines = Lines::new(input, limit);
    loop {
        match lines.next().await {
            Ok(Some(Line::Text(text))) => {
                let mut share = Share::default();
                // Waiting could deadlock: the messages that hold the memory may wait for a response
                // of the client that comes after this line.
                if share.try_cover(budget, text.len()) {
                    intake.receive(Message::new(text, share), lines.begun).await;
                } else {
                    let why = "too many large requests at the same time; wait for some answers";
                    intake.refuse(&text, &Fault::NotMessage(why)).await;
                }
            }
            Ok(Some(Line::NotText)) => {
                intake.refuse("", &Fault::NotMessage("the line isn't UTF-8")).await;
            }
            Ok(Some(Line::TooLong)) => {
                intake.refuse("", &Fault::NotMessage("the line is longer than 64 MiB")).await;
            }
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, "can't read standard input");
                return;
            }
        }
    }
}

/// Writes each message as a line, until all senders are dropped or the client is gone.
pub async fn write(mut output: impl AsyncWrite + Unpin, mut messages: mpsc::Receiver<Message>) {
    let mut lines = Vec::new();
    while let Some(message) = messages.recv().await {
        let written = async {
            let mut next = Some(message);
            // All messages that are ready are sent in one write.
            while let Some(mut message) = next {
                if message.text.len() > MAX_COPIED {
                    write_out(&mut output, &mut lines).await?;
                    // The client gets the whole message before its memory is freed, which takes
                    // time.
                    message.text.reserve_exact(1);
                    message.text.push('\n');
                    output.write_all(message.text.as_bytes()).await?;
                } else if lines.is_empty() {
                    message.text.push('\n');
                    lines = message.text.into_bytes();
                } else {
                    lines.extend_from_slice(message.text.as_bytes());
                    lines.push(b'\n');
                }
                if lines.len() > MAX_COPIED {
                    write_out(&mut output, &mut lines).await?;
                }
                next = messages.try_recv().ok();
            }
            write_out(&mut output, &mut lines).await?;
            output.flush().await
        };
        if let Err(error) = written.await {
            tracing::info!(%error, "the client no longer reads");
            return;
        }
    }
}

async fn write_out(output: &mut (impl AsyncWrite + Unpin), lines: &mut Vec<u8>) -> io::Result<()> {
    output.write_all(lines).await?;
    lines.clear();
    Ok(())
}

/// Reads lines of bounded length.
#[derive(Debug)]
pub struct Lines<R> {
    input: BufReader<R>,
    limit: usize,
    /// When the last line began to arrive.
    begun: Since,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Reads the lines of `input`, of at most `limit` bytes each.
    pub fn new(input: R, limit: usize) -> Self {
        Self { input: BufReader::with_capacity(64 << 10, input), limit, begun: Since::default() }
    }

    /// The next line that isn't blank. The last one needs no line break.
    pub async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let mut line = Vec::new();
            let (mut too_long, mut ended) = (false, false);
            while !ended {
                let buffer = self.input.fill_buf().await?;
                if buffer.is_empty() {
                    if line.is_empty() && !too_long {
                        return Ok(None);
                    }
                    break;
                }
                if line.is_empty() && !too_long {
                    self.begun = Since::now();
                }
                let end = memchr::memchr(b'\n', buffer);
                ended = end.is_some();
                let taken = end.unwrap_or(buffer.len());
                if too_long || line.len() + taken > self.limit {
                    too_long = true;
                    line = Vec::new();
                } else {
                    line.extend_from_slice(&buffer[..taken]);
                }
                self.input.consume(taken + usize::from(ended));
            }
            if too_long {
                return Ok(Some(Line::TooLong));
            }
            match String::from_utf8(line) {
                Ok(text) if text.trim_ascii().is_empty() => {}
                Ok(text) => return Ok(Some(Line::Text(text))),
                Err(_) => return Ok(Some(Line::NotText)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(input: &[u8], limit: usize) -> Vec<Line> {
        let mut lines = Lines::new(input, limit);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            all.push(line);
        }
        all
    }

    #[tokio::test]
    async fn an_invalid_line_does_not_affect_others() {
        let text = |text: &str| Line::Text(text.to_owned());
        assert_eq!(
            lines(b"{}\n\n \r\n\xff\n0123456789abcdef\n{\"a\":1}\r\nlast", 10).await,
            [text("{}"), Line::NotText, Line::TooLong, text("{\"a\":1}\r"), text("last")]
        );
        assert_eq!(lines(b"0123456789", 10).await, [text("0123456789")]);
        assert_eq!(lines(b"0123456789a", 10).await, [Line::TooLong]);
        assert_eq!(lines(b"", 10).await, []);
    }

    #[tokio::test]
    async fn a_long_line_takes_no_memory() {
        let long = vec![b'x'; 1 << 20];
        assert_eq!(lines(&long, 1024).await, [Line::TooLong]);
    }
}
