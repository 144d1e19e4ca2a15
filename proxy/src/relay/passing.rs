//! A client that speaks HTTP itself: what its messages pass by, and what the relay keeps of them.
//!
//! Its messages of the default profile go on as they are, over a session that is its own. The relay
//! only takes what concerns the sessions of the other profiles, which the client knows nothing of.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::HeaderValue;

use super::{Flight, Relay, lock};
use crate::config::ProfileName;
use crate::session::{Ownership, Session, error_code};
use crate::wire::{Envelope, Id, Object};

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
    pub(crate) fn noted(&self, envelope: &Envelope<'_>, text: &str) -> bool {
        let params = envelope.params_object();
        match envelope.method.as_ref() {
            "notifications/cancelled" => {
                let id = params.as_ref().and_then(|params| params.find("requestId"));
                let id = id.map(Id::from_token);
                let flight = id.and_then(|id| lock(&self.flights).get(&id).cloned());
                let Some(flight) = flight else { return false };
                let of_default = flight.session.get().is_none_or(|session| session.is_default);
                if of_default && flight.sent.load(Ordering::Acquire) {
                    return false;
                }
                self.cancel(params.as_ref(), text);
                true
            }
            "notifications/progress" => {
                let token = params.as_ref().and_then(|params| params.find("progressToken"));
                let asker = token.and_then(|token| self.questions.asker_of(token));
                asker.map(|asker| self.reply(asker, text.to_owned())).is_some()
            }
            "notifications/initialized" => {
                self.context.handshake.initialized();
                false
            }
            "notifications/roots/list_changed" => {
                for session in self.others() {
                    self.forward(session, text.to_owned());
                }
                false
            }
            _ => false,
        }
    }

    /// Takes a response, if it answers what a session of another profile asked, or the proxy.
    pub(crate) fn took_answer(&self, envelope: &Envelope<'_>, text: &str) -> bool {
        let known = envelope.id.is_some_and(|id| self.questions.knows(id));
        if known {
            self.answered(envelope, text);
        }
        known
    }

    /// What a request of the client means for the sessions of the other profiles.
    pub(crate) fn heed(&self, envelope: &Envelope<'_>) {
        if let ("logging/setLevel", Some(params)) = (envelope.method.as_ref(), envelope.params) {
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

    /// Keeps which profile made a task, if `response` says that one was made.
    pub(crate) fn learn_task(&self, profile: &ProfileName, response: &str) {
        let result = Envelope::parse(response).ok().and_then(|envelope| envelope.result);
        if let Some(result) = result.and_then(|result| Object::parse(result).ok()) {
            self.remember_task(profile, &result);
        }
    }

    /// Whether a message says that its session is gone, in AWS's words.
    pub(crate) fn says_expired(message: &str) -> bool {
        error_code(message) == Some(crate::protocol::AWS_SESSION_EXPIRED)
    }

    fn others(&self) -> Vec<Arc<Session>> {
        let sessions = lock(&self.sessions);
        sessions.values().filter(|session| !session.is_default).cloned().collect()
    }
}
