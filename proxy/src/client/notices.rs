//! Notifications that the proxy itself sends: a session was lost or renewed, or tool descriptions have changed.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::task::TaskTracker;

use super::announced::Announced;
use super::questions::Questions;
use super::shared::Outlet;
use crate::session::{Lost, Session};
use crate::wire;

/// The most messages of the proxy that wait for a client to read. At this limit, the proxy stops
/// reading the client's input.
const MAX_WAITING: usize = 1024;

/// An event that the client is notified of.
pub(super) enum Notice {
    /// A server no longer has a session.
    Lost(Lost),
    /// A session was opened in place of a used one.
    Renewed(Arc<Session>),
    /// The descriptions of the profiles have changed.
    Profiles,
}

/// Sends the notifications to one client.
#[derive(Debug)]
pub(super) struct Notices {
    out: Outlet,
    announced: Arc<Announced>,
    questions: Arc<Questions>,
    /// Permits for messages that wait because the client doesn't read.
    waiting: Arc<Semaphore>,
    work: TaskTracker,
}

impl Notices {
    /// `out` is the channel to the client; closing the client waits for `work`.
    pub(super) fn new(
        out: Outlet,
        announced: Arc<Announced>,
        questions: Arc<Questions>,
        work: TaskTracker,
    ) -> Self {
        let waiting = Arc::new(Semaphore::new(MAX_WAITING));
        Self { out, announced, questions, waiting, work }
    }

    pub(super) async fn notify(&self, notice: Notice) {
        match notice {
            Notice::Lost(lost) => self.withdraw_lost(&lost).await,
            Notice::Renewed(session) => self.log_renewal(&session).await,
            Notice::Profiles if self.announced.lists_change() => {
                self.send(wire::notification("notifications/tools/list_changed", None)).await;
            }
            Notice::Profiles => {}
        }
    }

    /// Cancels, at the client, the requests of a session that its server no longer has.
    async fn withdraw_lost(&self, lost: &Lost) {
        for id in self.questions.withdraw_all(&lost.session, lost.epoch) {
            let params = format!(
                r#"{{"requestId":{},"reason":"the server dropped the session"}}"#,
                id.token()
            );
            self.send(wire::notification("notifications/cancelled", Some(&params))).await;
        }
    }

    /// Logs that a session was renewed, also to the client if it receives warnings.
    async fn log_renewal(&self, session: &Session) {
        tracing::warn!(profile = %session.profile, "a session was renewed: files of the one before are gone");
        if self.announced.logs_warnings() {
            let params = format!(
                r#"{{"level":"warning","logger":"sigward","data":{}}}"#,
                wire::quote(&session.renewed())
            );
            self.send(wire::notification("notifications/message", Some(&params))).await;
        }
    }

    /// Sends a message of the proxy. If the client doesn't read, a task waits in place of the caller: the end of the
    /// input must be seen even then.
    pub(super) async fn send(&self, text: String) {
        // A closed output means that the client is gone and that closing has begun.
        let Err(TrySendError::Full(message)) = self.out.try_send(text.into()) else { return };
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&self.waiting).acquire_owned().await else { return };
        let out = self.out.clone();
        self.work.spawn(async move {
            let _ = out.send(message).await;
            drop(place);
        });
    }
}
