//! An answer that is passed on as it comes: events are judged, and others put between them.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{Stream, stream};
use tokio::sync::{OwnedMutexGuard, mpsc};

use super::body::{Cut, SMALL, framed};
use super::deadline::Deadline;
use super::rule::{Change, Rule};
use crate::budget::{Budget, Message, Share};
use crate::config::MAX_UPSTREAM_MESSAGE;
use crate::error::Error;
use crate::sse::{self, Boundaries};
use crate::wire;

/// Messages of other sessions, for one reader at a time.
pub(super) type Inbox = OwnedMutexGuard<mpsc::Receiver<Message>>;

/// A stream that is passed on.
pub(super) struct Passing {
    response: reqwest::Response,
    /// Whether these are events, and no other body.
    is_events: bool,
    /// What judges the events; without it, all goes on as it comes.
    rule: Option<Rule>,
    boundaries: Boundaries,
    mode: Mode,
    /// What there is of the event that isn't complete, and its share of the memory.
    held: Vec<u8>,
    share: Share,
    budget: Budget,
    /// What goes out next.
    ready: VecDeque<Bytes>,
    deadline: Deadline,
    inbox: Option<Others>,
    done: bool,
}

/// What happens to the event that isn't complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// It is held until it is complete, or large.
    Hold,
    /// It is large, and goes on as it comes.
    Pass,
    /// It is large, and its beginning doesn't tell whose it is: it is held to its end.
    Collect,
}

enum Others {
    Waiting(BoxFuture<'static, Inbox>),
    Open(Inbox),
}

impl Passing {
    /// The rest of an answer after `begun`.
    pub(super) fn new(begun: Vec<u8>, response: reqwest::Response, budget: Budget) -> Self {
        let is_events =
            crate::upstream::media_type(&response).as_deref() == Some("text/event-stream");
        Self {
            response,
            is_events,
            rule: None,
            boundaries: Boundaries::default(),
            mode: Mode::Hold,
            held: Vec::new(),
            share: Share::default(),
            budget,
            ready: VecDeque::from([begun.into()]),
            deadline: Deadline::none(),
            inbox: None,
            done: false,
        }
    }

    /// Has events judged, as soon as they are complete.
    pub(super) fn judged(mut self, rule: Rule) -> Self {
        self.rule = Some(rule);
        self
    }

    /// Whether these are events, and others can be put between them.
    pub(super) fn is_events(&self) -> bool {
        self.is_events
    }

    /// Ends the stream at the deadline, with its message where there is room for one.
    pub(super) fn until(mut self, deadline: Deadline) -> Self {
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
        loop {
            match self.ready.pop_front() {
                Some(piece) if piece.is_empty() => continue,
                Some(piece) => return Some(Ok(piece)),
                None if self.done => return None,
                None => {}
            }
            let at = self.deadline.at();
            let between = self.is_between();
            let piece = tokio::select! {
                piece = self.response.chunk() => piece,
                other = other(&mut self.inbox), if between && self.inbox.is_some() => {
                    self.ready.extend(other.into_iter().flat_map(framed));
                    continue;
                }
                () = tokio::time::sleep_until(at) => return self.late().await,
            };
            match piece {
                Ok(Some(piece)) => match tokio::time::timeout_at(at, self.take(piece)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(why)) => return self.cut(why),
                    Err(_) => return self.late().await,
                },
                Ok(None) => self.end(),
                Err(error) => return self.cut(error.into()),
            }
        }
    }

    /// Whether the client has whole events alone.
    fn is_between(&self) -> bool {
        let holds = self.rule.is_some() && self.mode != Mode::Pass;
        self.is_events && (holds || self.boundaries.between_events())
    }

    /// Takes what the server sent, and makes ready what of it can go on.
    async fn take(&mut self, piece: Bytes) -> Result<(), Cut> {
        if self.rule.is_none() || !self.is_events {
            self.boundaries.pass(&piece);
            self.ready.push_back(piece);
            return Ok(());
        }
        let mut rest = piece;
        while !rest.is_empty() {
            let end = self.boundaries.advance(&rest);
            let part = rest.split_to(end.unwrap_or(rest.len()));
            if self.mode == Mode::Pass {
                self.ready.push_back(part);
            } else {
                self.hold(&part).await?;
            }
            if end.is_some() {
                let event = std::mem::take(&mut self.held);
                let share = std::mem::take(&mut self.share);
                if std::mem::replace(&mut self.mode, Mode::Hold) != Mode::Pass {
                    self.ready
                        .extend(self.rule.as_mut().and_then(|rule| judged(event, share, rule)));
                }
            } else if self.mode == Mode::Hold && self.held.len() > SMALL {
                self.decide();
            }
        }
        Ok(())
    }

    async fn hold(&mut self, part: &[u8]) -> Result<(), Cut> {
        let length = self.held.len() + part.len();
        if length > MAX_UPSTREAM_MESSAGE {
            return Err("an event is too large".into());
        }
        self.share.cover(&self.budget, length).await;
        self.held.extend_from_slice(part);
        Ok(())
    }

    /// What becomes of a large event, by its beginning.
    fn decide(&mut self) {
        let Some(rule) = &mut self.rule else { return };
        if sse::beginning_of_data(&self.held).is_some_and(|data| rule.passes_by(data)) {
            self.mode = Mode::Pass;
            let held = std::mem::take(&mut self.held);
            self.ready.push_back(std::mem::take(&mut self.share).holding(held));
        } else {
            self.mode = Mode::Collect;
        }
    }

    /// The server ended the stream.
    fn end(&mut self) {
        self.done = true;
        // What isn't complete is no event to the standard, but to some clients.
        let rest = std::mem::take(&mut self.held);
        let rule = self.rule.as_mut();
        let change = sse::message(&rest).zip(rule).map(|(text, rule)| rule.apply(&text));
        if change.is_none_or(|change| change == Change::Keep) {
            self.ready.push_back(rest.into());
        }
        if let Some(rule) = self.rule.as_ref().filter(|rule| rule.is_foreign()) {
            let error = super::answer::error_text(rule.id().clone(), &Error::ForeignAnswer);
            self.ready.push_back(sse::event(&error).into());
        }
    }

    /// The deadline has passed.
    async fn late(&mut self) -> Option<Result<Bytes, Cut>> {
        let late = self.deadline.late().await?;
        if !self.is_between() {
            return self.cut("the call took too long".into());
        }
        self.done = true;
        Some(Ok(sse::event(&late).into()))
    }

    fn cut(&mut self, why: Cut) -> Option<Result<Bytes, Cut>> {
        tracing::info!(%why, "a stream was cut");
        self.done = true;
        self.ready.clear();
        Some(Err(why))
    }
}

/// The event as it goes on; nothing if it doesn't.
fn judged(event: Vec<u8>, share: Share, rule: &mut Rule) -> Option<Bytes> {
    let change = match sse::message(&event) {
        Some(text) => rule.apply(&text),
        None => Change::Keep,
    };
    let event = match change {
        Change::Keep => event,
        Change::Replace(text) => sse::with_data(&event, Some(&wire::one_line(text))),
        // Its id still counts: a client that resumes goes on behind it.
        Change::Drop => sse::with_data(&event, None),
    };
    Some(share.holding(event))
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
