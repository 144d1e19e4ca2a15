//! One request and its answer: sent over a session, sent again where that is safe, resumed where its
//! stream was cut, and read up to the response that has its id.
//!
//! Two readings of an answer, by the same rules: message by message ([`Reading`]), for a client that
//! gets messages, and frame by frame ([`FrameReading`]), for one that gets the answer as it came.
//!
//! The first message of the server decides whether a request may be sent again: [`NotActedOn`] is the
//! only way to do so, and it can't be made once the server has sent anything else.

mod attempts;
mod deadline;
mod first;
mod frames;
mod reading;
mod verdict;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};

pub(crate) use self::attempts::Attempts;
pub(crate) use self::deadline::{Deadline, TooLate};
use self::first::{First, NotActedOn, Unread};
pub(crate) use self::frames::{FrameReading, OnResponse, RawAnswer, RawBody};
pub(crate) use self::reading::{Part, Reading, Response};
pub(crate) use self::verdict::{repaired, with_id};
use crate::budget::Budget;
use crate::error::Error;
use crate::request::Request;
use crate::session::{Live, Session};
use crate::upstream::{Reply, Sent};
use crate::wire::Id;

/// A request in its final form.
#[derive(Debug)]
pub(crate) struct Exchange<'a> {
    /// Where it goes.
    pub(crate) session: &'a Arc<Session>,
    /// The id that its response has.
    pub(crate) id: &'a Id,
    /// The final text, shared by all attempts to send it.
    pub(crate) body: Bytes,
    /// Set once the server may know of it.
    pub(crate) sent: &'a Sent,
    /// Headers of the client's own that go with it over a session.
    pub(crate) headers: Option<&'a HeaderMap>,
}

/// Whether a session was renewed for a request: once, however often it is tried.
#[derive(Debug, Default)]
pub(crate) struct Renewal(bool);

impl Exchange<'_> {
    /// Up to 2025-11-25. A session that the server no longer knows is renewed, and the request, which
    /// the server hasn't acted on, sent once more.
    pub(crate) async fn over_session(&self, renewal: &mut Renewal) -> Result<Reading, Error> {
        let live = self.session.live().await?;
        let lost = match self.post(&live).await?.read().await? {
            First::Answer(reading) => return Ok(*reading),
            First::NotActedOn(lost) => lost,
        };
        if std::mem::replace(&mut renewal.0, true) {
            return Err(self.lost_again(&live));
        }
        let renewed = self.session.renew(&live).await?;
        match self.post_again(lost, &renewed).await?.read().await? {
            First::Answer(reading) => Ok(*reading),
            First::NotActedOn(_) => Err(self.lost_again(&renewed)),
        }
    }

    /// From 2026-07-28 on: a request that stands for itself. `patient` is for one whose answer may be
    /// silent for hours.
    pub(crate) async fn unbound(
        &self,
        headers: HeaderMap,
        patient: bool,
    ) -> Result<Reading, Error> {
        let (body, sent) = (self.body.clone(), self.sent.clone());
        let answer = self.session.link().post_unbound(headers, body, patient, sent).await?;
        Reading::begin(Arc::clone(self.session), None, self.id.clone(), answer.reply)
    }

    /// The client's own `initialize`. Beside its answer, the id that the server gave the session.
    pub(crate) async fn handshake(
        &self,
        headers: HeaderMap,
    ) -> Result<(Reading, Option<http::HeaderValue>), Error> {
        let (body, sent) = (self.body.clone(), self.sent.clone());
        let answer = self.session.link().post_unbound(headers, body, false, sent).await?;
        let id = answer.session_id().cloned();
        let session = Arc::clone(self.session);
        let reading = Reading::begin(session, None, self.id.clone(), answer.reply)?;
        Ok((reading, id))
    }

    /// A request of a client that speaks HTTP itself, with its own headers. Such a client has its
    /// session, and renews it.
    pub(crate) async fn passed(
        &self,
        call: &Request,
        headers: &HeaderMap,
        mut attempts: Attempts,
        budget: Option<Budget>,
        on_response: impl FnOnce(&HeaderMap) -> OnResponse,
    ) -> Result<RawAnswer, Error> {
        let patient = call.is_patient();
        loop {
            let (body, sent) = (self.body.clone(), self.sent.clone());
            let passing = self.session.link().pass(
                Method::POST,
                headers.clone(),
                body,
                patient,
                sent,
                budget.clone(),
            );
            let answer = match passing.await {
                Ok(answer) => answer,
                Err(error) => {
                    attempts.after(error).await?;
                    continue;
                }
            };
            let (status, headers) = (answer.status, answer.headers);
            let body = match answer.reply {
                Reply::Messages(frames) => {
                    let on_response = on_response(&headers);
                    let reading = FrameReading::begin(call, status, frames, on_response)?;
                    RawBody::Frames(reading)
                }
                Reply::Accepted => return Err(Error::NoAnswer),
                Reply::Failure(failure) => {
                    let failure = verdict::of_request(failure, self.id);
                    if failure.message.is_none() && attempts.wait(&failure.error()).await {
                        continue;
                    }
                    RawBody::Failure(failure)
                }
            };
            return Ok(RawAnswer { status, headers, body });
        }
    }

    async fn post(&self, live: &Arc<Live>) -> Result<Unread, Error> {
        // What the client sent before this comes before this.
        self.session.caught_up().await;
        live.settled().await;
        let (body, sent) = (self.body.clone(), self.sent.clone());
        let answer = self.session.link().post_with(self.headers, live, body, sent).await?;
        let session = Arc::clone(self.session);
        Ok(Unread::new(session, Arc::clone(live), self.id.clone(), answer))
    }

    async fn post_again(&self, _proof: NotActedOn, live: &Arc<Live>) -> Result<Unread, Error> {
        self.post(live).await
    }

    fn lost_again(&self, live: &Live) -> Error {
        self.session.lose(live);
        Error::SessionLost { profile: self.session.profile.to_string() }
    }
}
