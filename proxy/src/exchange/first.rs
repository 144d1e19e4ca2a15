//! What a server says first about a request: only that can show that it didn't act on it.

use std::sync::Arc;

use super::reading::Reading;
use super::verdict::{is_about, of_request};
use crate::error::Error;
use crate::protocol::AWS_SESSION_EXPIRED;
use crate::session::{Live, Session, code_of};
use crate::upstream::{Answer, Incoming, Reply};
use crate::wire::{Envelope, Id};

/// Larger messages aren't looked at: errors are small.
const MAX_ERROR: usize = 64 << 10;

/// Proof that the server refused a request because of its session, before it said anything else: the
/// request may be sent again. Made by [`Unread::read`] alone, once for each answer to a POST; the
/// answer to a resumption, or a message after another one, can't make one.
#[derive(Debug)]
pub(super) struct NotActedOn(());

/// The answer to the POST of a request, of which nothing was read.
#[derive(Debug)]
pub(super) struct Unread {
    session: Arc<Session>,
    live: Arc<Live>,
    id: Id,
    answer: Answer,
}

/// What the beginning of an answer says.
pub(super) enum First {
    /// The session is lost, and the request wasn't acted on.
    NotActedOn(NotActedOn),
    /// Anything else.
    Answer(Box<Reading>),
}

impl Unread {
    pub(super) fn new(session: Arc<Session>, live: Arc<Live>, id: Id, answer: Answer) -> Self {
        Self { session, live, id, answer }
    }

    /// Reads the status, and the first message of a success.
    pub(super) async fn read(self) -> Result<First, Error> {
        let Self { session, live, id, answer } = self;
        let (reply, first) = match answer.reply {
            Reply::Failure(failure) => match of_request(failure, &id) {
                failure if live.is_lost_by(&failure) => {
                    return Ok(First::NotActedOn(NotActedOn(())));
                }
                failure => (Reply::Failure(failure), None),
            },
            Reply::Messages(mut messages) => {
                let first = messages.next().await;
                if matches!(&first, Ok(Some(first)) if is_expiry(first, &id)) {
                    return Ok(First::NotActedOn(NotActedOn(())));
                }
                (Reply::Messages(messages), Some(first))
            }
            Reply::Accepted => (Reply::Accepted, None),
        };
        let reading = Reading::begin(session, Some(live), id, reply)?.behind(first);
        Ok(First::Answer(Box::new(reading)))
    }
}

/// Whether a message is AWS's error for a lost session, in the answer to the request `id`.
fn is_expiry(incoming: &Incoming, id: &Id) -> bool {
    let Incoming::Message(message) = incoming else { return false };
    // Nearly every message is done here.
    if message.text.len() > MAX_ERROR
        || memchr::memmem::find(message.text.as_bytes(), b"-30001").is_none()
    {
        return false;
    }
    let envelope = Envelope::parse(&message.text);
    envelope.is_ok_and(|envelope| {
        is_about(&envelope, id) && code_of(&envelope) == Some(AWS_SESSION_EXPIRED)
    })
}
