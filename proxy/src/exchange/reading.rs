//! The answer to one request, read message by message up to its response, and resumed if it is cut.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use sigward_proto::phase;

use super::verdict::{Judge, Verdict, of_request, repaired};
use crate::budget::Message;
use crate::error::Error;
use crate::protocol::AWS_SESSION_EXPIRED;
use crate::session::{Live, RETRY, RETRY_MIN, Session, code_of};
use crate::upstream::{Incoming, Messages, Reply};
use crate::wire::{Envelope, Id};

/// How many times in a row a stream is resumed without receiving a message.
const MAX_RESUMES: u32 = 5;
/// The longest wait that a server may ask for.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How long the rest of a stream may take to end by itself. That frees its connection for other
/// requests.
const DRAIN: Duration = Duration::from_secs(2);

/// A part of an answer.
#[derive(Debug)]
pub(crate) enum Part {
    /// A request or a notification of the server.
    Message(Message),
    /// The response, which is the last part.
    Response(Response),
}

/// A response under the id of its request.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) message: Message,
    /// The error code, if it is an error.
    pub(crate) code: Option<i64>,
}

/// An answer that is being read.
#[derive(Debug)]
pub(crate) struct Reading {
    session: Arc<Session>,
    /// The session of the request; `None` in 2026-07-28.
    live: Option<Arc<Live>>,
    id: Id,
    judge: Judge,
    source: Source,
    /// The first message, which was read before.
    first: Option<Result<Option<Incoming>, Error>>,
    resumes: u32,
    /// The span of the phase *stream*, kept while the answer is read.
    _span: tracing::Span,
}

#[derive(Debug)]
enum Source {
    Messages(Box<Messages>),
    /// The whole response of an answer that wasn't a success.
    Failure(Option<String>),
    /// The response was read.
    Done,
}

impl Reading {
    pub(super) fn begin(
        session: Arc<Session>,
        live: Option<Arc<Live>>,
        id: Id,
        reply: Reply,
    ) -> Result<Self, Error> {
        let source = match reply {
            Reply::Messages(messages) => Source::Messages(messages),
            Reply::Accepted => return Err(Error::NoAnswer),
            Reply::Failure(failure) => match of_request(failure, &id) {
                failure if failure.message.is_some() => Source::Failure(failure.message),
                failure => return Err(failure.into()),
            },
        };
        let judge = Judge::new(id.clone(), live.is_some());
        let _span = phase!("stream");
        Ok(Self { session, live, id, judge, source, first: None, resumes: 0, _span })
    }

    /// The reading of a response that has already been read.
    pub(super) fn of_error(session: Arc<Session>, id: Id, text: String) -> Self {
        let judge = Judge::new(id.clone(), false);
        let source = Source::Failure(Some(text));
        let _span = tracing::Span::none();
        Self { session, live: None, id, judge, source, first: None, resumes: 0, _span }
    }

    /// The same, with the `first` message that was taken out of it.
    pub(super) fn with_first(mut self, first: Option<Result<Option<Incoming>, Error>>) -> Self {
        self.first = first;
        self
    }

    /// The epoch of the session; 0 for requests without a session.
    pub(crate) fn epoch(&self) -> u64 {
        self.live.as_ref().map_or(0, |live| live.epoch())
    }

    /// The next message. An error means that no response will come.
    pub(crate) async fn next(&mut self) -> Result<Part, Error> {
        loop {
            let incoming = match (&mut self.source, self.first.take()) {
                (_, Some(first)) => first,
                (Source::Messages(messages), None) => messages.next().await,
                (Source::Failure(text), None) => {
                    let text = text.take();
                    return self.failure(text);
                }
                (Source::Done, None) => return Err(Error::NoAnswer),
            };
            let cut = match incoming {
                Ok(Some(Incoming::Message(message))) => {
                    self.resumes = 0;
                    match self.part(message) {
                        Some(part) => return Ok(part),
                        None => continue,
                    }
                }
                Ok(Some(Incoming::Dropped(why))) => {
                    self.judge.on_lost(why);
                    continue;
                }
                Ok(None) => self.judge.missing().unwrap_or(Error::NoAnswer),
                Err(error) => error,
            };
            Box::pin(self.resume(cut)).await?;
        }
    }

    /// Checks a message; `None` if it is dropped.
    fn part(&mut self, message: Message) -> Option<Part> {
        let Ok(envelope) = Envelope::parse(&message.text) else {
            tracing::warn!(profile = %self.session.profile, "dropped an invalid message of the server");
            return None;
        };
        match self.judge.message(&message.text, &envelope) {
            Verdict::Own(repaired) => {
                let code = code_of(&envelope);
                if let (Some(live), Some(AWS_SESSION_EXPIRED)) = (&self.live, code) {
                    // It is too late to send the request again. The next request opens another
                    // session.
                    self.session.lose(live);
                }
                if let Source::Messages(messages) =
                    std::mem::replace(&mut self.source, Source::Done)
                {
                    drain(*messages);
                }
                Some(Part::Response(Response { message: message.changed(repaired), code }))
            }
            Verdict::Dropped => None,
            Verdict::Other => Some(Part::Message(message)),
        }
    }

    /// The JSON-RPC error of an answer that isn't a success.
    fn failure(&mut self, text: Option<String>) -> Result<Part, Error> {
        self.source = Source::Done;
        let text = text.ok_or(Error::NoAnswer)?;
        let envelope =
            Envelope::parse(&text).map_err(|_| Error::NotMessage("its response is ambiguous"))?;
        let (code, changed) = (code_of(&envelope), repaired(&text, &envelope, &self.id));
        let message = Message::from(text).changed(changed);
        Ok(Part::Response(Response { message, code }))
    }

    /// Resumes the stream after its last event. `cut` is the reason why it ended, and is returned if the stream can't
    /// be resumed.
    async fn resume(&mut self, cut: Error) -> Result<(), Error> {
        self.resumes += 1;
        let (Some(live), Source::Messages(messages)) = (&self.live, &mut self.source) else {
            return Err(cut);
        };
        let Some(after) = messages.last_id().filter(|_| self.resumes <= MAX_RESUMES) else {
            return Err(cut);
        };
        tokio::time::sleep(messages.retry().unwrap_or(RETRY).clamp(RETRY_MIN, RETRY_MAX)).await;
        match self.session.link().stream(live, Some(after), false).await.map(|answer| answer.reply)
        {
            Ok(Reply::Messages(resumed)) => **messages = resumed.resuming(messages),
            Ok(Reply::Failure(failure)) if failure.status.is_server_error() => {}
            Ok(_) => return Err(cut),
            Err(error) => tracing::debug!(%error, "a stream couldn't be resumed yet"),
        }
        Ok(())
    }
}

/// Reads the stream to its end in a task: dropping it would close its connection.
fn drain(mut messages: Messages) {
    // Nearly always nothing follows.
    if let Some(Ok(None) | Err(_)) = messages.next().now_or_never() {
        return;
    }
    tokio::spawn(async move {
        let rest = async { while let Ok(Some(_)) = messages.next().await {} };
        let _ = tokio::time::timeout(DRAIN, rest).await;
    });
}
