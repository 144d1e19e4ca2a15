//! The answer to one request as its client gets it: frame by frame, untouched where nothing changes.

use bytes::Bytes;
use http::StatusCode;
use sigward_proto::phase;

use super::verdict::{Judge, Verdict};
use crate::error::Error;
use crate::protocol::AWS_SESSION_EXPIRED;
use crate::request::Request;
use crate::session::code_of;
use crate::throttle;
use crate::upstream::{Frame, Frames, NOT_MCP, Whole, is_accepted};
use crate::wire::{self, Envelope};

/// Sees a response, and may put another text in its place.
type Inspect = Box<dyn FnMut(&str) -> Option<String> + Send>;

/// What is done with the response of a request.
pub(crate) struct OnResponse {
    /// Is given it.
    pub(crate) inspect: Inspect,
    /// Whether it must see a response that is large, too.
    pub(crate) needs_whole: bool,
}

/// The frames of a success.
pub(crate) struct FrameReading {
    frames: Box<Frames>,
    judge: Judge,
    /// Whether the client can take the stream up again by itself, where the server named its events.
    can_resume: bool,
    on_response: OnResponse,
    says_expired: bool,
    /// The response, where it says that the request was throttled.
    throttled: Option<String>,
    /// Of the trace: for as long as it is read.
    _span: tracing::Span,
}

impl FrameReading {
    pub(super) fn begin(
        call: &Request,
        status: StatusCode,
        frames: Box<Frames>,
        on_response: OnResponse,
    ) -> Result<Self, Error> {
        if is_accepted(status) {
            return Err(Error::NoAnswer);
        }
        if frames.is_unknown() {
            return Err(NOT_MCP);
        }
        let can_resume = !call.is_stateless();
        let judge = Judge::new(call.id().clone(), can_resume);
        let (says_expired, throttled, _span) = (false, None, phase!("stream"));
        Ok(Self { frames, judge, can_resume, on_response, says_expired, throttled, _span })
    }

    /// A stream of what a server says on its own account.
    pub(crate) fn unsolicited(frames: Box<Frames>) -> Self {
        let on_response = OnResponse { inspect: Box::new(|_| None), needs_whole: false };
        let judge = Judge::unsolicited();
        let (says_expired, throttled, _span) = (false, None, tracing::Span::none());
        Self { frames, judge, can_resume: true, on_response, says_expired, throttled, _span }
    }

    /// The rest of the answer to `call`, which its client takes up again after an event.
    pub(crate) fn resumed(
        call: &Request,
        after: &str,
        frames: Frames,
        on_response: OnResponse,
    ) -> Result<Self, Error> {
        Self::begin(call, StatusCode::OK, Box::new(frames.after(after)), on_response)
    }

    /// Whether nothing comes any more.
    pub(crate) fn is_done(&self) -> bool {
        self.frames.is_done()
    }

    /// Whether these are events, and others can be put between them.
    pub(crate) fn is_events(&self) -> bool {
        self.frames.is_events()
    }

    /// Whether whoever got all frames so far has whole events alone.
    pub(crate) fn is_between(&self) -> bool {
        self.frames.is_between()
    }

    /// Whether the client can take the stream up again where it ends.
    fn is_resumable(&self) -> bool {
        self.can_resume && self.frames.last_id().is_some()
    }

    /// The event after which the client can take the stream up again, where a response is still to
    /// come.
    pub(crate) fn is_open_after(&self) -> Option<&str> {
        self.frames.last_id().filter(|_| self.can_resume && self.judge.missing().is_some())
    }

    /// Why there is no response, if there is none among the frames so far.
    pub(crate) fn missing(&self) -> Option<Error> {
        self.judge.missing()
    }

    /// Whether the response says that the session is lost, in AWS's words.
    pub(crate) fn says_expired(&self) -> bool {
        self.says_expired
    }

    /// Whether the response says that the request was throttled.
    pub(super) fn says_throttled(&self) -> bool {
        self.throttled.is_some()
    }

    /// The response that says so.
    pub(super) fn take_error(&mut self) -> String {
        self.throttled.take().unwrap_or_default()
    }

    /// The next frame; `None` at the end. May be dropped at any time: nothing is lost.
    ///
    /// # Errors
    /// No response will come, and the client can't see it by itself: the server ended the answer
    /// without one. Or the answer was cut.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let (judge, needs_whole) = (&mut self.judge, self.on_response.needs_whole);
            let mut passes = |beginning: &[u8]| !needs_whole && judge.passes(beginning);
            let frame = self.frames.next(&mut passes).await?;
            let bytes = match frame {
                Some(Frame::Part(part)) => Some(part),
                Some(Frame::Whole(whole)) => self.judged(whole),
                // To the standard it is no event. Where nothing else tells the client how the call
                // ended, the error that follows must not be read as a part of it.
                Some(Frame::Cut(_)) if self.is_unfinished() => None,
                Some(Frame::Cut(whole)) => self.judged(whole),
                None => match self.judge.missing() {
                    Some(error) if !self.is_resumable() => return Err(error),
                    _ => return Ok(None),
                },
            };
            if let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) {
                return Ok(Some(bytes));
            }
        }
    }

    /// Whether there is no response, and the client can't take the stream up again for it.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.judge.missing().is_some() && !self.is_resumable()
    }

    /// An event or a body as it passes on; nothing if it doesn't.
    fn judged(&mut self, whole: Whole) -> Option<Bytes> {
        let change = match whole.text() {
            None => Change::Keep,
            Some(text) => match wire::batch(&text) {
                Ok(None) => self.message(&text),
                Ok(Some(batch)) => self.batch(&batch),
                Err(_) => Change::Keep,
            },
        };
        match change {
            Change::Keep => Some(whole.into_bytes()),
            Change::Replace(text) => Some(whole.with(text)),
            Change::Drop => whole.without_text(),
        }
    }

    /// The messages of a batch (2025-03-26).
    fn batch(&mut self, batch: &[&str]) -> Change {
        let changes: Vec<Change> = batch.iter().map(|text| self.message(text)).collect();
        if changes.iter().all(|change| *change == Change::Keep) {
            return Change::Keep;
        }
        let kept: Vec<&str> = batch
            .iter()
            .zip(&changes)
            .filter_map(|(text, change)| match change {
                Change::Keep => Some(*text),
                Change::Replace(other) => Some(other.as_str()),
                Change::Drop => None,
            })
            .collect();
        if kept.is_empty() {
            Change::Drop
        } else {
            Change::Replace(format!("[{}]", kept.join(",")))
        }
    }

    fn message(&mut self, text: &str) -> Change {
        let Ok(envelope) = Envelope::parse(text) else { return Change::Keep };
        match self.judge.message(text, &envelope) {
            Verdict::Other => Change::Keep,
            Verdict::Dropped => Change::Drop,
            Verdict::Own(repaired) => {
                self.says_expired = code_of(&envelope) == Some(AWS_SESSION_EXPIRED);
                let seen = repaired.as_deref().unwrap_or(text);
                if throttle::may_be_error(seen) && throttle::is_error(&envelope) {
                    self.throttled = Some(seen.to_owned());
                }
                let changed = (self.on_response.inspect)(seen);
                changed.or(repaired).map_or(Change::Keep, Change::Replace)
            }
        }
    }
}

/// What happens to a message.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// It passes on as it came.
    Keep,
    /// This passes on in its place.
    Replace(String),
    /// Nothing passes on.
    Drop,
}

#[cfg(test)]
mod tests;
