//! A client that speaks HTTP itself: what its messages pass by, and what the relay keeps of them.
//!
//! Its messages of the default profile go on as they are, over a session that is its own. The relay
//! only takes what concerns the sessions of the other profiles, which the client knows nothing of.

use std::sync::Arc;

use http::HeaderValue;

use super::{Flight, Relay, lock};
use crate::budget::{Budget, Message};
use crate::request::Request;
use crate::session::{Ownership, Parcel, Session, code_of};
use crate::wire::{Envelope, Id};

impl Flight {
    /// From here on it is known over which session the request goes.
    pub(crate) fn over(&self, session: Arc<Session>) {
        let _ = self.session.set(session);
    }
}

impl Relay {
    /// The client's part of the memory that messages take.
    pub(crate) fn budget(&self) -> &Budget {
        &self.context.budget
    }

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

    /// What a request of the client means for the sessions of the other profiles.
    pub(crate) fn on_request(&self, call: &Request) {
        if let ("logging/setLevel", Some(params)) = (call.method(), call.params()) {
            self.context.handshake.log_level(params);
            self.set_level(params);
        }
    }

    /// The client's version of a list of tools; `None` where nothing changes.
    pub(crate) fn rewrite_list(&self, text: &str) -> Option<String> {
        let describe = |profile: &_| self.shared.metadata.description(profile);
        // Which tools an HTTP client leaves out for their headers is for that client to decide.
        self.catalog.rewrite(text, false, &self.shared.offer, describe)
    }

    /// Whether a message says that its session is gone, in AWS's words.
    pub(crate) fn says_expired(message: &str) -> bool {
        let envelope = Envelope::parse(message).ok();
        envelope.and_then(|it| code_of(&it)) == Some(crate::protocol::AWS_SESSION_EXPIRED)
    }

    fn others(&self) -> Vec<Arc<Session>> {
        let sessions = lock(&self.sessions);
        sessions.values().filter(|session| !session.is_default).cloned().collect()
    }
}
