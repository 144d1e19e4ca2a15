//! The body of a forwarded answer: the server's own frames, with messages of other sessions between
//! them.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{Stream, stream};
use tokio::sync::{OwnedMutexGuard, mpsc};

use super::body::{Cut, framed};
use super::clients::Registered;
use crate::budget::Message;
use crate::client::Failed;
use crate::error::Error;
use crate::exchange::{Begun, Deadline, FrameReading};
use crate::request::Request;
use crate::sse;
use crate::upstream::{Frame, Frames};

/// Messages of other sessions, for one reader at a time.
pub(super) type Inbox = OwnedMutexGuard<mpsc::Receiver<Message>>;

/// The answer to a call. The call is in flight until this is dropped.
pub(super) struct CallAnswer {
    reading: FrameReading,
    call: Request,
    registered: Registered,
    deadline: Deadline,
    /// The first frame, end or error, if it was read before.
    first: Begun,
    /// The last event after which the client can resume.
    last_event: Option<String>,
    /// Called if the response reports that the session is lost.
    on_expired: Option<Box<dyn FnOnce() + Send>>,
}

/// A forwarded body.
pub(super) struct ForwardedBody {
    source: Source,
    /// The next parts to send.
    ready: VecDeque<Bytes>,
    inbox: Option<Others>,
    is_done: bool,
}

enum Source {
    /// The answer to a call, which is checked.
    Call(Box<CallAnswer>),
    /// A stream of unsolicited messages.
    Unsolicited(Box<FrameReading>),
    /// Anything else: each part is forwarded unchanged.
    Raw(Box<Frames>),
}

enum Others {
    Waiting(BoxFuture<'static, Inbox>),
    Open(Inbox),
}

impl ForwardedBody {
    /// The rest of the answer to a call, of which `first` has already been read.
    pub(super) fn of_call(answer: CallAnswer, first: Option<Bytes>) -> Self {
        let source = Source::Call(Box::new(answer));
        Self { source, ready: first.into_iter().collect(), inbox: None, is_done: false }
    }

    /// A stream of unsolicited messages, with those of `inbox` between its events.
    pub(super) fn unsolicited(
        frames: Box<Frames>,
        inbox: Option<BoxFuture<'static, Inbox>>,
    ) -> Self {
        let source = Source::Unsolicited(Box::new(FrameReading::unsolicited(frames)));
        let inbox = inbox.map(Others::Waiting);
        Self { source, ready: VecDeque::new(), inbox, is_done: false }
    }

    /// The answer to something else.
    pub(super) fn raw(frames: Frames) -> Self {
        let source = Source::Raw(Box::new(frames.raw()));
        Self { source, ready: VecDeque::new(), inbox: None, is_done: false }
    }

    /// The parts of the body; `held` is dropped after the last.
    pub(super) fn pieces<T: Send + 'static>(
        self,
        held: T,
    ) -> impl Stream<Item = Result<Bytes, Cut>> + Send {
        stream::unfold((self, held), |(mut body, held)| async {
            let piece = body.next().await?;
            Some((piece, (body, held)))
        })
    }

    async fn next(&mut self) -> Option<Result<Bytes, Cut>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(Ok(piece));
            }
            if self.is_done {
                return None;
            }
            let is_between = self.source.is_between();
            let deadline = self.source.deadline();
            let piece = tokio::select! {
                piece = self.source.next() => piece,
                other = other(&mut self.inbox), if is_between && self.inbox.is_some() => {
                    self.ready.extend(other.into_iter().flat_map(framed));
                    continue;
                }
                () = deadline.passed() => return self.late(),
            };
            match piece {
                Ok(Some(piece)) => return Some(Ok(piece)),
                Ok(None) => {
                    self.is_done = true;
                    return None;
                }
                Err(error) => return Some(self.failed(error)),
            }
        }
    }

    /// Ends the answer at its deadline. The client gets an error response if the last event is
    /// complete.
    fn late(&mut self) -> Option<Result<Bytes, Cut>> {
        self.is_done = true;
        let Source::Call(answer) = &self.source else { return None };
        let late = answer.registered.client().too_late(&answer.call, &answer.registered.flight);
        match self.source.is_between() {
            true => Some(Ok(sse::event(&late.into_response(&answer.call)).into())),
            false => Some(Err("the call took too long".into())),
        }
    }

    /// Ends an answer that has no response. A client that can resume the stream sees a cut, and
    /// resumes. Any other gets an error response, or a cut if the last event isn't complete.
    fn failed(&mut self, error: Error) -> Result<Bytes, Cut> {
        self.is_done = true;
        match &self.source {
            Source::Call(answer) if answer.reading.is_unfinished() && self.source.is_between() => {
                let response = Failed::from(error).into_response(&answer.call);
                Ok(sse::event(&response).into())
            }
            Source::Call(_) | Source::Unsolicited(_) | Source::Raw(_) => {
                tracing::info!(%error, "a stream was cut");
                Err(error.into())
            }
        }
    }
}

impl CallAnswer {
    pub(super) fn new(
        reading: FrameReading,
        call: Request,
        registered: Registered,
        deadline: Deadline,
    ) -> Self {
        Self {
            reading,
            call,
            registered,
            deadline,
            first: None,
            last_event: None,
            on_expired: None,
        }
    }

    /// Sets what is called if the response reports that the session is lost. It is too late to repeat the call; the
    /// client's next request opens another session.
    pub(super) fn on_expired(mut self, expire: impl FnOnce() + Send + 'static) -> Self {
        self.on_expired = Some(Box::new(expire));
        self
    }

    /// The same, with the first frame that has already been read.
    pub(super) fn with_first(mut self, first: Begun) -> Self {
        self.first = first;
        self
    }

    /// The rest of an answer, which is resumed after an event.
    pub(super) fn after(mut self, event: &str) -> Self {
        self.last_event = Some(event.to_owned());
        self
    }

    pub(super) fn is_events(&self) -> bool {
        self.reading.is_events()
    }

    /// Stores the event after which the client may resume. The client hasn't received the frame
    /// yet.
    fn on_frame(&mut self) {
        let unfinished = &self.registered.unfinished();
        match self.reading.is_open_after() {
            Some(event) if self.last_event.as_deref() == Some(event) => {}
            Some(event) => {
                unfinished.remember(event, &self.call);
                self.last_event = Some(event.to_owned());
            }
            None if self.last_event.take().is_some() => unfinished.forget(self.call.id()),
            None => {}
        }
        if self.reading.is_expired()
            && let Some(expire) = self.on_expired.take()
        {
            expire();
        }
    }
}

impl Source {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match self {
            Self::Call(answer) => {
                let frame = match answer.first.take() {
                    Some(first) => first?,
                    None => answer.reading.next().await?,
                };
                answer.on_frame();
                Ok(frame)
            }
            Self::Unsolicited(reading) => reading.next().await,
            Self::Raw(frames) => Ok(frames.next(&mut |_| true).await?.map(|frame| match frame {
                Frame::Part(part) => part,
                Frame::Whole(whole) | Frame::Cut(whole) => whole.into_bytes(),
            })),
        }
    }

    fn is_between(&self) -> bool {
        match self {
            // The frame that was read before hasn't been sent yet.
            Self::Call(answer) => answer.first.is_none() && answer.reading.is_between(),
            Self::Unsolicited(reading) => reading.is_between(),
            Self::Raw(frames) => frames.is_between(),
        }
    }

    fn deadline(&self) -> Deadline {
        match self {
            Self::Call(answer) => answer.deadline,
            Self::Unsolicited(_) | Self::Raw(_) => Deadline::none(),
        }
    }
}

/// The next message of other sessions; `None` once the inbox itself is acquired.
async fn other(inbox: &mut Option<Others>) -> Option<Message> {
    match inbox {
        Some(Others::Open(inbox)) => match inbox.recv().await {
            Some(message) => Some(message),
            None => std::future::pending().await,
        },
        Some(Others::Waiting(waiting)) => {
            let open = waiting.await;
            *inbox = Some(Others::Open(open));
            None
        }
        None => std::future::pending().await,
    }
}
