//! A client that speaks HTTP itself: what its messages pass by, and what the relay keeps of them.
//!
//! Its messages of the default profile go on as they are, over a session that is its own. The relay
//! only takes what concerns the sessions of the other profiles, which the client knows nothing of.

use std::sync::Arc;

use http::HeaderValue;

use super::{Flight, Relay, lock};
use crate::budget::Message;
use crate::session::{Ownership, Parcel, Session};
use crate::wire::{Envelope, Id};

impl Flight {
    /// From here on it is known over which session the request goes.
    pub(crate) fn over(&self, session: Arc<Session>) {
        let _ = self.session.set(session);
    }
}

impl Relay {
    /// Whether the client has a session of its own, and with it, sessions of other profiles.
    pub(crate) fn has_session(&self) -> bool {
        self.context.ownership == Ownership::Client
    }

    /// The client's `initialize`, with these params, was answered by `result`: its session is `id`.
    pub(crate) fn established(&self, params: &str, id: HeaderValue, result: &str) {
        self.context.handshake.initialize(params);
        self.default_session().establish(Some(id), result);
    }

    /// The client's own session has ended, and needs no more ending.
    pub(crate) fn forget_default(&self) {
        if let Some(session) = self.existing(self.shared.profiles.default()) {
            session.forget();
        }
    }

    /// Takes a notification, if it is for a session of another profile; what isn't taken goes on.
    pub(crate) fn take_notification(&self, envelope: &Envelope<'_>, message: &Message) -> bool {
        let text = &message.text;
        let params = envelope.params_object();
        match envelope.method.as_ref() {
            "notifications/cancelled" => {
                let id = params.as_ref().and_then(|params| params.find("requestId"));
                let id = id.map(Id::from_token);
                let flight = id.and_then(|id| lock(&self.flights).get(&id).cloned());
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
                    self.reply(asker, message.clone().with(text));
                }
                is_ours
            }
            "notifications/roots/list_changed" => {
                for session in self.others() {
                    session.enqueue(Parcel::bound(message.clone()));
                }
                false
            }
            _ => false,
        }
    }

    /// Takes a response, if it answers what a session of another profile asked, or the proxy.
    pub(crate) fn take_response(&self, envelope: &Envelope<'_>, message: &Message) -> bool {
        let known = envelope.id.is_some_and(|id| self.questions.gave(id));
        if known {
            self.answered(envelope, message);
        }
        known
    }

    fn others(&self) -> Vec<Arc<Session>> {
        let sessions = lock(&self.sessions);
        sessions.values().filter(|session| !session.is_default).cloned().collect()
    }
}
