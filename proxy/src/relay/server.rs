//! Messages of servers that answer nothing: requests and notifications.

use std::sync::Arc;

use super::call::with_id;
use super::{Outlet, Relay};
use crate::budget::Message;
use crate::session::Session;
use crate::wire::{Edits, Envelope, Id, Kind};

impl Relay {
    /// Passes on what a server sent over a session's streams.
    pub(super) async fn pass_on(&self, session: &Arc<Session>, message: Message, out: &Outlet) {
        let passed = self.passed(session, &message.text);
        if let Some(text) = passed {
            // A closed outlet means that nobody listens any more.
            let _ = out.send(message.with(text)).await;
        }
    }

    /// What the client sees of it.
    fn passed(&self, session: &Arc<Session>, text: &str) -> Option<String> {
        let envelope = match Envelope::parse(text) {
            Ok(envelope) => envelope,
            Err(fault) => {
                tracing::warn!(profile = %session.profile, %fault, "dropped what the server sent");
                return None;
            }
        };
        match envelope.kind {
            Kind::Request => {
                let params = envelope.params_object();
                let meta = params.and_then(|params| params.find_object("_meta"));
                let token = meta.and_then(|meta| meta.find("progressToken"));
                let id = self.questions.ask(session, envelope.owned_id(), token);
                with_id(text, &envelope, &id)
            }
            Kind::Notification => self.notice(session, &envelope, text),
            Kind::Response => {
                tracing::warn!(profile = %session.profile, "the server answered what nobody asked");
                None
            }
        }
    }

    fn notice(
        &self,
        session: &Arc<Session>,
        envelope: &Envelope<'_>,
        text: &str,
    ) -> Option<String> {
        match envelope.method.as_ref() {
            "notifications/cancelled" => {
                let params = envelope.params_object()?;
                let given = params.find("requestId")?;
                let id = self.questions.withdraw(session, &Id::from_token(given))?;
                let mut edits = Edits::new(text);
                edits.replace(given, id.token());
                Some(edits.apply())
            }
            // Every profile's server would tell; the client knows of one.
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
