//! An open session.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::lost::is_lost;
use crate::upstream::Failure;
use crate::wire::Object;

/// How long the requests of a new session wait for the head of its stream.
const OPENING: Duration = Duration::from_secs(1);

/// An open session.
#[derive(Debug)]
pub struct Live {
    pub(super) id: Option<HeaderValue>,
    pub(super) version: Option<HeaderValue>,
    /// Which of the sessions that were opened one after the other.
    epoch: u64,
    /// Ends its GET stream.
    pub(super) listening: CancellationToken,
    /// True while that stream is asked for and not there yet.
    pub(super) opening: watch::Sender<bool>,
}

impl Live {
    /// The session that a server calls `id`, where it gives it an id, and whose handshake had this
    /// `result`.
    pub(crate) fn opened(id: Option<HeaderValue>, result: &str, epoch: u64) -> Arc<Self> {
        Self::new(id, negotiated(result), epoch)
    }

    /// What stands for a session where there was no handshake.
    pub(super) fn unbound(epoch: u64) -> Arc<Self> {
        Self::new(None, None, epoch)
    }

    fn new(id: Option<HeaderValue>, version: Option<HeaderValue>, epoch: u64) -> Arc<Self> {
        let (listening, opening) = (CancellationToken::new(), watch::Sender::new(false));
        Arc::new(Self { id, version, epoch, listening, opening })
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
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The version that was negotiated, if there was a handshake.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_ref().and_then(|version| version.to_str().ok())
    }

    /// Whether a failure says that the server no longer knows this session.
    #[must_use]
    pub fn is_lost_by(&self, failure: &Failure) -> bool {
        is_lost(failure, self.id.is_some())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.listening.cancel();
    }
}

fn negotiated(result: &str) -> Option<HeaderValue> {
    let result = Object::parse(result).ok()?;
    HeaderValue::try_from(result.find_string("protocolVersion")?.as_ref()).ok()
}
