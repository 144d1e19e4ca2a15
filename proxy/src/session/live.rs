//! An open session.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::lost::is_lost;
use crate::upstream::Failure;
use crate::wire::Object;

/// How long requests of a new session wait for the head of its GET stream.
const STREAM_TIMEOUT: Duration = Duration::from_secs(1);

/// An open session.
#[derive(Debug)]
pub struct Live {
    pub(super) id: Option<HeaderValue>,
    pub(super) version: Option<HeaderValue>,
    /// Counts the successive sessions of a profile.
    epoch: u64,
    /// Cancels its GET stream.
    pub(super) listening: CancellationToken,
    /// True while that stream is requested but not open yet.
    pub(super) opening: watch::Sender<bool>,
}

impl Live {
    /// A session that the server opened with an `id`, if it gives ids, and this handshake `result`.
    pub(crate) fn opened(id: Option<HeaderValue>, result: &str, epoch: u64) -> Arc<Self> {
        Self::new(id, negotiated(result), epoch)
    }

    /// Represents a session without a handshake.
    pub(super) fn unbound(epoch: u64) -> Arc<Self> {
        Self::new(None, None, epoch)
    }

    fn new(id: Option<HeaderValue>, version: Option<HeaderValue>, epoch: u64) -> Arc<Self> {
        let (listening, opening) = (CancellationToken::new(), watch::Sender::new(false));
        Arc::new(Self { id, version, epoch, listening, opening })
    }

    /// Waits until the stream of unsolicited messages is open, if the server has one. Many servers drop such messages
    /// while it isn't open, even a request that a call waits for.
    ///
    /// A server may send the head of the stream only with its first event. So the wait is short,
    /// and happens once.
    pub async fn wait_for_stream(&self) {
        let mut opening = self.opening.subscribe();
        let opened = opening.wait_for(|&opening| !opening);
        let opened = self.listening.run_until_cancelled(opened);
        if tokio::time::timeout(STREAM_TIMEOUT, opened).await.is_err() {
            self.opening.send_replace(false);
        }
    }

    /// The number of this session among the profile's successive sessions, counted from 1.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The negotiated version, if there was a handshake.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_ref().and_then(|version| version.to_str().ok())
    }

    /// Whether a failure reports that the server no longer has this session.
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
