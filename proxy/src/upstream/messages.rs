//! The messages of a successful answer: one in JSON, or a stream of events.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::budget::{Budget, Message, Share};
use crate::config::MAX_UPSTREAM_MESSAGE;
use crate::error::{Error, innermost};
use crate::sse::{Event, Parser, Why};
use crate::wire;

/// A part of an answer.
#[derive(Debug)]
pub enum Incoming {
    /// One JSON text on one line.
    Message(Message),
    /// A message was dropped; the stream continues.
    Dropped(Why),
}

impl From<Why> for Error {
    fn from(why: Why) -> Self {
        match why {
            Why::TooLarge => Self::TooLarge { limit: MAX_UPSTREAM_MESSAGE },
            Why::NotText => Self::NotMessage("not UTF-8"),
            Why::BadBatch => Self::NotMessage("a batch that can't be read"),
        }
    }
}

/// The body of an answer, read message by message.
#[derive(Debug)]
pub struct Messages {
    response: reqwest::Response,
    host: String,
    read: Option<Duration>,
    budget: Budget,
    /// The share of the message that is being read.
    share: Share,
    /// Messages that were read. There can be more than one if the server sent a batch.
    ready: VecDeque<Message>,
    format: Format,
}

#[derive(Debug)]
enum Format {
    Json { done: bool },
    Events(Parser),
}

impl Messages {
    /// The messages of a JSON body. `read` limits the silence between two parts.
    pub(super) fn json(
        response: reqwest::Response,
        host: String,
        read: Option<Duration>,
        budget: Budget,
    ) -> Self {
        Self::new(response, host, read, budget, Format::Json { done: false })
    }

    /// The messages of a stream of events.
    pub(super) fn events(
        response: reqwest::Response,
        host: String,
        read: Option<Duration>,
        budget: Budget,
    ) -> Self {
        let parser = Parser::new(MAX_UPSTREAM_MESSAGE, None);
        Self::new(response, host, read, budget, Format::Events(parser))
    }

    fn new(
        response: reqwest::Response,
        host: String,
        read: Option<Duration>,
        budget: Budget,
        format: Format,
    ) -> Self {
        let (share, ready) = (Share::default(), VecDeque::new());
        Self { response, host, read, budget, share, ready, format }
    }

    /// Continues the stream `earlier`, which was cut, with its last event id.
    #[must_use]
    pub fn resuming(mut self, earlier: &Self) -> Self {
        if let (Format::Events(parser), Some(id)) = (&mut self.format, earlier.last_id()) {
            *parser = Parser::new(MAX_UPSTREAM_MESSAGE, Some(id.to_owned()));
        }
        self
    }

    /// The event to resume after, if the stream can be resumed.
    #[must_use]
    pub fn last_id(&self) -> Option<&str> {
        match &self.format {
            Format::Events(parser) => parser.last_id(),
            Format::Json { .. } => None,
        }
    }

    /// How long the server asks the client to wait before that.
    #[must_use]
    pub fn retry(&self) -> Option<Duration> {
        match &self.format {
            Format::Events(parser) => parser.retry_ms().map(Duration::from_millis),
            Format::Json { .. } => None,
        }
    }

    /// The next message; `None` at the end of the body. After an error, the stream is cut.
    pub async fn next(&mut self) -> Result<Option<Incoming>, Error> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(Incoming::Message(message)));
            }
            match &mut self.format {
                Format::Events(parser) => match parser.pop() {
                    Some(Event::Message(text)) => {
                        let share = std::mem::take(&mut self.share);
                        match messages(Message::new(wire::one_line(text), share)) {
                            Some(messages) => self.ready = messages,
                            None => return Ok(Some(Incoming::Dropped(Why::BadBatch))),
                        }
                    }
                    Some(Event::Dropped(why)) => return Ok(Some(Incoming::Dropped(why))),
                    None => match self.chunk().await? {
                        Some(piece) => {
                            if let Format::Events(parser) = &mut self.format {
                                let held = parser.held() + piece.len();
                                self.share.cover(&self.budget, held).await;
                                parser.push(&piece);
                            }
                        }
                        None => return Ok(None),
                    },
                },
                Format::Json { done: true } => return Ok(None),
                Format::Json { done } => {
                    *done = true;
                    self.ready = self.whole().await?;
                }
            }
        }
    }

    /// A JSON body, as one message or the messages of a batch (2025-03-26).
    async fn whole(&mut self) -> Result<VecDeque<Message>, Error> {
        let expected = self.response.content_length().unwrap_or(0);
        let limit = MAX_UPSTREAM_MESSAGE;
        if expected > limit as u64 {
            return Err(Error::TooLarge { limit });
        }
        let expected = usize::try_from(expected).unwrap_or(0);
        let mut share = Share::default();
        share.cover(&self.budget, expected).await;
        let not_text = |_| Error::NotMessage("not UTF-8");
        let (mut text, mut length) = (wire::Pieces::expecting(expected), 0);
        while let Some(piece) = self.chunk().await? {
            length += piece.len();
            if length > limit {
                return Err(Error::TooLarge { limit });
            }
            share.cover(&self.budget, length).await;
            text.push(&piece).map_err(not_text)?;
        }
        let text = text.finish().map_err(not_text)?;
        messages(Message::new(text, share)).ok_or(Error::NotMessage("not JSON"))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        next_chunk(&mut self.response, self.read, &self.host).await
    }
}

/// The next part of a body; `None` at its end. `read` limits the wait.
pub(super) async fn next_chunk(
    response: &mut reqwest::Response,
    read: Option<Duration>,
    host: &str,
) -> Result<Option<Bytes>, Error> {
    let next = response.chunk();
    let piece = match read {
        None => next.await,
        Some(after) => match tokio::time::timeout(after, next).await {
            Ok(piece) => piece,
            Err(_) => {
                return Err(Error::Timeout {
                    host: host.to_owned(),
                    what: "stopped sending its response: nothing came",
                    after,
                    option: "--read-timeout",
                });
            }
        },
    };
    piece.map_err(|error| Error::Interrupted { host: host.to_owned(), detail: innermost(&error) })
}

/// The messages of a text on one line: the text itself, or those of a batch. `None` if the batch is invalid.
fn messages(whole: Message) -> Option<VecDeque<Message>> {
    match wire::batch(&whole.text) {
        Ok(Some(batch)) => Some(batch.into_iter().map(|one| whole.part(one)).collect()),
        Ok(None) => Some(VecDeque::from([whole])),
        Err(_) => None,
    }
}
