//! The GET stream of a session: requests and notifications that belong to no call.

use std::sync::{Arc, Weak};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::link::Link;
use super::live::Live;
use crate::budget::Message;
use crate::upstream::{Incoming, Messages, Reply};

/// How long to wait before a stream is taken up again, where the server didn't say.
pub(crate) const RETRY: Duration = Duration::from_secs(1);
/// The shortest such wait: a server that says 0 would have us spin.
pub(crate) const RETRY_MIN: Duration = Duration::from_millis(50);
/// The longest wait before the stream is asked for again.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Whose stream it is.
pub(super) trait Listener: Send + Sync + 'static {
    /// The way to the server.
    fn link(&self) -> &Link;

    /// Takes a message of the session with this epoch; `None` if the listener is gone.
    fn take(
        self: Arc<Self>,
        epoch: u64,
        message: Message,
    ) -> impl Future<Output = Option<()>> + Send;
}

/// Reads the stream, again and again, until the session is gone or the server has no such stream.
///
/// The session is held only while something is done with it: this must not keep alive what its end
/// depends on.
pub(super) async fn listen<L: Listener>(session: Weak<L>, live: Arc<Live>) {
    let mut after: Option<String> = None;
    // What the server said last, which holds for later streams too.
    let mut retry = RETRY;
    let mut wait = retry;
    loop {
        let answer = {
            let Some(session) = session.upgrade() else { return };
            // What is kept while the stream is silent stays small.
            Box::pin(session.link().stream(&live, after.as_deref(), true)).await
        };
        live.opening.send_replace(false);
        match answer.map(|answer| answer.reply) {
            Ok(Reply::Messages(mut messages)) => {
                let opened = Instant::now();
                let Some(heard) = read(&session, &live, &mut messages).await else { return };
                if let Some(id) = messages.last_id() {
                    after = Some(id.to_owned());
                }
                if let Some(told) = messages.retry() {
                    retry = told.clamp(RETRY_MIN, RETRY_MAX);
                }
                // Load balancers cut quiet streams, which is no failure of the server.
                if heard || messages.retry().is_some() || opened.elapsed() > wait.min(RETRY) {
                    wait = retry;
                }
            }
            // Most often 405: a server needs no such stream.
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

/// Passes on messages until the stream ends. Returns whether there were any; `None` if the listener
/// is gone.
async fn read<L: Listener>(
    session: &Weak<L>,
    live: &Live,
    messages: &mut Messages,
) -> Option<bool> {
    let mut heard = false;
    while let Ok(Some(incoming)) = messages.next().await {
        heard = true;
        let session = session.upgrade()?;
        match incoming {
            Incoming::Message(message) => session.take(live.epoch(), message).await?,
            Incoming::Dropped(why) => {
                tracing::warn!(profile = %session.link().profile, %why, "dropped a message of the server");
            }
        }
    }
    Some(heard)
}

/// Whether a status will be the same the next time. Credentials come and go, and so does a crowd.
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
