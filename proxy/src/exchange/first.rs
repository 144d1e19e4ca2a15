//! The server's first message about a request. Only that message can show that the server didn't act on the request,
//! because it doesn't have the session, or throttles.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::frames::FrameReading;
use super::reading::Reading;
use super::verdict::{is_about, of_request};
use crate::error::Error;
use crate::protocol::AWS_SESSION_EXPIRED;
use crate::session::{Live, Session, code_of};
use crate::throttle;
use crate::upstream::{Answer, Failure, Incoming, Reply};
use crate::wire::{Envelope, Id};

/// Proof that the server's first message refused a request because of its session or its rate, so that the request may
/// be sent again. Made only by [`Unread::read`] and [`Throttled::forwarded`], once for each answer to a POST. The answer
/// to a resumption, or a message after another one, can't make one.
#[derive(Debug)]
pub(super) struct NotActedOn(());

/// Why a request is sent.
#[derive(Debug)]
pub(super) enum Attempt {
    /// For the first time.
    First,
    /// Again, after a refusal.
    Again(#[allow(dead_code, reason = "a proof: to have one is its use")] NotActedOn),
}

/// A request that the server throttled.
#[derive(Debug)]
pub(crate) struct Throttled<A> {
    pub(super) proof: NotActedOn,
    /// How long the server asks the client to wait.
    pub(super) retry_after: Option<Duration>,
    /// What the client gets if the request isn't sent again.
    pub(super) answer: A,
}

/// A throttled request whose own answer is a message or an error.
pub(crate) type Held = Throttled<Result<Box<Reading>, Error>>;

impl<A> Throttled<A> {
    pub(super) fn map<B>(self, map: impl FnOnce(A) -> B) -> Throttled<B> {
        let Self { proof, retry_after, answer } = self;
        Throttled { proof, retry_after, answer: map(answer) }
    }
}

impl Throttled<RawAnswer> {
    /// A throttled request of an HTTP client. Nothing of its answer has been forwarded.
    pub(super) fn forwarded(answer: RawAnswer, retry_after: Option<Duration>) -> Self {
        Self { proof: NotActedOn(()), retry_after, answer }
    }
}

/// The result of one attempt.
pub(super) enum Tried<T, A> {
    /// The server accepted the request.
    Taken(T),
    /// The server didn't act on the request.
    Throttled(Throttled<A>),
}

/// An answer with its status and headers.
pub(crate) struct RawAnswer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: RawBody,
}

/// The body of an answer.
pub(crate) enum RawBody {
    /// Of a success: events or a message.
    Frames(Box<FrameReading>, Begun),
    /// Of any other status.
    Failure(Failure),
    /// The request was throttled, and its caller asked to get it back (`returns_throttled`).
    Throttled(Held),
}

/// The first frame; `Ok(None)` is an empty answer, and `None` a frame that hasn't arrived yet.
pub(crate) type Begun = Option<Result<Option<Bytes>, Error>>;

impl RawAnswer {
    /// A body without an answer of the server.
    pub(super) fn placeholder(body: RawBody) -> Self {
        Self { status: StatusCode::OK, headers: HeaderMap::new(), body }
    }
}

/// The unread answer to the POST of a request.
#[derive(Debug)]
pub(super) struct Unread {
    session: Arc<Session>,
    /// `None` for requests without a session.
    live: Option<Arc<Live>>,
    id: Id,
    answer: Answer,
}

/// The result of reading the beginning of an answer.
pub(super) type First = Tried<Bound, Result<Box<Reading>, Error>>;

/// What the beginning of an answer shows about the session.
pub(super) enum Bound {
    /// The session is lost, and the request wasn't acted on.
    Lost(NotActedOn),
    /// Any other answer.
    Answer(Box<Reading>),
}

impl Unread {
    pub(super) fn new(
        session: Arc<Session>,
        live: Option<Arc<Live>>,
        id: Id,
        answer: Answer,
    ) -> Self {
        Self { session, live, id, answer }
    }

    /// Reads the status, and the first message of a success. Reports throttling to the broker.
    pub(super) async fn read(self) -> Result<First, Error> {
        let Self { session, live, id, answer } = self;
        let audit_id = answer.audit_id;
        let lost = || Ok(Tried::Taken(Bound::Lost(NotActedOn(()))));
        let (reply, first, throttled) = match answer.reply {
            Reply::Failure(failure) => {
                let failure = of_request(failure, &id);
                if live.as_ref().is_some_and(|live| live.is_lost_by(&failure)) {
                    return lost();
                }
                let throttled = throttle::is_failure(&failure).then_some(failure.retry_after);
                (Reply::Failure(failure), None, throttled)
            }
            Reply::Messages(mut messages) => {
                let first = messages.next().await;
                if live.is_some() && matches!(&first, Ok(Some(first)) if is_expiry(first, &id)) {
                    return lost();
                }
                let is_throttled = matches!(&first, Ok(Some(first)) if is_throttled(first, &id));
                (Reply::Messages(messages), Some(first), is_throttled.then_some(None))
            }
            Reply::Accepted => (Reply::Accepted, None, None),
        };
        let link = Arc::clone(&session);
        let reading = Reading::begin(session, live, id, reply);
        let reading = reading.map(|reading| Box::new(reading.with_first(first)));
        match throttled {
            Some(retry_after) => {
                link.link().throttled(audit_id.as_deref()).await;
                let (proof, answer) = (NotActedOn(()), reading);
                Ok(Tried::Throttled(Throttled { proof, retry_after, answer }))
            }
            None => Ok(Tried::Taken(Bound::Answer(reading?))),
        }
    }
}

/// Whether a message is AWS's error for a lost session, in the answer to the request `id`.
fn is_expiry(incoming: &Incoming, id: &Id) -> bool {
    let Incoming::Message(message) = incoming else { return false };
    // A fast path: nearly every message ends here.
    if message.text.len() > throttle::MAX_ERROR
        || memchr::memmem::find(message.text.as_bytes(), b"-30001").is_none()
    {
        return false;
    }
    let envelope = Envelope::parse(&message.text);
    envelope.is_ok_and(|envelope| {
        is_about(&envelope, id) && code_of(&envelope) == Some(AWS_SESSION_EXPIRED)
    })
}

/// Whether a message is the server's error for throttling, in the answer to the request `id`.
fn is_throttled(incoming: &Incoming, id: &Id) -> bool {
    let Incoming::Message(message) = incoming else { return false };
    throttle::may_be_error(&message.text)
        && Envelope::parse(&message.text)
            .is_ok_and(|envelope| is_about(&envelope, id) && throttle::is_error(&envelope))
}
