//! Processes responses of servers for the client: records what they mean for later, and rewrites them where needed.

use std::sync::Arc;

use bytes::Bytes;

use super::annotation::{self, annotated};
use super::announced::Announced;
use super::learn::learn;
use super::sessions::Sessions;
use super::shared::Shared;
use crate::exchange::OnResponse;
use crate::request::Request;
use crate::session::{Context, Session};
use crate::tasks::Tasks;
use crate::tools::Catalog;
use crate::wire::Envelope;

/// The parts of a client that reading a response needs.
#[derive(Debug)]
pub(super) struct Responses {
    pub(super) shared: Arc<Shared>,
    pub(super) context: Arc<Context>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) tasks: Arc<Tasks>,
    pub(super) announced: Arc<Announced>,
}

impl Responses {
    /// How the response to a call of an HTTP client is processed.
    pub(super) fn on_response(
        self: &Arc<Self>,
        call: &Request,
        session: &Arc<Session>,
        body: Bytes,
    ) -> OnResponse {
        let (responses, call, session) = (Arc::clone(self), call.clone(), Arc::clone(session));
        let has_more = self.shared.show_identity || session.has_notice();
        let is_annotated = has_more && call.is_tool_call();
        let needs_whole = call.method() == "tools/list" || is_annotated;
        let inspect = Box::new(move |text: &str| responses.respond(&call, &session, &body, text));
        OnResponse { inspect, needs_whole }
    }

    /// The client's version of the response to `call`, which was sent over `session` as `body`;
    /// `None` if it is unchanged.
    pub(super) fn respond(
        &self,
        call: &Request,
        session: &Arc<Session>,
        body: &[u8],
        text: &str,
    ) -> Option<String> {
        if call.method() == "tools/list" {
            if self.shared.offer.is_choice() {
                self.shared.metadata.follow();
            }
            let describe = |profile: &_| self.shared.metadata.description(profile);
            // An HTTP client itself decides which tools to drop for their headers.
            let mirrors = call.is_stateless() && self.context.ownership.is_proxy();
            return self.catalog.rewrite(text, mirrors, &self.shared.offer, describe);
        }
        learn((&self.context, &self.sessions, &self.tasks), call, session, body, text);
        if call.method() == "logging/setLevel"
            && let Some(params) = call.params()
            && Envelope::parse(text).is_ok_and(|envelope| envelope.result.is_some())
        {
            self.announced.set_level(params);
        }
        if call.is_tool_call() { self.annotated(session, text) } else { None }
    }

    /// A tool's result with the identity and the notice for the agent.
    fn annotated(&self, session: &Session, text: &str) -> Option<String> {
        let notice = session.take_notice();
        let shown = self.shared.show_identity;
        if notice.is_none() && !shown {
            return None;
        }
        let identity = shown.then(|| self.shared.metadata.identity(&session.profile));
        let identity = identity.as_deref().map(|identity| (annotation::IDENTITY, identity));
        let notice = notice.as_deref().map(|notice| (annotation::NOTICE, notice));
        annotated(text, &identity.into_iter().chain(notice).collect::<Vec<_>>())
    }
}
