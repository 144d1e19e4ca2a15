//! What a client sends without waiting for an answer: notifications, and answers to what servers asked.
//!
//! Invariant: each goes to the session that it concerns, under the id and the token that its server knows.

use std::sync::Arc;

use super::in_flight::{AllInFlight, InFlight};
use super::questions::{Asker, Questions};
use super::sessions::Sessions;
use super::stand_in::StandIns;
use crate::budget::Message;
use crate::exchange::with_id;
use crate::protocol::{self, Generation};
use crate::session::Parcel;
use crate::wire::{self, Edits, Envelope, Id, Object};

/// What such messages of one client may concern.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) sessions: Arc<Sessions>,
    pub(super) stand_ins: Arc<StandIns>,
    pub(super) questions: Arc<Questions>,
    pub(super) in_flight: Arc<AllInFlight>,
}

impl Inbound {
    /// Takes a notification of a client whose messages all come this way.
    pub(super) fn on_notification(&self, envelope: &Envelope<'_>, message: &Message) {
        let params = envelope.params_object();
        let text = &message.text;
        match envelope.method.as_ref() {
            "notifications/cancelled" => self.cancel(params.as_ref(), text),
            // Its server has heard it from the proxy.
            "notifications/initialized" if self.stand_ins.is_present() => {}
            "notifications/initialized" => {
                self.sessions.of_default().enqueue(Parcel::initialized(message.clone()));
            }
            "notifications/roots/list_changed" => {
                for session in self.sessions.all() {
                    session.enqueue(Parcel::bound(message.clone()));
                }
            }
            "notifications/progress" => {
                let token = params.as_ref().and_then(|params| params.find("progressToken"));
                match params.as_ref().and_then(|params| self.progress(params, text)) {
                    Some((asker, text)) => asker.reply(message.clone().with(text)),
                    None if token.is_some_and(|token| self.questions.gave(token)) => {
                        tracing::debug!("dropped progress on a request that isn't open any more");
                    }
                    None => self.to_default(message),
                }
            }
            _ => match Generation::of(params.as_ref()) {
                Generation::Sessions => self.to_default(message),
                Generation::Stateless(version) => {
                    let mut headers = protocol::post_headers();
                    protocol::mirror(&mut headers, &version, envelope, &[]);
                    let parcel = Parcel::unbound(headers, message.clone());
                    self.sessions.of_default().enqueue(parcel);
                }
            },
        }
    }

    fn to_default(&self, message: &Message) {
        self.sessions.of_default().enqueue(Parcel::bound(message.clone()));
    }

    /// Takes a notification, if it is for a session of another profile; what isn't taken goes on.
    pub(super) fn take_notification(&self, envelope: &Envelope<'_>, message: &Message) -> bool {
        let text = &message.text;
        let params = envelope.params_object();
        match envelope.method.as_ref() {
            "notifications/cancelled" => {
                let id = params.as_ref().and_then(|params| params.find("requestId"));
                let id = id.map(Id::from_token);
                let flight = id.and_then(|id| self.in_flight.get(&id));
                let Some(flight) = flight else { return false };
                let of_default = flight.session.get().is_none_or(|session| session.is_default);
                if of_default && flight.sent.is_set() {
                    return false;
                }
                self.cancel(params.as_ref(), text);
                true
            }
            "notifications/progress" => {
                let token = params.as_ref().and_then(|params| params.find("progressToken"));
                let is_ours = token.is_some_and(|token| self.questions.gave(token));
                if let Some((asker, text)) = params.as_ref().and_then(|it| self.progress(it, text))
                {
                    asker.reply(message.clone().with(text));
                }
                is_ours
            }
            "notifications/roots/list_changed" => {
                for session in self.sessions.others() {
                    session.enqueue(Parcel::bound(message.clone()));
                }
                false
            }
            _ => false,
        }
    }

    /// Progress of the client on what a server asked: who asked, and the notification under the
    /// server's own token.
    fn progress(&self, params: &Object<'_>, text: &str) -> Option<(Asker, String)> {
        let given = params.find("progressToken")?;
        let (asker, token) = self.questions.in_progress(given)?;
        let mut edits = Edits::new(text);
        edits.replace(given, token);
        Some((asker, edits.apply().ok()?))
    }

    /// The client no longer wants an answer.
    fn cancel(&self, params: Option<&Object<'_>>, text: &str) {
        let Some(id) = params.and_then(|params| params.find("requestId")) else { return };
        let Some(flight) = self.in_flight.get(&Id::from_token(id)) else { return };
        report_cancelled(&flight, text.to_owned());
        flight.cancel.cancel();
    }

    /// The client's answer to what a server asked.
    pub(super) fn on_response(&self, envelope: &Envelope<'_>, message: &Message) {
        let given = &message.text;
        if envelope.id.is_some_and(|id| self.questions.answer_ourselves(id, given)) {
            return;
        }
        match envelope.id.and_then(|id| self.questions.take(id)) {
            Some(question) => {
                let text = with_id(given, envelope, &question.id);
                question.asker.reply(message.clone().changed(text));
            }
            None => tracing::warn!("the client answered a request that isn't open"),
        }
    }

    /// Takes a response, if it answers what a session of another profile asked, or the proxy.
    pub(super) fn take_response(&self, envelope: &Envelope<'_>, message: &Message) -> bool {
        let known = envelope.id.is_some_and(|id| self.questions.gave(id));
        if known {
            self.on_response(envelope, message);
        }
        known
    }
}

/// The proxy no longer waits for an answer.
pub(super) fn abandon(id: &Id, flight: &InFlight, reason: &str) {
    let params = format!(r#"{{"requestId":{},"reason":{}}}"#, id.token(), wire::quote(reason));
    report_cancelled(flight, wire::notification("notifications/cancelled", Some(&params)));
}

/// With sessions, the end of the stream doesn't cancel a request: a notification must, if the
/// server knows of the request. From 2026-07-28 on, the end of the stream does.
fn report_cancelled(flight: &InFlight, text: String) {
    if flight.is_stateless || !flight.sent.is_set() {
        return;
    }
    if let Some(session) = flight.session.get() {
        session.enqueue(Parcel::cancellation(text.into()));
    }
}
