//! Requests that the proxy itself sends over a session.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use tokio::time::Instant;

use super::link::Link;
use super::live::Live;
use super::lost;
use crate::budget::Message;
use crate::error::Error;
use crate::protocol;
use crate::throttle;
use crate::upstream::{Answer, Incoming, Reply, Sent};
use crate::wait::Backoff;
use crate::wire::{self, Envelope, Id, Kind};

/// The outcome of a request of the proxy.
pub(crate) enum Outcome {
    /// The text of the result.
    Result(String),
    /// The message of the server's error.
    Refused(String),
}

/// The outcome, or that the server throttled the request.
enum Taken {
    /// The server answered the request.
    Yes(Outcome),
    /// The server throttled the request and didn't act on it.
    Throttled {
        /// How long the server asks the client to wait.
        asked: Option<Duration>,
        /// The error for the status, if the status reports throttling.
        error: Option<Error>,
        /// The message of the JSON-RPC error, if that reports throttling.
        detail: String,
    },
}

/// How long a throttled handshake is repeated.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(120);

/// Opens a session. Returns the id that the server gave it, and the result.
pub(super) async fn handshake(
    link: &Link,
    params: &str,
) -> Result<(Option<HeaderValue>, String), Error> {
    let id = Id::from_token("\"sigward-initialize\"");
    let text = wire::request(&id, "initialize", params);
    let text = wire::with_metadata(text, &link.metadata.of(&link.profile));
    let text = Bytes::from(text);
    let until = Instant::now() + HANDSHAKE_LIMIT;
    let mut backoff = Backoff::default();
    loop {
        let headers = protocol::post_headers();
        let answer = link.post_unbound(headers, text.clone(), false, Sent::default()).await?;
        let (session_id, audit_id) = (answer.session_id(), answer.audit_id.clone());
        let profile = link.profile.to_string();
        match taken(answer.reply, &id).await? {
            Taken::Yes(Outcome::Result(result)) => return Ok((session_id, result)),
            Taken::Yes(Outcome::Refused(detail)) => {
                return Err(Error::Handshake { profile, detail });
            }
            Taken::Throttled { asked, error, detail } => {
                let error = error.unwrap_or(Error::Handshake { profile, detail });
                link.throttled(audit_id.as_deref()).await;
                let at = Instant::now().checked_add(backoff.next(asked));
                match at.filter(|at| *at < until) {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => return Err(error),
                }
            }
        }
    }
}

/// Sends a message that expects no response. Repeats it if the server throttles it, and so didn't
/// accept it.
pub(super) async fn notify<F>(
    link: &Link,
    text: impl Into<Bytes>,
    post: impl Fn(Bytes) -> F,
) -> Result<(), Error>
where
    F: Future<Output = Result<Answer, Error>>,
{
    let text = text.into();
    let until = Instant::now() + NOTIFICATION_LIMIT;
    let mut backoff = Backoff::default();
    loop {
        let answer = post(text.clone()).await?;
        let Reply::Failure(failure) = answer.reply else { return Ok(()) };
        if !throttle::is_failure(&failure) {
            return Ok(());
        }
        link.throttled(answer.audit_id.as_deref()).await;
        let at = Instant::now().checked_add(backoff.next(failure.retry_after));
        match at.filter(|at| *at < until) {
            Some(at) => tokio::time::sleep_until(at).await,
            None => return Err(failure.into()),
        }
    }
}

/// How long a throttled notification is repeated: others wait behind it.
const NOTIFICATION_LIMIT: Duration = Duration::from_secs(30);

/// Sends a request whose result is ignored.
pub(super) async fn send_request(link: &Link, live: &Live, method: &str, params: &str) {
    let id = Id::from_token("\"sigward-replay\"");
    let metadata = link.metadata.of(&link.profile);
    let text = wire::with_metadata(wire::request(&id, method, params), &metadata);
    let result = async {
        let answer = link.post(live, text, Sent::default()).await?;
        outcome(answer.reply, &id).await
    };
    if let Err(error) = result.await {
        tracing::warn!(profile = %link.profile, method, %error, "replaying to a session failed");
    }
}

/// The outcome of the request `id`, read from its answer.
pub(crate) async fn outcome(reply: Reply, id: &Id) -> Result<Outcome, Error> {
    match taken(reply, id).await? {
        Taken::Yes(outcome) => Ok(outcome),
        Taken::Throttled { error: Some(error), .. } => Err(error),
        Taken::Throttled { error: None, detail, .. } => Ok(Outcome::Refused(detail)),
    }
}

async fn taken(reply: Reply, id: &Id) -> Result<Taken, Error> {
    let mut messages = match reply {
        Reply::Messages(messages) => messages,
        Reply::Accepted => return Err(Error::NoAnswer),
        Reply::Failure(failure) if throttle::is_failure(&failure) => {
            let (asked, detail) = (failure.retry_after, String::new());
            return Ok(Taken::Throttled { asked, error: Some(failure.into()), detail });
        }
        Reply::Failure(failure) => {
            return match failure.message.as_deref().and_then(lost::error_message) {
                Some(message) => Ok(Taken::Yes(Outcome::Refused(message))),
                None => Err(failure.into()),
            };
        }
    };
    while let Some(incoming) = messages.next().await? {
        let Incoming::Message(Message { text, .. }) = &incoming else { continue };
        let Ok(envelope) = Envelope::parse(text) else {
            return Err(Error::NotMessage("not JSON-RPC"));
        };
        if envelope.kind == Kind::Response && envelope.answers(id) {
            if throttle::is_error(&envelope) {
                let detail = lost::error_message(text).unwrap_or_default();
                return Ok(Taken::Throttled { asked: None, error: None, detail });
            }
            return Ok(Taken::Yes(match (envelope.result, lost::error_message(text)) {
                (Some(result), None) => Outcome::Result(result.to_owned()),
                (_, message) => Outcome::Refused(message.unwrap_or_default()),
            }));
        }
    }
    Err(Error::NoAnswer)
}
