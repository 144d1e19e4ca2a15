//! The body of a successful answer, for a client that gets it as the server sent it.
//!
//! Events and JSON bodies come whole, so that they can be judged, unless they are large and their
//! beginning tells all that there is to judge: then they pass on as they come.

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

/// Larger events and bodies may be passed on before they are complete.
const SMALL: usize = 64 << 10;

/// A piece of a body.
#[derive(Debug)]
pub enum Frame {
    /// A whole event, or a whole JSON body.
    Whole(Whole),
    /// A part of something that is passed on as it comes.
    Part(Bytes),
    /// An event that the end of the body has cut. To the standard it is none; some clients take it.
    Cut(Whole),
}

/// Something whole, with its share of the memory.
#[derive(Debug)]
pub struct Whole {
    bytes: Vec<u8>,
    share: Share,
    is_event: bool,
}

impl Whole {
    /// The JSON text in it, if there is any.
    #[must_use]
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match self.is_event {
            true => sse::message(&self.bytes),
            false => std::str::from_utf8(&self.bytes).ok().map(Cow::Borrowed),
        }
    }

    /// It, as it came.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.share.holding(self.bytes)
    }

    /// It, with `text` in the place of its own.
    #[must_use]
    pub fn with(self, text: String) -> Bytes {
        let bytes = match self.is_event {
            true => sse::with_data(&self.bytes, Some(&wire::one_line(text))),
            false => text.into_bytes(),
        };
        self.share.holding(bytes)
    }

    /// What is left of it without its text: the id of an event counts for a client that resumes.
    #[must_use]
    pub fn without_text(self) -> Option<Bytes> {
        self.is_event.then(|| self.share.holding(sse::with_data(&self.bytes, None)))
    }
}

/// What a body consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Events,
    Json,
    /// Nothing that is judged.
    Raw,
}

/// What happens to the event or body that isn't complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// It is held until it is complete, or large.
    Hold,
    /// It is large, and passes on as it comes.
    Pass,
    /// It is large, and must be judged as a whole.
    Collect,
}

/// A body that is being read. [`Frames::next`] may be dropped at any time: nothing is lost.
#[derive(Debug)]
pub struct Frames {
    response: reqwest::Response,
    host: String,
    read: Option<Duration>,
    format: Format,
    is_events: bool,
    boundaries: Boundaries,
    mode: Mode,
    /// What came and wasn't looked at yet.
    pending: Bytes,
    /// What there is of the event or body that isn't complete.
    held: Vec<u8>,
    share: Share,
    budget: Budget,
    ready: VecDeque<Frame>,
    /// The id of the last complete event: its client can take the stream up again after it.
    last_id: Option<String>,
    is_done: bool,
}

impl Frames {
    /// The body of `response`, which is of this type. `read` limits the silence between two pieces, but for events: a
    /// server may keep such a stream alive or not.
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

    /// The same, with nothing judged: each piece passes on as it comes.
    #[must_use]
    pub fn raw(mut self) -> Self {
        self.format = Format::Raw;
        self.read = None;
        self
    }

    /// Whether these are events.
    #[must_use]
    pub fn is_events(&self) -> bool {
        self.is_events
    }

    /// Whether this is neither events nor JSON.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.format == Format::Raw
    }

    /// Whether nothing comes any more.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_done && self.ready.is_empty()
    }

    /// The event after which the client can take the stream up again.
    #[must_use]
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// The same, of a stream that goes on after this event.
    #[must_use]
    pub fn after(mut self, event: &str) -> Self {
        self.last_id = Some(event.to_owned());
        self
    }

    /// Whether whoever got all frames so far has whole events alone.
    #[must_use]
    pub fn is_between(&self) -> bool {
        let holds = self.format == Format::Events && self.mode != Mode::Pass;
        self.is_events && self.ready.is_empty() && (holds || self.boundaries.between_events())
    }

    /// The next frame; `None` at the end. `passes` is asked once about something large, with the
    /// beginning of its text: whether it may pass on before it is complete.
    ///
    /// # Errors
    /// The body was cut, or holds more than may be held.
    pub async fn next(
        &mut self,
        passes: &mut (dyn FnMut(&[u8]) -> bool + Send),
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
            self.take(passes).await?;
        }
    }

    /// Makes frames of the received bytes.
    async fn take(&mut self, passes: &mut (dyn FnMut(&[u8]) -> bool + Send)) -> Result<(), Error> {
        if self.format == Format::Raw {
            let piece = std::mem::take(&mut self.pending);
            self.boundaries.pass(&piece);
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
            if self.mode != Mode::Pass {
                let held = self.held.len() + length;
                if held > MAX_UPSTREAM_MESSAGE {
                    return Err(Error::TooLarge { limit: MAX_UPSTREAM_MESSAGE });
                }
                self.share.cover(&self.budget, held).await;
            }
            // From here on nothing waits, so that nothing is taken twice.
            self.boundaries = boundaries;
            let part = self.pending.split_to(length);
            match self.mode {
                Mode::Pass => self.ready.push_back(Frame::Part(part)),
                Mode::Hold | Mode::Collect => self.held.extend_from_slice(&part),
            }
            if end.is_some() {
                let mode = std::mem::replace(&mut self.mode, Mode::Hold);
                if mode != Mode::Pass {
                    let whole = self.whole();
                    self.named(&whole.bytes);
                    self.ready.push_back(Frame::Whole(whole));
                }
            } else if self.mode == Mode::Hold && self.held.len() > SMALL {
                self.decide(passes);
            }
        }
        Ok(())
    }

    /// What becomes of something large, by its beginning.
    fn decide(&mut self, passes: &mut (dyn FnMut(&[u8]) -> bool + Send)) {
        let beginning = match self.is_events {
            true => sse::beginning_of_data(&self.held),
            false => Some(self.held.as_slice()),
        };
        if beginning.is_some_and(passes) {
            self.mode = Mode::Pass;
            let whole = self.whole();
            self.named(&whole.bytes);
            self.ready.push_back(Frame::Part(whole.into_bytes()));
        } else {
            self.mode = Mode::Collect;
        }
    }

    fn end(&mut self) {
        self.is_done = true;
        if self.mode == Mode::Pass {
            return;
        }
        let whole = self.whole();
        match self.format {
            Format::Json => self.ready.push_back(Frame::Whole(whole)),
            _ if whole.bytes.is_empty() => {}
            _ => self.ready.push_back(Frame::Cut(whole)),
        }
    }

    /// Takes note of the id of an event that passes on.
    fn named(&mut self, event: &[u8]) {
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
