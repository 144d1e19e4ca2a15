//! The answer to one request: read to its response, resumed where it was cut.

use std::sync::Arc;
use std::time::Duration;

use super::{Relay, Request};
use crate::budget::Message;
use crate::config::ProfileName;
use crate::error::Error;
use crate::protocol::AWS_SESSION_EXPIRED;
use crate::relay::lock;
use crate::session::{Live, RETRY, RETRY_MIN, Session, code_of};
use crate::upstream::{Answer, Failure, Incoming, Messages, Reply};
use crate::wire::{self, Edits, Envelope, Id, Kind, Object};

/// How often a stream is taken up again without anything coming of it.
const MAX_RESUMES: u32 = 5;
/// The longest wait that a server may ask for.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Tasks remembered for profiles other than the default.
const MAX_TASKS: usize = 4096;
/// Longer ids of tasks aren't remembered: theirs are the default profile's.
const MAX_TASK_ID: usize = 1024;
/// How long the rest of a stream may take to end by itself, which frees its connection for others.
const DRAIN: Duration = Duration::from_secs(2);

/// How an answer ended.
pub(super) enum Followed {
    /// With this response, ready for the client, and the code of its error if it is one.
    Answered(Message, Option<i64>),
    /// The session is gone, and the request wasn't acted on.
    Expired,
    /// With an HTTP status and no response.
    Failed(Failure),
}

impl Followed {
    /// A failure as an error that may be tried again, where that is allowed.
    pub(super) fn retryable(self, repeatable: bool) -> Result<Self, Error> {
        match self {
            Self::Failed(failure) if repeatable => Err(failure.into()),
            other => Ok(other),
        }
    }
}

impl Relay {
    /// Reads an answer until its response, passing on what comes before.
    pub(super) async fn follow(
        self: &Arc<Self>,
        request: &Request<'_>,
        live: Option<&Arc<Live>>,
        answer: Answer,
    ) -> Result<Followed, Error> {
        let mut messages = match answer.reply {
            Reply::Messages(messages) => *messages,
            Reply::Accepted => return Err(Error::NoAnswer),
            Reply::Failure(failure) => {
                if live.is_some_and(|live| live.is_expired_by(&failure)) {
                    return Ok(Followed::Expired);
                }
                return Ok(match failure.message {
                    Some(text) => {
                        let envelope = Envelope::parse(&text)
                            .map_err(|_| Error::NotMessage("its response is ambiguous"))?;
                        let code = code_of(&envelope);
                        let changed = self.respond(request, &text, &envelope);
                        Followed::Answered(Message::from(text).changed(changed), code)
                    }
                    None => Followed::Failed(failure),
                });
            }
        };
        let mut resumes = 0;
        let mut lost = None;
        loop {
            let cut = match messages.next().await {
                Ok(Some(Incoming::Message(message))) => {
                    resumes = 0;
                    match Envelope::parse(&message.text) {
                        Ok(envelope) if envelope.kind == Kind::Response => {
                            let code = code_of(&envelope);
                            if live.is_some() && code == Some(AWS_SESSION_EXPIRED) {
                                return Ok(Followed::Expired);
                            }
                            let changed = self.respond(request, &message.text, &envelope);
                            drain(messages);
                            return Ok(Followed::Answered(message.changed(changed), code));
                        }
                        Ok(envelope) if live.is_none() && envelope.kind == Kind::Request => {
                            tracing::warn!(method = %envelope.method, "dropped a request that this protocol version doesn't have");
                        }
                        _ => {
                            let generation = live.map_or(0, |live| live.generation());
                            self.pass_on(request.session, generation, message, request.out).await;
                        }
                    }
                    continue;
                }
                Ok(Some(Incoming::Dropped(why))) => {
                    tracing::warn!(%why, "dropped a message of the server");
                    lost = Some(why);
                    continue;
                }
                // What was dropped may have been the response.
                Ok(None) => lost.map_or(Error::NoAnswer, Error::from),
                Err(error) => error,
            };
            resumes += 1;
            match live {
                Some(live) if messages.last_id().is_some() && resumes <= MAX_RESUMES => {
                    match resume(request.session, live, &messages).await {
                        Resumed::Messages(resumed) => messages = resumed.resuming(&messages),
                        Resumed::NotYet => {}
                        Resumed::Never => return Err(cut),
                    }
                }
                _ => return Err(cut),
            }
        }
    }

    /// The client's version of a response; `None` where that is the server's.
    fn respond(
        &self,
        request: &Request<'_>,
        text: &str,
        envelope: &Envelope<'_>,
    ) -> Option<String> {
        let changed = repaired(text, envelope, &request.call.head.id);
        if request.call.head.method == "tools/list" {
            let describe = |profile: &_| self.shared.metadata.description(profile);
            let stateless = request.call.head.generation.is_stateless();
            let list = changed.as_deref().unwrap_or(text);
            let rewritten = self.catalog.rewrite(list, stateless, &self.shared.offer, describe);
            return rewritten.or(changed);
        }
        if let Some(result) = envelope.result {
            self.learn(request, result);
        }
        changed
    }

    /// Keeps what a successful response means for later: log levels and subscriptions to replay,
    /// tasks and their profile.
    fn learn(&self, request: &Request<'_>, result: &str) {
        let method = request.call.head.method.as_str();
        match method {
            "logging/setLevel" => {
                let sent = Envelope::parse(request.text()).ok();
                if let Some(params) = sent.and_then(|envelope| envelope.params) {
                    self.context.handshake.log_level(params);
                    self.set_level(params);
                }
            }
            "resources/subscribe" | "resources/unsubscribe" => {
                let Ok(sent) = Envelope::parse(request.text()) else { return };
                let params = sent.params_object();
                let uri = params.as_ref().and_then(|params| params.find_string("uri"));
                if let Some(uri) = uri {
                    let kept = sent.params.filter(|_| method == "resources/subscribe");
                    request.session.subscribed(&uri, kept);
                }
            }
            "tools/call" if !request.session.is_default => {
                let Ok(result) = Object::parse(result) else { return };
                self.remember_task(&request.session.profile, &result);
            }
            _ => {}
        }
    }

    /// Keeps which profile made a task, if `result` is about one.
    pub(crate) fn remember_task(&self, profile: &ProfileName, result: &Object<'_>) {
        let task = result.find_object("task");
        let id = task.as_ref().unwrap_or(result).find_string("taskId");
        if let Some(id) = id.filter(|id| id.len() <= MAX_TASK_ID) {
            let mut tasks = lock(&self.tasks);
            // Told twice, or used again: the last one counts.
            tasks.retain(|(known, _)| *known != id);
            if tasks.len() == MAX_TASKS {
                tasks.pop_front();
            }
            tasks.push_back((id.into_owned(), profile.clone()));
        }
    }

    /// Tells the sessions of the other profiles, where they are open.
    pub(crate) fn set_level(&self, params: &str) {
        let open: Vec<Arc<Session>> = lock(&self.sessions).values().cloned().collect();
        for session in open.into_iter().filter(|session| !session.is_default) {
            let params = params.to_owned();
            self.work.spawn(async move {
                if let Some(live) = session.current() {
                    session.tell(&live, "logging/setLevel", &params).await;
                }
            });
        }
    }
}

/// A response as the client can take it, under its own id, and with an error or a result, not both;
/// `None` where it is like that.
pub(crate) fn repaired(text: &str, envelope: &Envelope<'_>, id: &Id) -> Option<String> {
    let changed = super::with_id(text, envelope, id);
    let both = envelope.error.is_some_and(|error| error != "null") && envelope.result.is_some();
    let neither = envelope.error == Some("null");
    if !both && !neither {
        return changed;
    }
    let superfluous = if both { "result" } else { "error" };
    let text = changed.as_deref().unwrap_or(text);
    let Ok(object) = Object::parse(text) else { return changed };
    let mut edits = Edits::new(text);
    edits.members(&object, |member| member.name() == superfluous, &[]);
    Some(wire::one_line(edits.apply()))
}

enum Resumed {
    Messages(Box<Messages>),
    NotYet,
    Never,
}

/// The rest of a stream, from where it was cut.
async fn resume(session: &Session, live: &Live, cut: &Messages) -> Resumed {
    let Some(after) = cut.last_id() else { return Resumed::Never };
    tokio::time::sleep(cut.retry().unwrap_or(RETRY).clamp(RETRY_MIN, RETRY_MAX)).await;
    match session.stream(live, Some(after), false).await.map(|answer| answer.reply) {
        Ok(Reply::Messages(messages)) => Resumed::Messages(messages),
        Ok(Reply::Failure(failure)) if failure.status.is_server_error() => Resumed::NotYet,
        Ok(_) => Resumed::Never,
        Err(error) => {
            tracing::debug!(%error, "a stream couldn't be resumed yet");
            Resumed::NotYet
        }
    }
}

/// Lets the stream end: dropped, it would take its connection with it.
fn drain(mut messages: Messages) {
    tokio::spawn(async move {
        let _ =
            tokio::time::timeout(DRAIN, async { while let Ok(Some(_)) = messages.next().await {} })
                .await;
    });
}
