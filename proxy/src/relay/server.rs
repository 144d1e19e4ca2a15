//! Messages of servers that answer nothing: requests and notifications.

use std::sync::Arc;

use super::Relay;
use super::call::with_id;
use crate::session::Session;
use crate::wire::{Edits, Envelope, Id, Kind};

impl Relay {
    /// Passes on what a server sent over a session's streams.
    pub(super) async fn pass_on(&self, session: &Arc<Session>, text: &str) {
        let envelope = match Envelope::parse(text) {
            Ok(envelope) => envelope,
            Err(fault) => {
                tracing::warn!(profile = %session.profile, %fault, "dropped what the server sent");
                return;
            }
        };
        match envelope.kind {
            Kind::Request => {
                let params = envelope.params_object();
                let meta = params.and_then(|params| params.find_object("_meta"));
                let token = meta.and_then(|meta| meta.find("progressToken"));
                let id = self.questions.ask(session, envelope.owned_id(), token);
                if let Some(text) = with_id(text, &envelope, &id) {
                    self.say(text).await;
                }
            }
            Kind::Notification => self.notice(session, &envelope, text).await,
            Kind::Response => {
                tracing::warn!(profile = %session.profile, "the server answered what nobody asked");
            }
        }
    }

    async fn notice(&self, session: &Arc<Session>, envelope: &Envelope<'_>, text: &str) {
        match envelope.method.as_ref() {
            "notifications/cancelled" => {
                let Some(params) = envelope.params_object() else { return };
                let Some(given) = params.find("requestId") else { return };
                if let Some(id) = self.questions.withdraw(session, &Id::from_token(given)) {
                    let mut edits = Edits::new(text);
                    edits.replace(given, id.token());
                    self.say(edits.apply()).await;
                }
            }
            // Every profile's server would tell; the client knows of one.
            method if method.ends_with("/list_changed") && !session.is_default => {}
            method => {
                if method == "notifications/tools/list_changed" {
                    self.catalog.clear();
                }
                self.say(text.to_owned()).await;
            }
        }
    }
}
