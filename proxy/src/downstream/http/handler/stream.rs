//! The body of an answer that passes on: the server's own frames, and messages of other sessions
//! between them.

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

/// The answer to a call. Its call is in flight until this is dropped.
pub(super) struct CallAnswer {
    reading: FrameReading,
    call: Request,
    registered: Registered,
    deadline: Deadline,
    /// What was read of it before; the end, or an error, too.
    begun: Begun,
    /// The last event that the client may go on after.
    seen: Option<String>,
    /// What is done once the response says that the session is lost.
    on_expired: Option<Box<dyn FnOnce() + Send>>,
}

/// A body that passes on.
pub(super) struct Passing {
    source: Source,
    /// What goes out next.
    ready: VecDeque<Bytes>,
    inbox: Option<Others>,
    is_done: bool,
}

enum Source {
    /// The answer to a call, which is judged.
    Call(Box<CallAnswer>),
    /// What a server says on its own account.
    Unsolicited(Box<FrameReading>),
    /// Anything else: each piece passes on as it comes.
    Raw(Box<Frames>),
}

enum Others {
    Waiting(BoxFuture<'static, Inbox>),
    Open(Inbox),
}

impl Passing {
    /// The rest of the answer to a call, of which `begun` was read.
    pub(super) fn of_call(answer: CallAnswer, begun: Option<Bytes>) -> Self {
        let source = Source::Call(Box::new(answer));
        Self { source, ready: begun.into_iter().collect(), inbox: None, is_done: false }
    }

    /// The messages that a server sends unasked, with those of `inbox` between its events.
    pub(super) fn unsolicited(
        frames: Box<Frames>,
        inbox: Option<BoxFuture<'static, Inbox>>,
    ) -> Self {
        let source = Source::Unsolicited(Box::new(FrameReading::unsolicited(frames)));
        let inbox = inbox.map(Others::Waiting);
        Self { source, ready: VecDeque::new(), inbox, is_done: false }
    }

    /// An answer to something else.
    pub(super) fn raw(frames: Frames) -> Self {
        let source = Source::Raw(Box::new(frames.raw()));
        Self { source, ready: VecDeque::new(), inbox: None, is_done: false }
    }

    /// The pieces; `held` is dropped with the last.
    pub(super) fn pieces<T: Send + 'static>(
        self,
        held: T,
    ) -> impl Stream<Item = Result<Bytes, Cut>> + Send {
        stream::unfold((self, held), |(mut passing, held)| async {
            let piece = passing.next().await?;
            Some((piece, (passing, held)))
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

    /// The deadline has passed: the client gets the response that says so, where there is room for
    /// one.
    fn late(&mut self) -> Option<Result<Bytes, Cut>> {
        self.is_done = true;
        let Source::Call(answer) = &self.source else { return None };
        let late = answer.registered.client().too_late(&answer.call, &answer.registered.flight);
        match self.source.is_between() {
            true => Some(Ok(sse::event(&late.into_response(&answer.call)).into())),
            false => Some(Err("the call took too long".into())),
        }
    }

    /// The answer has no response. A client that can take the stream up again does that; any other
    /// gets a response that says what happened, or sees that the body breaks off.
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
        Self { reading, call, registered, deadline, begun: None, seen: None, on_expired: None }
    }

    /// The same; where the response says that the session is lost, too late to begin with another one,
    /// `expire` sees to it that the client's next request does.
    pub(super) fn on_expired(mut self, expire: impl FnOnce() + Send + 'static) -> Self {
        self.on_expired = Some(Box::new(expire));
        self
    }

    /// The same, of which the first frame was read.
    pub(super) fn behind(mut self, begun: Begun) -> Self {
        self.begun = begun;
        self
    }

    /// The rest of one, which goes on after an event.
    pub(super) fn after(mut self, event: &str) -> Self {
        self.seen = Some(event.to_owned());
        self
    }

    pub(super) fn is_events(&self) -> bool {
        self.reading.is_events()
    }

    /// Remembers what the client may go on after. It doesn't have the frame yet.
    fn on_frame(&mut self) {
        let unfinished = &self.registered.unfinished();
        match self.reading.is_open_after() {
            Some(event) if self.seen.as_deref() == Some(event) => {}
            Some(event) => {
                unfinished.remember(event, &self.call);
                self.seen = Some(event.to_owned());
            }
            None if self.seen.take().is_some() => unfinished.forget(self.call.id()),
            None => {}
        }
        if self.reading.says_expired()
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
                let frame = match answer.begun.take() {
                    Some(begun) => begun?,
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
            // What was read before hasn't gone out yet.
            Self::Call(answer) => answer.begun.is_none() && answer.reading.is_between(),
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

/// The next message of the others; `None` where the wait was for the inbox itself.
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
