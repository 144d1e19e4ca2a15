//! One request and its answer: sends the request over a session, repeats it where that is safe, resumes a cut stream,
//! and reads up to the response with the request's id.
//!
//! An answer is read in one of two ways, by the same rules: message by message ([`Reading`]), for a client that gets
//! messages, or frame by frame ([`FrameReading`]), for a client that gets the answer unchanged.
//!
//! The server's first message decides whether a request may be sent again. That takes a [`first::NotActedOn`], which
//! can't be made once the server has sent anything else. It is made if the session is lost, or if the server throttles;
//! in the latter case, [`Patience`] decides how long the request is repeated.

mod attempts;
mod deadline;
mod first;
mod frames;
mod patience;
mod reading;
mod verdict;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};

pub(crate) use self::attempts::Attempts;
pub(crate) use self::deadline::{Deadline, TooLate};
use self::first::{Attempt, Bound, Throttled, Tried, Unread};
pub(crate) use self::first::{Begun, Held, RawAnswer, RawBody};
pub(crate) use self::frames::{FrameReading, OnResponse};
pub(crate) use self::patience::Patience;
use self::patience::{Outcome, Sending};
pub(crate) use self::reading::{Part, Reading, Response};
pub(crate) use self::verdict::{repaired, with_id};
use crate::budget::Budget;
use crate::error::Error;
use crate::request::Request;
use crate::session::{Live, Session};
use crate::sync::lock;
use crate::throttle;
use crate::upstream::{Answer, Frames, Reply, Sent};
use crate::wire::Id;

/// A request in its final form.
#[derive(Debug)]
pub(crate) struct Exchange<'a> {
    /// The session that it uses.
    pub(crate) session: &'a Arc<Session>,
    /// The id of its response.
    pub(crate) id: &'a Id,
    /// The final text, which all attempts share.
    pub(crate) body: Bytes,
    /// Set once the server may have received the request.
    pub(crate) sent: &'a Sent,
    /// The headers of an HTTP client, which are added to a request with a session.
    pub(crate) headers: Option<&'a HeaderMap>,
}

/// How the request of an HTTP client is forwarded.
pub(crate) struct ForwardedRequest<'a> {
    pub(crate) call: &'a Request,
    /// The headers of the client.
    pub(crate) headers: &'a HeaderMap,
    /// The memory for the answer, if that isn't the client's.
    pub(crate) budget: Option<Budget>,
    /// Whether a throttled request is returned as [`RawBody::Throttled`].
    pub(crate) returns_throttled: bool,
}

/// If no frame arrives within this time, the head of the answer is forwarded without one.
const FIRST_FRAME_TIMEOUT: Duration = Duration::from_millis(300);

/// Whether a session was renewed for a request. That happens at most once for all its attempts.
#[derive(Debug, Default)]
pub(crate) struct Renewal(bool);

impl Exchange<'_> {
    /// Sends a request with a session (up to 2025-11-25). If the server no longer has the session, and so hasn't acted
    /// on the request, the session is renewed and the request is sent once more. `held` is set if it was throttled
    /// before.
    pub(crate) async fn over_session(
        &self,
        renewal: &mut Renewal,
        patience: &mut Patience,
        held: Option<Held>,
    ) -> Result<Reading, Error> {
        let live = self.session.live().await?;
        let lost = match self.bound(&live, patience, held, Attempt::First).await? {
            Bound::Answer(reading) => return Ok(*reading),
            Bound::Lost(lost) => lost,
        };
        if std::mem::replace(&mut renewal.0, true) {
            return Err(self.lost_again(&live));
        }
        let renewed = self.session.renew(&live).await?;
        match self.bound(&renewed, patience, None, Attempt::Again(lost)).await? {
            Bound::Answer(reading) => Ok(*reading),
            Bound::Lost(_) => Err(self.lost_again(&renewed)),
        }
    }

    /// Sends over one session until the server accepts the request.
    async fn bound(
        &self,
        live: &Arc<Live>,
        patience: &mut Patience,
        held: Option<Held>,
        first: Attempt,
    ) -> Result<Bound, Error> {
        let post = |_: Attempt| async { self.post(live).await?.read().await };
        match patience.until_taken(self.sending(), held, first, post).await? {
            Outcome::Taken(taken) => Ok(taken),
            Outcome::GaveUp(refusal) => Ok(Bound::Answer(refusal?)),
        }
    }

    /// Sends a self-contained request (2026-07-28 and later). With `endless`, the answer may be silent for hours.
    pub(crate) async fn unbound(
        &self,
        mut headers: HeaderMap,
        endless: bool,
        patience: &mut Patience,
        held: Option<Held>,
    ) -> Result<Reading, Error> {
        headers.extend(self.headers.cloned().unwrap_or_default());
        let post = |_: Attempt| async {
            let (body, sent) = (self.body.clone(), self.sent.clone());
            let link = self.session.link();
            let answer = link.post_unbound(headers.clone(), body, endless, sent).await?;
            self.unread(None, answer).read().await
        };
        self.without_session(
            patience.until_taken(self.sending(), held, Attempt::First, post).await?,
        )
    }

    /// Sends the client's own `initialize`. Returns the reading of its answer, and the id that the
    /// server gave to the session.
    pub(crate) async fn handshake(
        &self,
        headers: HeaderMap,
        patience: &mut Patience,
    ) -> Result<(Reading, Option<http::HeaderValue>), Error> {
        let id = Mutex::new(None);
        let post = |_: Attempt| async {
            let (body, sent) = (self.body.clone(), self.sent.clone());
            let link = self.session.link();
            let answer = link.post_unbound(headers.clone(), body, false, sent).await?;
            *lock(&id) = answer.session_id();
            self.unread(None, answer).read().await
        };
        let taken = patience.until_taken(self.sending(), None, Attempt::First, post).await?;
        let reading = self.without_session(taken)?;
        let id = lock(&id).take();
        Ok((reading, id))
    }

    fn without_session(
        &self,
        outcome: Outcome<Bound, Result<Box<Reading>, Error>>,
    ) -> Result<Reading, Error> {
        match outcome {
            Outcome::Taken(Bound::Answer(reading)) => Ok(*reading),
            // There is no session that could be lost.
            Outcome::Taken(Bound::Lost(_)) => Err(Error::NoAnswer),
            Outcome::GaveUp(refusal) => Ok(*refusal?),
        }
    }

    /// Forwards a request of an HTTP client with the client's headers. Such a client has its own session, and renews
    /// it.
    pub(crate) async fn forward(
        &self,
        forwarded: ForwardedRequest<'_>,
        patience: &mut Patience,
        mut attempts: Attempts,
        on_response: impl Fn(&HeaderMap) -> OnResponse,
    ) -> Result<RawAnswer, Error> {
        loop {
            let send = |_: Attempt| async {
                let answer = self.forward_once(&forwarded).await?;
                let audit_id = answer.audit_id.clone();
                let tried = self.first_of(&forwarded, answer, &on_response).await?;
                if let Tried::Throttled(_) = &tried {
                    self.session.link().throttled(audit_id.as_deref()).await;
                }
                match tried {
                    Tried::Throttled(throttled) if forwarded.returns_throttled => {
                        let body = RawBody::Throttled(self.held(throttled));
                        Ok(Tried::Taken(RawAnswer::placeholder(body)))
                    }
                    tried => Ok(tried),
                }
            };
            let answer =
                match patience.until_taken(self.sending(), None, Attempt::First, send).await {
                    Ok(Outcome::Taken(answer) | Outcome::GaveUp(answer)) => answer,
                    Err(error) => {
                        attempts.after(error).await?;
                        continue;
                    }
                };
            if let RawBody::Failure(failure) = &answer.body
                && failure.message.is_none()
                && attempts.wait(&failure.error()).await
            {
                continue;
            }
            return Ok(answer);
        }
    }

    async fn forward_once(
        &self,
        forwarded: &ForwardedRequest<'_>,
    ) -> Result<Answer<Frames>, Error> {
        let (body, sent) = (self.body.clone(), self.sent.clone());
        let (headers, endless) = (forwarded.headers.clone(), forwarded.call.is_patient());
        let budget = forwarded.budget.clone();
        self.session.link().forward(Method::POST, headers, body, endless, sent, budget).await
    }

    /// Reads the beginning of an answer that is forwarded.
    async fn first_of(
        &self,
        forwarded: &ForwardedRequest<'_>,
        answer: Answer<Frames>,
        on_response: impl Fn(&HeaderMap) -> OnResponse,
    ) -> Result<Tried<RawAnswer, RawAnswer>, Error> {
        let Answer { status, headers, reply, .. } = answer;
        let mut reading = match reply {
            Reply::Messages(frames) => {
                let on_response = on_response(&headers);
                FrameReading::begin(forwarded.call, status, frames, on_response)?
            }
            Reply::Accepted => return Err(Error::NoAnswer),
            Reply::Failure(failure) => {
                let failure = verdict::of_request(failure, self.id);
                let (is_throttled, retry_after) =
                    (throttle::is_failure(&failure), failure.retry_after);
                let answer = RawAnswer { status, headers, body: RawBody::Failure(failure) };
                return Ok(match is_throttled {
                    true => Tried::Throttled(Throttled::forwarded(answer, retry_after)),
                    false => Tried::Taken(answer),
                });
            }
        };
        // A server that throttles answers at once. A server that is working may be silent for long, and the client must
        // get the head of the answer before that.
        let begun = tokio::time::timeout(FIRST_FRAME_TIMEOUT, reading.next()).await.ok();
        let is_throttled = reading.is_throttled_response();
        let answer = RawAnswer { status, headers, body: RawBody::Frames(Box::new(reading), begun) };
        Ok(match is_throttled {
            true => Tried::Throttled(Throttled::forwarded(answer, None)),
            false => Tried::Taken(answer),
        })
    }

    /// Converts a throttled request, so that its next answer is read message by message.
    fn held(&self, throttled: Throttled<RawAnswer>) -> Held {
        throttled.map(|answer| {
            let session = Arc::clone(self.session);
            let reading = match answer.body {
                RawBody::Failure(failure) => {
                    Reading::begin(session, None, self.id.clone(), Reply::Failure(failure))
                }
                RawBody::Frames(mut reading, _) => {
                    Ok(Reading::of_error(session, self.id.clone(), reading.take_error()))
                }
                RawBody::Throttled(_) => Err(Error::NoAnswer),
            };
            reading.map(Box::new)
        })
    }

    fn sending(&self) -> Sending<'_> {
        Sending { session: self.session, sent: self.sent }
    }

    async fn post(&self, live: &Arc<Live>) -> Result<Unread, Error> {
        // Messages that the client sent earlier must arrive earlier.
        self.session.wait_for_delivery().await;
        live.wait_for_stream().await;
        let (body, sent) = (self.body.clone(), self.sent.clone());
        let answer = self.session.link().post_with(self.headers, live, body, sent).await?;
        Ok(self.unread(Some(live), answer))
    }

    fn unread(&self, live: Option<&Arc<Live>>, answer: Answer) -> Unread {
        Unread::new(Arc::clone(self.session), live.map(Arc::clone), self.id.clone(), answer)
    }

    fn lost_again(&self, live: &Live) -> Error {
        self.session.lose(live);
        Error::SessionLost { profile: self.session.profile.to_string() }
    }
}
