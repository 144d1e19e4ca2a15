//! An open session, and what says that it is gone.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::protocol::AWS_SESSION_EXPIRED;
use crate::upstream::Failure;
use crate::wire::{Envelope, Object};

/// How long the requests of a new session wait for the head of its stream.
const OPENING: Duration = Duration::from_secs(1);

/// An open session.
#[derive(Debug)]
pub struct Live {
    pub(super) id: Option<HeaderValue>,
    pub(super) version: Option<HeaderValue>,
    /// Which of the sessions that were opened one after the other.
    generation: u64,
    /// Ends its GET stream.
    pub(super) listening: CancellationToken,
    /// True while that stream is asked for and not there yet.
    pub(super) opening: watch::Sender<bool>,
}

impl Live {
    /// The session that a server calls `id`, where it gives it an id, and whose handshake had this
    /// `result`.
    pub(super) fn opened(id: Option<HeaderValue>, result: &str, generation: u64) -> Arc<Self> {
        Self::new(id, negotiated(result), generation)
    }

    /// What stands for a session where there was no handshake.
    pub(super) fn unbound(generation: u64) -> Arc<Self> {
        Self::new(None, None, generation)
    }

    fn new(id: Option<HeaderValue>, version: Option<HeaderValue>, generation: u64) -> Arc<Self> {
        let (listening, opening) = (CancellationToken::new(), watch::Sender::new(false));
        Arc::new(Self { id, version, generation, listening, opening })
    }

    /// Waits until the server can speak on its own account, if it wants to: many drop what they have
    /// to say, be it a question that a call waits for, while the stream for it isn't open.
    ///
    /// A server that is late with the head of the stream, which may come with the first event only,
    /// holds nobody up for long, and only once.
    pub async fn settled(&self) {
        let mut opening = self.opening.subscribe();
        let opened = opening.wait_for(|&opening| !opening);
        let opened = self.listening.run_until_cancelled(opened);
        if tokio::time::timeout(OPENING, opened).await.is_err() {
            self.opening.send_replace(false);
        }
    }

    /// Which of the profile's sessions this is, counted from 1.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The version that was negotiated, if there was a handshake.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_ref().and_then(|version| version.to_str().ok())
    }

    /// Whether a failure says that this session is gone.
    #[must_use]
    pub fn is_expired_by(&self, failure: &Failure) -> bool {
        let code = failure.message.as_deref().and_then(error_code);
        match code {
            Some(AWS_SESSION_EXPIRED) => true,
            // A server that has the session, but not the method, says so in JSON-RPC.
            Some(-32601) => false,
            _ => failure.status == http::StatusCode::NOT_FOUND && self.id.is_some(),
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.listening.cancel();
    }
}

/// The code of a JSON-RPC error message.
#[must_use]
pub fn error_code(message: &str) -> Option<i64> {
    code_of(&Envelope::parse(message).ok()?)
}

/// The code of the error in a message.
#[must_use]
pub fn code_of(envelope: &Envelope<'_>) -> Option<i64> {
    Object::parse(envelope.error?).ok()?.find("code")?.parse().ok()
}

fn negotiated(result: &str) -> Option<HeaderValue> {
    let result = Object::parse(result).ok()?;
    HeaderValue::try_from(result.find_string("protocolVersion")?.as_ref()).ok()
}
