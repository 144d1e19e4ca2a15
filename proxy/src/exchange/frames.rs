//! The answer to one request, read frame by frame and forwarded unchanged where nothing must change.

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

/// Inspects a response, and may return a replacement for its text.
type Inspect = Box<dyn FnMut(&str) -> Option<String> + Send>;

/// How the response of a request is processed.
pub(crate) struct OnResponse {
    /// Is given it.
    pub(crate) inspect: Inspect,
    /// Whether it needs the whole response, even if that is large.
    pub(crate) needs_whole: bool,
}

/// The frames of a successful answer.
pub(crate) struct FrameReading {
    frames: Box<Frames>,
    judge: Judge,
    /// Whether the client itself can resume the stream, if its events have ids.
    can_resume: bool,
    on_response: OnResponse,
    is_expired: bool,
    /// The response, if it reports that the request was throttled.
    throttled: Option<String>,
    /// The span of the phase *stream*, kept while the answer is read.
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
        let (is_expired, throttled, _span) = (false, None, phase!("stream"));
        Ok(Self { frames, judge, can_resume, on_response, is_expired, throttled, _span })
    }

    /// A stream of unsolicited messages.
    pub(crate) fn unsolicited(frames: Box<Frames>) -> Self {
        let on_response = OnResponse { inspect: Box::new(|_| None), needs_whole: false };
        let judge = Judge::unsolicited();
        let (is_expired, throttled, _span) = (false, None, tracing::Span::none());
        Self { frames, judge, can_resume: true, on_response, is_expired, throttled, _span }
    }

    /// The rest of the answer to `call`, which its client resumes after an event.
    pub(crate) fn resumed(
        call: &Request,
        after: &str,
        frames: Frames,
        on_response: OnResponse,
    ) -> Result<Self, Error> {
        Self::begin(call, StatusCode::OK, Box::new(frames.after(after)), on_response)
    }

    /// Whether the answer has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.frames.is_done()
    }

    /// Whether the frames are events, so that other events can be inserted between them.
    pub(crate) fn is_events(&self) -> bool {
        self.frames.is_events()
    }

    /// Whether the frames so far end at the end of an event.
    pub(crate) fn is_between(&self) -> bool {
        self.frames.is_between()
    }

    /// Whether the client can resume the stream where it ends.
    fn is_resumable(&self) -> bool {
        self.can_resume && self.frames.last_id().is_some()
    }

    /// The event after which the client can resume the stream, if the response is still missing.
    pub(crate) fn is_open_after(&self) -> Option<&str> {
        self.frames.last_id().filter(|_| self.can_resume && self.judge.missing().is_some())
    }

    /// Why there is no response, if the frames so far have none.
    pub(crate) fn missing(&self) -> Option<Error> {
        self.judge.missing()
    }

    /// Whether the response is AWS's error for a lost session.
    pub(crate) fn is_expired(&self) -> bool {
        self.is_expired
    }

    /// Whether the response reports that the request was throttled.
    pub(super) fn is_throttled_response(&self) -> bool {
        self.throttled.is_some()
    }

    /// Takes the response that reports throttling.
    pub(super) fn take_error(&mut self) -> String {
        self.throttled.take().unwrap_or_default()
    }

    /// The next frame; `None` at the end. Cancel-safe: no frame is lost if the future is dropped.
    ///
    /// # Errors
    /// No response will come, and the client can't detect that itself: the server ended the answer
    /// without one, or the answer was cut.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let (judge, needs_whole) = (&mut self.judge, self.on_response.needs_whole);
            let mut may_forward = |beginning: &[u8]| !needs_whole && judge.may_forward(beginning);
            let frame = self.frames.next(&mut may_forward).await?;
            let bytes = match frame {
                Some(Frame::Part(part)) => Some(part),
                Some(Frame::Whole(whole)) => self.judged(whole),
                // By the standard it is no event. If nothing else shows the client how the call
                // ended, the error that follows must not be read as part of this frame.
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

    /// Whether the response is missing, and the client can't resume the stream for it.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.judge.missing().is_some() && !self.is_resumable()
    }

    /// The forwarded form of an event or a body; `None` if it is dropped.
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

    /// Checks the messages of a batch (2025-03-26).
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
                self.is_expired = code_of(&envelope) == Some(AWS_SESSION_EXPIRED);
                let shown = repaired.as_deref().unwrap_or(text);
                if throttle::may_be_error(shown) && throttle::is_error(&envelope) {
                    self.throttled = Some(shown.to_owned());
                }
                let changed = (self.on_response.inspect)(shown);
                changed.or(repaired).map_or(Change::Keep, Change::Replace)
            }
        }
    }
}

/// How a message is changed.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// It is forwarded unchanged.
    Keep,
    /// This text is forwarded in its place.
    Replace(String),
    /// It is dropped.
    Drop,
}

#[cfg(test)]
mod tests;
