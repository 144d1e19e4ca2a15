//! The GET stream of a session: requests and notifications that belong to no call.

use std::sync::{Arc, Weak};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::link::Link;
use super::live::Live;
use crate::budget::Message;
use crate::upstream::{Incoming, Messages, Reply};

/// The wait before a stream is resumed, unless the server sent another.
pub(crate) const RETRY: Duration = Duration::from_secs(1);
/// The shortest such wait: a server that sends 0 would cause a busy loop.
pub(crate) const RETRY_MIN: Duration = Duration::from_millis(50);
/// The longest wait before the stream is requested again.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The owner of the stream.
pub(super) trait Listener: Send + Sync + 'static {
    /// The connection to the server.
    fn link(&self) -> &Link;

    /// Handles a message of the session with this epoch; `None` if the listener is gone.
    fn take(
        self: Arc<Self>,
        epoch: u64,
        message: Message,
    ) -> impl Future<Output = Option<()>> + Send;
}

/// Reads the stream, and reopens it, until the session is gone or the server has no such stream.
///
/// The session is referenced only while it is needed: the stream must not keep alive what its own
/// end depends on.
pub(super) async fn listen<L: Listener>(session: Weak<L>, live: Arc<Live>) {
    let mut after: Option<String> = None;
    // The last value that the server sent, which is also valid for later streams.
    let mut retry = RETRY;
    let mut wait = retry;
    loop {
        let answer = {
            let Some(session) = session.upgrade() else { return };
            // Boxed so that the memory of a silent stream stays small.
            Box::pin(session.link().stream(&live, after.as_deref(), true)).await
        };
        live.opening.send_replace(false);
        match answer.map(|answer| answer.reply) {
            Ok(Reply::Messages(mut messages)) => {
                let opened = Instant::now();
                let Some(has_messages) = read(&session, &live, &mut messages).await else { return };
                if let Some(id) = messages.last_id() {
                    after = Some(id.to_owned());
                }
                if let Some(delay) = messages.retry() {
                    retry = delay.clamp(RETRY_MIN, RETRY_MAX);
                }
                // Load balancers cut quiet streams, which isn't a failure of the server.
                if has_messages || messages.retry().is_some() || opened.elapsed() > wait.min(RETRY)
                {
                    wait = retry;
                }
            }
            // Most often 405: the server has no such stream.
            Ok(Reply::Failure(failure)) if is_final(failure.status) => {
                tracing::debug!(status = %failure.status, "no GET stream");
                return;
            }
            Ok(Reply::Accepted) => return,
            Ok(Reply::Failure(failure)) => {
                tracing::debug!(status = %failure.status, "the GET stream failed");
            }
            Err(error) => tracing::debug!(%error, "the GET stream failed"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

/// Forwards messages until the stream ends. Returns whether there were any; `None` if the listener
/// is gone.
async fn read<L: Listener>(
    session: &Weak<L>,
    live: &Live,
    messages: &mut Messages,
) -> Option<bool> {
    let mut has_messages = false;
    while let Ok(Some(incoming)) = messages.next().await {
        has_messages = true;
        let session = session.upgrade()?;
        match incoming {
            Incoming::Message(message) => session.take(live.epoch(), message).await?,
            Incoming::Dropped(why) => {
                tracing::warn!(profile = %session.link().profile, %why, "dropped a message of the server");
            }
        }
    }
    Some(has_messages)
}

/// Whether the status will be the same next time. Credentials and load change.
fn is_final(status: StatusCode) -> bool {
    match status {
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::REQUEST_TIMEOUT
        | StatusCode::TOO_EARLY
        | StatusCode::TOO_MANY_REQUESTS => false,
        StatusCode::NOT_IMPLEMENTED => true,
        _ => !status.is_server_error(),
    }
}
