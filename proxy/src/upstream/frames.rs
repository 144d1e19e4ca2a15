//! The body of a successful answer, for a client that gets it as the server sent it.
//!
//! Events and JSON bodies are read whole so that they can be checked. If one is large, and its
//! beginning is sufficient for the check, it is forwarded in parts.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::messages::next_chunk;
use crate::budget::{Budget, Share};
use crate::config::MAX_UPSTREAM_MESSAGE;
use crate::error::Error;
use crate::sse::{self, Boundaries, MAX_ID};
use crate::wire;

/// Larger events and bodies may be forwarded before they are complete.
const SMALL: usize = 64 << 10;

/// A part of a body.
#[derive(Debug)]
pub enum Frame {
    /// A whole event, or a whole JSON body.
    Whole(Whole),
    /// A part of an event or body that is forwarded unchanged.
    Part(Bytes),
    /// An event that the end of the body has cut. By the standard it isn't an event, but some
    /// clients accept it.
    Cut(Whole),
}

/// A whole event or body, with its share of the memory.
#[derive(Debug)]
pub struct Whole {
    bytes: Vec<u8>,
    share: Share,
    is_event: bool,
}

impl Whole {
    /// Its JSON text, if there is any.
    #[must_use]
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match self.is_event {
            true => sse::message(&self.bytes),
            false => std::str::from_utf8(&self.bytes).ok().map(Cow::Borrowed),
        }
    }

    /// The unchanged bytes.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.share.holding(self.bytes)
    }

    /// The bytes with `text` in place of the original text.
    #[must_use]
    pub fn with(self, text: String) -> Bytes {
        let bytes = match self.is_event {
            true => sse::with_data(&self.bytes, Some(&wire::one_line(text))),
            false => text.into_bytes(),
        };
        self.share.holding(bytes)
    }

    /// An event without its text: its id is needed by a client that resumes.
    #[must_use]
    pub fn without_text(self) -> Option<Bytes> {
        self.is_event.then(|| self.share.holding(sse::with_data(&self.bytes, None)))
    }
}

/// The format of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Events,
    Json,
    /// A format that isn't checked.
    Raw,
}

/// How an incomplete event or body is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// It is held until it is complete or large.
    Hold,
    /// It is large, and is forwarded in parts.
    Forward,
    /// It is large, and must be checked as a whole.
    Collect,
}

/// A body that is being read. [`Frames::next`] is cancel-safe: nothing is lost if its future is
/// dropped.
#[derive(Debug)]
pub struct Frames {
    response: reqwest::Response,
    host: String,
    read: Option<Duration>,
    format: Format,
    is_events: bool,
    boundaries: Boundaries,
    mode: Mode,
    /// Received bytes that weren't processed yet.
    pending: Bytes,
    /// The received part of the incomplete event or body.
    held: Vec<u8>,
    share: Share,
    budget: Budget,
    ready: VecDeque<Frame>,
    /// The id of the last complete event, after which the client can resume the stream.
    last_id: Option<String>,
    is_done: bool,
}

impl Frames {
    /// The body of `response` with this media type. `read` limits the silence between two parts, except for events: not
    /// every server keeps such a stream alive.
    pub(crate) fn new(
        response: reqwest::Response,
        media_type: Option<&str>,
        host: String,
        read: Duration,
        budget: Budget,
    ) -> Self {
        let format = match media_type {
            Some("text/event-stream") => Format::Events,
            Some("application/json") => Format::Json,
            _ => Format::Raw,
        };
        Self {
            response,
            host,
            read: (format == Format::Json).then_some(read),
            format,
            is_events: format == Format::Events,
            boundaries: Boundaries::default(),
            mode: Mode::Hold,
            pending: Bytes::new(),
            held: Vec::new(),
            share: Share::default(),
            budget,
            ready: VecDeque::new(),
            last_id: None,
            is_done: false,
        }
    }

    /// The same without checks: each part is forwarded unchanged.
    #[must_use]
    pub fn raw(mut self) -> Self {
        self.format = Format::Raw;
        self.read = None;
        self
    }

    /// Whether the body is a stream of events.
    #[must_use]
    pub fn is_events(&self) -> bool {
        self.is_events
    }

    /// Whether the body is neither events nor JSON.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.format == Format::Raw
    }

    /// Whether the body has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_done && self.ready.is_empty()
    }

    /// The event after which the client can resume the stream.
    #[must_use]
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// The same for a stream that is resumed after this event.
    #[must_use]
    pub fn after(mut self, event: &str) -> Self {
        self.last_id = Some(event.to_owned());
        self
    }

    /// Whether the frames so far end at the end of an event.
    #[must_use]
    pub fn is_between(&self) -> bool {
        let holds = self.format == Format::Events && self.mode != Mode::Forward;
        self.is_events && self.ready.is_empty() && (holds || self.boundaries.between_events())
    }

    /// The next frame; `None` at the end. `may_forward` is called once for something large, with the
    /// beginning of its text. It decides whether it may be forwarded before it is complete.
    ///
    /// # Errors
    /// The body was cut, or has an event that is too large.
    pub async fn next(
        &mut self,
        may_forward: &mut (dyn FnMut(&[u8]) -> bool + Send),
    ) -> Result<Option<Frame>, Error> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Ok(Some(frame));
            }
            if self.is_done {
                return Ok(None);
            }
            if self.pending.is_empty() {
                match next_chunk(&mut self.response, self.read, &self.host).await? {
                    Some(piece) => self.pending = piece,
                    None => {
                        self.end();
                        continue;
                    }
                }
            }
            self.take(may_forward).await?;
        }
    }

    /// Makes frames of the received bytes.
    async fn take(
        &mut self,
        may_forward: &mut (dyn FnMut(&[u8]) -> bool + Send),
    ) -> Result<(), Error> {
        if self.format == Format::Raw {
            let piece = std::mem::take(&mut self.pending);
            self.boundaries.advance_all(&piece);
            self.ready.push_back(Frame::Part(piece));
            return Ok(());
        }
        while !self.pending.is_empty() {
            let mut boundaries = self.boundaries;
            let end = match self.format {
                Format::Events => boundaries.advance(&self.pending),
                Format::Json | Format::Raw => None,
            };
            let length = end.unwrap_or(self.pending.len());
            if self.mode != Mode::Forward {
                let held = self.held.len() + length;
                if held > MAX_UPSTREAM_MESSAGE {
                    return Err(Error::TooLarge { limit: MAX_UPSTREAM_MESSAGE });
                }
                self.share.cover(&self.budget, held).await;
            }
            // There is no await from here on, so that nothing is processed twice.
            self.boundaries = boundaries;
            let part = self.pending.split_to(length);
            match self.mode {
                Mode::Forward => self.ready.push_back(Frame::Part(part)),
                Mode::Hold | Mode::Collect => self.held.extend_from_slice(&part),
            }
            if end.is_some() {
                let mode = std::mem::replace(&mut self.mode, Mode::Hold);
                if mode != Mode::Forward {
                    let whole = self.whole();
                    self.record_id(&whole.bytes);
                    self.ready.push_back(Frame::Whole(whole));
                }
            } else if self.mode == Mode::Hold && self.held.len() > SMALL {
                self.decide(may_forward);
            }
        }
        Ok(())
    }

    /// Decides how something large is handled, by its beginning.
    fn decide(&mut self, may_forward: &mut (dyn FnMut(&[u8]) -> bool + Send)) {
        let beginning = match self.is_events {
            true => sse::beginning_of_data(&self.held),
            false => Some(self.held.as_slice()),
        };
        if beginning.is_some_and(may_forward) {
            self.mode = Mode::Forward;
            let whole = self.whole();
            self.record_id(&whole.bytes);
            self.ready.push_back(Frame::Part(whole.into_bytes()));
        } else {
            self.mode = Mode::Collect;
        }
    }

    fn end(&mut self) {
        self.is_done = true;
        if self.mode == Mode::Forward {
            return;
        }
        let whole = self.whole();
        match self.format {
            Format::Json => self.ready.push_back(Frame::Whole(whole)),
            _ if whole.bytes.is_empty() => {}
            _ => self.ready.push_back(Frame::Cut(whole)),
        }
    }

    /// Records the id of an event that is forwarded.
    fn record_id(&mut self, event: &[u8]) {
        if self.is_events
            && let Some(id) = sse::id(event)
        {
            let is_one = !id.is_empty() && id.len() <= MAX_ID;
            self.last_id = is_one.then(|| id.to_owned());
        }
    }

    fn whole(&mut self) -> Whole {
        let (bytes, share) = (std::mem::take(&mut self.held), std::mem::take(&mut self.share));
        Whole { bytes, share, is_event: self.is_events }
    }
}
