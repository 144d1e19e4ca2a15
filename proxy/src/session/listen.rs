//! The GET stream of a session: requests and notifications that belong to no call.

use std::sync::{Arc, Weak};

use http::StatusCode;

use super::{Live, RETRY, RETRY_MAX, RETRY_MIN, Session, Unsolicited};
use crate::upstream::{Incoming, Reply};

/// Reads the stream, again and again, until the session is gone or the server has no such stream.
pub(super) async fn listen(session: Arc<Session>, live: Weak<Live>) {
    let mut after: Option<String> = None;
    let mut wait = RETRY;
    loop {
        let Some(live) = live.upgrade() else { return };
        let generation = live.generation();
        let answer = session.stream(&live, after.as_deref(), true).await;
        live.opening.send_replace(false);
        // The stream must not keep alive what its end depends on.
        drop(live);
        match answer.map(|answer| answer.reply) {
            Ok(Reply::Messages(mut messages)) => {
                let mut told = None;
                while let Ok(Some(incoming)) = messages.next().await {
                    wait = RETRY;
                    told = messages.retry();
                    match incoming {
                        Incoming::Message(message) => {
                            let from = Arc::clone(&session);
                            let message = Unsolicited { session: from, generation, message };
                            if session.context.unsolicited.send(message).await.is_err() {
                                return;
                            }
                        }
                        Incoming::Dropped(why) => {
                            tracing::warn!(profile = %session.profile, %why, "dropped a message of the server");
                        }
                    }
                }
                if let Some(id) = messages.last_id() {
                    after = Some(id.to_owned());
                }
                wait =
                    told.or_else(|| messages.retry()).unwrap_or(wait).clamp(RETRY_MIN, RETRY_MAX);
            }
            // Most often 405: a server needs no such stream.
            Ok(Reply::Failure(failure)) if is_final(failure.status) => {
                tracing::debug!(profile = %session.profile, status = %failure.status, "no GET stream");
                return;
            }
            Ok(Reply::Accepted) => return,
            Ok(Reply::Failure(failure)) => {
                tracing::debug!(profile = %session.profile, status = %failure.status, "the GET stream failed");
            }
            Err(error) => {
                tracing::debug!(profile = %session.profile, %error, "the GET stream failed");
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
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
