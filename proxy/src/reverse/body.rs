//! The bodies of answers: passed piece by piece, inspected event by event, or made here.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::time::Instant;

use super::answer::Deadline;
use crate::budget::{Budget, Message, Share};
use crate::config::MAX_UPSTREAM_MESSAGE;
use crate::sse::{self, Boundaries, Event, Frames};
use crate::wire;

/// Why a body ends before its end: the client sees a cut.
pub(crate) type Cut = Box<dyn std::error::Error + Send + Sync>;
/// Any body.
pub(crate) type Body = UnsyncBoxBody<Bytes, Cut>;

/// A body that is there.
pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that comes.
pub(super) fn flowing(pieces: impl Stream<Item = Result<Bytes, Cut>> + Send + 'static) -> Body {
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync()
}

/// `body`, which ends well at `end`, wherever it is then.
pub(crate) fn until(body: Body, end: impl Future<Output = ()> + Send + 'static) -> Body {
    StreamBody::new(BodyStream::new(body).take_until(Box::pin(end))).boxed_unsync()
}

/// Messages of other sessions, for one reader at a time.
pub(super) type Inbox = OwnedMutexGuard<mpsc::Receiver<Message>>;

/// Larger events and bodies are passed on before they are complete.
pub(super) const SMALL: usize = 64 << 10;

/// A stream that is passed on as it comes.
pub(super) struct Passing {
    response: reqwest::Response,
    boundaries: Boundaries,
    /// What looks at small events.
    inspect: Option<Inspect>,
    /// The event at work, while it is small.
    held: Vec<u8>,
    is_large: bool,
    /// What goes out next.
    ready: VecDeque<Bytes>,
    /// Whether these are events, and no other body.
    is_events: bool,
    /// When the client gets this event in place of what is still to come.
    deadline: Option<Deadline>,
    inbox: Option<Others>,
    done: bool,
}

enum Others {
    Waiting(BoxFuture<'static, Inbox>),
    Open(Inbox),
}

impl Passing {
    /// The rest of an answer after `begun`.
    pub(super) fn new(begun: Vec<u8>, response: reqwest::Response) -> Self {
        let is_events =
            crate::upstream::media_type(&response).as_deref() == Some("text/event-stream");
        Self {
            response,
            ready: VecDeque::from([begun.into()]),
            is_events,
            boundaries: Boundaries::default(),
            inspect: None,
            held: Vec::new(),
            is_large: false,
            deadline: None,
            inbox: None,
            done: false,
        }
    }

    /// Has small events looked at, as soon as they are complete.
    pub(super) fn inspected(mut self, inspect: Inspect) -> Self {
        self.inspect = Some(inspect);
        self
    }

    /// Whether these are events, and others can be put between them.
    pub(super) fn is_events(&self) -> bool {
        self.is_events
    }

    /// Ends the stream at the deadline, with its message where there is room for one.
    pub(super) fn until(mut self, deadline: Option<Deadline>) -> Self {
        self.deadline = deadline;
        self
    }

    /// Puts in what comes out of `inbox`, between the server's own events.
    pub(super) fn with(mut self, inbox: BoxFuture<'static, Inbox>) -> Self {
        self.inbox = Some(Others::Waiting(inbox));
        self
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
        if self.done {
            return None;
        }
        loop {
            match self.ready.pop_front() {
                Some(piece) if piece.is_empty() => continue,
                Some(piece) => return Some(Ok(piece)),
                None => {}
            }
            let deadline = self.deadline.as_ref().map_or_else(far, |(at, _)| *at);
            let between = self.is_events && self.boundaries.between_events();
            tokio::select! {
                piece = self.response.chunk() => {
                    return match piece {
                        Ok(Some(piece)) => match self.take(piece) {
                            piece if piece.is_empty() => continue,
                            piece => Some(Ok(piece)),
                        },
                        Ok(None) => {
                            self.done = true;
                            let rest = std::mem::take(&mut self.held);
                            (!rest.is_empty()).then(|| Ok(rest.into()))
                        }
                        Err(error) => self.cut(error.into()),
                    };
                }
                other = other(&mut self.inbox), if between && self.inbox.is_some() => {
                    self.ready.extend(other.into_iter().flat_map(framed));
                }
                () = tokio::time::sleep_until(deadline) => {
                    let Some((_, late)) = self.deadline.take() else { continue };
                    let late = late.await;
                    if !between {
                        return self.cut("the call took too long".into());
                    }
                    self.done = true;
                    return Some(Ok(sse::event(&late).into()));
                }
            }
        }
    }

    /// What of a piece, and of those before, can go on.
    fn take(&mut self, piece: Bytes) -> Bytes {
        let Some(inspect) = &mut self.inspect else {
            self.boundaries.pass(&piece);
            return piece;
        };
        let (mut ready, mut rest) = (Vec::with_capacity(piece.len()), &piece[..]);
        while let Some(end) = self.boundaries.advance(rest) {
            self.held.extend_from_slice(&rest[..end]);
            let event = std::mem::take(&mut self.held);
            ready.extend(match std::mem::take(&mut self.is_large) {
                true => event,
                false => changed(event, inspect),
            });
            rest = &rest[end..];
        }
        self.held.extend_from_slice(rest);
        if self.is_large || self.held.len() > SMALL {
            self.is_large = true;
            ready.append(&mut self.held);
        }
        ready.into()
    }

    fn cut(&mut self, why: Cut) -> Option<Result<Bytes, Cut>> {
        tracing::info!(%why, "a stream was cut");
        self.done = true;
        Some(Err(why))
    }
}

/// `events`, which are whole, until they end or a deadline passes.
pub(super) fn ending_at(
    events: impl Stream<Item = Result<Bytes, Cut>> + Send + 'static,
    deadline: Option<Deadline>,
) -> impl Stream<Item = Result<Bytes, Cut>> + Send {
    let (at, late) = deadline.map_or((far(), None), |(at, late)| (at, Some(late)));
    stream::unfold(Some((Box::pin(events), late)), move |state| async move {
        let (mut events, late) = state?;
        tokio::select! {
            event = events.next() => event.map(|event| (event, Some((events, late)))),
            () = tokio::time::sleep_until(at) => {
                Some((Ok(sse::event(&late?.await).into()), None))
            }
        }
    })
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(365 * 24 * 3600)
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

/// What looks at the messages of an answer, and may put others in their place.
pub(super) type Inspect = Box<dyn FnMut(&str) -> Option<String> + Send>;

/// A stream of which each message is inspected before it goes on.
pub(super) fn inspected<T: Send + 'static>(
    response: reqwest::Response,
    budget: Budget,
    inspect: Inspect,
    read: Option<Duration>,
    held: T,
) -> impl Stream<Item = Result<Bytes, Cut>> + Send {
    let ready = VecDeque::<Vec<u8>>::new();
    let state = (response, Some(Frames::default()), ready, inspect, Share::default(), budget, held);
    stream::unfold(state, move |mut state| async move {
        let (response, frames, ready, inspect, share, budget, _) = &mut state;
        loop {
            if let Some(event) = ready.pop_front() {
                return Some((Ok(Bytes::from(changed(event, inspect))), state));
            }
            let piece = match chunk(response, read).await {
                Ok(Some(piece)) => piece,
                Ok(None) => {
                    let rest = frames.take()?.rest();
                    let rest = (!rest.is_empty()).then(|| Ok(Bytes::from(rest)))?;
                    return Some((rest, state));
                }
                Err(cut) => {
                    frames.take()?;
                    return Some((Err(cut), state));
                }
            };
            let frames = frames.as_mut()?;
            if frames.held() + piece.len() > MAX_UPSTREAM_MESSAGE {
                return Some((Err("an event is too large".into()), state));
            }
            share.cover(budget, frames.held() + piece.len()).await;
            ready.extend(frames.push(&piece));
        }
    })
}

/// The next piece, within the longest silence.
async fn chunk(
    response: &mut reqwest::Response,
    read: Option<Duration>,
) -> Result<Option<Bytes>, Cut> {
    let piece = match read {
        Some(read) => tokio::time::timeout(read, response.chunk()).await?,
        None => response.chunk().await,
    };
    Ok(piece?)
}

fn changed(event: Vec<u8>, inspect: &mut Inspect) -> Vec<u8> {
    let mut parser = sse::Parser::new(MAX_UPSTREAM_MESSAGE, None);
    parser.push(&event);
    let changed = match parser.pop() {
        Some(Event::Message(text)) => inspect(&text),
        Some(Event::Dropped(_)) | None => None,
    };
    match changed {
        Some(text) => sse::with_data(&event, &wire::one_line(text)),
        None => event,
    }
}

/// The beginning of a body, and whether that is all of it.
pub(super) async fn beginning(
    response: &mut reqwest::Response,
    read: Option<Duration>,
) -> Result<(Vec<u8>, bool), Cut> {
    let mut body = Vec::new();
    while body.len() <= SMALL {
        match chunk(response, read).await? {
            Some(piece) => body.extend_from_slice(&piece),
            None => return Ok((body, true)),
        }
    }
    Ok((body, false))
}

/// A JSON body, inspected as a whole. `body` is what was read of it.
pub(super) async fn whole(
    mut body: Vec<u8>,
    mut response: reqwest::Response,
    budget: &Budget,
    inspect: &mut Inspect,
    read: Option<Duration>,
) -> Result<Bytes, Cut> {
    let mut share = Share::default();
    while let Some(piece) = chunk(&mut response, read).await? {
        if body.len() + piece.len() > MAX_UPSTREAM_MESSAGE {
            return Err("an answer is too large".into());
        }
        share.cover(budget, body.len() + piece.len()).await;
        body.extend_from_slice(&piece);
    }
    let changed = std::str::from_utf8(&body).ok().and_then(inspect);
    Ok(share.holding(changed.map_or(body, String::into_bytes)))
}

/// A message as an event, in pieces where it is large: what waits for the client to read it holds on
/// to its share of the memory.
fn framed(message: Message) -> Vec<Bytes> {
    if message.text.len() <= SMALL {
        return vec![sse::event(&message.text).into()];
    }
    let (before, after) = (&b"event: message\ndata: "[..], &b"\n\n"[..]);
    vec![Bytes::from_static(before), message.into_bytes(), Bytes::from_static(after)]
}

/// What comes out of `messages`, then of `last`, as events; a comment now and then in between, so
/// that nobody on the way takes a call that takes its time for a dead connection.
pub(super) fn events<T: Send + 'static>(
    first: Option<Message>,
    messages: mpsc::Receiver<Message>,
    last: BoxFuture<'static, Option<Message>>,
    held: T,
) -> impl Stream<Item = Result<Bytes, Cut>> + Send {
    let state = (VecDeque::new(), first, messages, Some(last.fuse()), held);
    stream::unfold(state, |mut state| async {
        let (ready, first, messages, last, _) = &mut state;
        if let Some(piece) = ready.pop_front() {
            return Some((Ok(piece), state));
        }
        let message = match (first.take(), last.as_mut()) {
            (Some(message), _) => message,
            // Whatever was said before the response goes out before it.
            (None, None) => messages.recv().await?,
            (None, Some(waiting)) => tokio::select! {
                biased;
                Some(message) = messages.recv() => message,
                response = waiting => {
                    *last = None;
                    messages.close();
                    match (messages.try_recv().ok(), response) {
                        (Some(earlier), response) => {
                            *last = response.map(|it| async { Some(it) }.boxed().fuse());
                            earlier
                        }
                        (None, response) => response?,
                    }
                }
                () = tokio::time::sleep(KEEP_ALIVE) => {
                    return Some((Ok(Bytes::from_static(b": \n\n")), state));
                }
            },
        };
        ready.extend(framed(message));
        Some((Ok(ready.pop_front()?), state))
    })
}

/// The longest silence in a stream of our own.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
