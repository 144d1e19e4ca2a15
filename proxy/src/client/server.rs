//! Requests and notifications of servers.

use std::sync::Arc;

use rmcp::model::ErrorCode;

use super::questions::{Asker, Question, Questions};
use super::shared::Outlet;
use crate::budget::Message;
use crate::session::Session;
use crate::tools::Catalog;
use crate::wire::{self, Edits, Envelope, Id, Kind};

/// The client's version of a message.
struct Shown {
    text: String,
    /// The id of a request that the client must answer.
    question: Option<Id>,
}

/// The parts of a client that forwarding these messages needs.
#[derive(Debug)]
pub(super) struct FromServers {
    pub(super) questions: Arc<Questions>,
    pub(super) catalog: Arc<Catalog>,
}

impl FromServers {
    /// Forwards a message that a server sent over a session's streams. `epoch` identifies which of
    /// the profile's successive sessions it was.
    pub(super) async fn pass_on(
        &self,
        session: &Arc<Session>,
        epoch: u64,
        message: Message,
        out: &Outlet,
    ) {
        let Some(Shown { text, question }) = self.shown(session, epoch, &message.text) else {
            return;
        };
        if out.send(message.with(text)).await.is_err() {
            // The client is gone, and the server would wait for a response forever.
            let question = question.and_then(|number| self.questions.take(number.token()));
            if let Some(question) = question {
                refuse(question.asker, &question.id, "The client is gone.");
            }
        }
    }

    /// The client's version of a message, or `None` if it is dropped.
    fn shown(&self, session: &Arc<Session>, epoch: u64, text: &str) -> Option<Shown> {
        let envelope = match Envelope::parse(text) {
            Ok(envelope) => envelope,
            Err(fault) => {
                tracing::warn!(profile = %session.profile, %fault, "dropped an invalid message of the server");
                return None;
            }
        };
        match envelope.kind {
            Kind::Request => {
                let params = envelope.params_object();
                let meta = params.and_then(|params| params.find_object("_meta"));
                let token = meta.and_then(|meta| meta.find("progressToken"));
                let asker = Asker { session: Arc::clone(session), epoch };
                let Some((number, oldest)) =
                    self.questions.ask(asker.clone(), envelope.owned_id(), token)
                else {
                    tracing::warn!(profile = %session.profile, "refused a request of the server: its id is too long");
                    let why = "The id of this request is too long.";
                    refuse(asker, &envelope.owned_id(), why);
                    return None;
                };
                if let Some(Question { asker, id, .. }) = oldest {
                    tracing::warn!(profile = %asker.session.profile, "dropped the oldest request of the server: too many are unanswered");
                    refuse(asker, &id, "The client has too many requests to answer.");
                }
                // The client gets the issued id as the progress token, too: two servers may use the
                // same token.
                let mut edits = Edits::new(text);
                edits.replace(envelope.id.unwrap_or_default(), number.token());
                if let Some(token) = token {
                    edits.replace(token, number.token());
                }
                Some(Shown { text: edits.apply().ok()?, question: Some(number) })
            }
            Kind::Notification => {
                let text = self.notice(session, epoch, &envelope, text)?;
                Some(Shown { text, question: None })
            }
            Kind::Response => {
                tracing::warn!(profile = %session.profile, "dropped a response of the server: it answers no request");
                None
            }
        }
    }

    fn notice(
        &self,
        session: &Arc<Session>,
        epoch: u64,
        envelope: &Envelope<'_>,
        text: &str,
    ) -> Option<String> {
        match envelope.method.as_ref() {
            "notifications/cancelled" => {
                let params = envelope.params_object()?;
                let given = params.find("requestId")?;
                let id = self.questions.withdraw(session, epoch, &Id::from_token(given))?;
                let mut edits = Edits::new(text);
                edits.replace(given, id.token());
                edits.apply().ok()
            }
            // The server of every profile would report it; the client knows only one server.
            method if method.ends_with("/list_changed") && !session.is_default => None,
            method => {
                if method == "notifications/tools/list_changed" {
                    self.catalog.clear();
                }
                Some(text.to_owned())
            }
        }
    }
}

fn refuse(asker: Asker, id: &Id, why: &str) {
    asker.reply(wire::error_response(id, ErrorCode::INTERNAL_ERROR, why).into());
}
