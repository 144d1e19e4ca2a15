//! Requests that the proxy sends over a session by itself.

use http::HeaderValue;

use super::link::Link;
use super::live::Live;
use super::lost;
use crate::budget::Message;
use crate::error::Error;
use crate::protocol;
use crate::upstream::{Incoming, Reply, Sent};
use crate::wire::{self, Envelope, Id, Kind};

/// What came of a request of our own.
pub(crate) enum Outcome {
    /// The text of its result.
    Result(String),
    /// The message of the server's error.
    Refused(String),
}

/// Opens a session; the id that the server gave it, and the result.
pub(super) async fn handshake(
    link: &Link,
    params: &str,
) -> Result<(Option<HeaderValue>, String), Error> {
    let id = Id::from_token("\"sigward-initialize\"");
    let text = wire::request(&id, "initialize", params);
    let text = wire::with_metadata(text, &link.metadata.of(&link.profile));
    let headers = protocol::post_headers();
    let answer = link.post_unbound(headers, text, false, Sent::default()).await?;
    let session_id = answer.session_id().cloned();
    match outcome(answer.reply, &id).await? {
        Outcome::Result(result) => Ok((session_id, result)),
        Outcome::Refused(detail) => {
            Err(Error::Handshake { profile: link.profile.to_string(), detail })
        }
    }
}

/// Sends a request whose result doesn't matter.
pub(super) async fn tell(link: &Link, live: &Live, method: &str, params: &str) {
    let id = Id::from_token("\"sigward-replay\"");
    let metadata = link.metadata.of(&link.profile);
    let text = wire::with_metadata(wire::request(&id, method, params), &metadata);
    let told = async {
        let answer = link.post(live, text, Sent::default()).await?;
        outcome(answer.reply, &id).await
    };
    if let Err(error) = told.await {
        tracing::warn!(profile = %link.profile, method, %error, "replaying to a session failed");
    }
}

/// What an answer says to the request `id`.
pub(crate) async fn outcome(reply: Reply, id: &Id) -> Result<Outcome, Error> {
    let mut messages = match reply {
        Reply::Messages(messages) => messages,
        Reply::Accepted => return Err(Error::NoAnswer),
        Reply::Failure(failure) => {
            return match failure.message.as_deref().and_then(lost::error_message) {
                Some(message) => Ok(Outcome::Refused(message)),
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
            return Ok(match (envelope.result, lost::error_message(text)) {
                (Some(result), None) => Outcome::Result(result.to_owned()),
                (_, message) => Outcome::Refused(message.unwrap_or_default()),
            });
        }
    }
    Err(Error::NoAnswer)
}
