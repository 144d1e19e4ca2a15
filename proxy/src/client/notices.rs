//! Notifications of the proxy's own: a session was lost or renewed, or the descriptions of the tools have changed.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::task::TaskTracker;

use super::announced::Announced;
use super::questions::Questions;
use super::shared::Outlet;
use crate::session::{Lost, Session};
use crate::wire;

/// Messages of the proxy's own that wait for a client to read. Beyond these, its input waits.
const MAX_WAITING: usize = 1024;

/// What a client is notified of.
pub(super) enum News {
    /// A server no longer knows a session.
    Lost(Lost),
    /// A session was opened in place of one that was used.
    Renewed(Arc<Session>),
    /// The descriptions of the profiles have changed.
    Profiles,
}

/// Notifies one client.
#[derive(Debug)]
pub(super) struct Notices {
    out: Outlet,
    announced: Arc<Announced>,
    questions: Arc<Questions>,
    /// Places for messages that wait because the client doesn't read.
    waiting: Arc<Semaphore>,
    work: TaskTracker,
}

impl Notices {
    /// To a client that reads `out`, whose end waits for `work`.
    pub(super) fn new(
        out: Outlet,
        announced: Arc<Announced>,
        questions: Arc<Questions>,
        work: TaskTracker,
    ) -> Self {
        let waiting = Arc::new(Semaphore::new(MAX_WAITING));
        Self { out, announced, questions, waiting, work }
    }

    pub(super) async fn on_news(&self, news: News) {
        match news {
            News::Lost(lost) => self.withdraw_lost(&lost).await,
            News::Renewed(session) => self.log_renewal(&session).await,
            News::Profiles if self.announced.lists_change() => {
                self.send(wire::notification("notifications/tools/list_changed", None)).await;
            }
            News::Profiles => {}
        }
    }

    /// Takes back at the client what a session asked that its server no longer knows.
    async fn withdraw_lost(&self, lost: &Lost) {
        for id in self.questions.withdraw_all(&lost.session, lost.epoch) {
            let params = format!(
                r#"{{"requestId":{},"reason":"the server dropped the session"}}"#,
                id.token()
            );
            self.send(wire::notification("notifications/cancelled", Some(&params))).await;
        }
    }

    /// Has the client log that a session was renewed, where it reads warnings.
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

    /// Sends a message of the proxy's own. The input is read on meanwhile: its end must be seen, even while
    /// nobody reads the output.
    pub(super) async fn send(&self, text: String) {
        // A closed output means that the client is gone, and that the end has begun.
        let Err(TrySendError::Full(message)) = self.out.try_send(text.into()) else { return };
        // Never closed.
        let Ok(place) = Arc::clone(&self.waiting).acquire_owned().await else { return };
        let out = self.out.clone();
        self.work.spawn(async move {
            let _ = out.send(message).await;
            drop(place);
        });
    }
}
