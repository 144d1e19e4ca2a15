//! Messages of a client that expect no response: notifications, and responses to requests of servers.
//!
//! Invariant: each goes to the session that it concerns, under the id and the token that the server used.

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

/// The parts of a client that such messages can concern.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) sessions: Arc<Sessions>,
    pub(super) stand_ins: Arc<StandIns>,
    pub(super) questions: Arc<Questions>,
    pub(super) in_flight: Arc<AllInFlight>,
}

impl Inbound {
    /// Handles a notification of a client that sends all its messages through here.
    pub(super) fn on_notification(&self, envelope: &Envelope<'_>, message: &Message) {
        let params = envelope.params_object();
        let text = &message.text;
        match envelope.method.as_ref() {
            "notifications/cancelled" => self.cancel(params.as_ref(), text),
            // The proxy has already sent it to that server.
            "notifications/initialized" if self.stand_ins.is_active() => {}
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
                    None if token.is_some_and(|token| self.questions.has_issued(token)) => {
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

    /// Handles a notification if it concerns a session of another profile. Returns whether it did;
    /// otherwise the caller forwards it.
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
                let is_ours = token.is_some_and(|token| self.questions.has_issued(token));
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

    /// For progress on a request of a server: the asking session, and the notification under the
    /// server's own token.
    fn progress(&self, params: &Object<'_>, text: &str) -> Option<(Asker, String)> {
        let given = params.find("progressToken")?;
        let (asker, token) = self.questions.in_progress(given)?;
        let mut edits = Edits::new(text);
        edits.replace(given, token);
        Some((asker, edits.apply().ok()?))
    }

    /// Cancels the request that the notification names.
    fn cancel(&self, params: Option<&Object<'_>>, text: &str) {
        let Some(id) = params.and_then(|params| params.find("requestId")) else { return };
        let Some(flight) = self.in_flight.get(&Id::from_token(id)) else { return };
        report_cancelled(&flight, text.to_owned());
        flight.cancel.cancel();
    }

    /// Handles the client's response to a request of a server.
    pub(super) fn on_response(&self, envelope: &Envelope<'_>, message: &Message) {
        let given = &message.text;
        if envelope.id.is_some_and(|id| self.questions.take_proxy_answer(id, given)) {
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

    /// Handles a response if it answers the proxy, or a session of another profile. Returns whether
    /// it did.
    pub(super) fn take_response(&self, envelope: &Envelope<'_>, message: &Message) -> bool {
        let known = envelope.id.is_some_and(|id| self.questions.has_issued(id));
        if known {
            self.on_response(envelope, message);
        }
        known
    }
}

/// Cancels a request whose response the proxy no longer waits for.
pub(super) fn abandon(id: &Id, flight: &InFlight, reason: &str) {
    let params = format!(r#"{{"requestId":{},"reason":{}}}"#, id.token(), wire::quote(reason));
    report_cancelled(flight, wire::notification("notifications/cancelled", Some(&params)));
}

/// Reports a cancellation to the server. With sessions, closing the stream doesn't cancel a
/// request, so that a notification must, if the request may have reached the server. From
/// 2026-07-28 on, closing the stream does.
fn report_cancelled(flight: &InFlight, text: String) {
    if flight.is_stateless || !flight.sent.is_set() {
        return;
    }
    if let Some(session) = flight.session.get() {
        session.enqueue(Parcel::cancellation(text.into()));
    }
}
