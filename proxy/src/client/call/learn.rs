//! What a response means for later, and what the client sees of it.

use std::sync::Arc;

use super::Relay;
use crate::client::lock;
use crate::config::ProfileName;
use crate::request::Request;
use crate::session::{Ownership, Session};
use crate::wire::{Envelope, Object};

/// Tasks whose profile is remembered.
const MAX_TASKS: usize = 4096;
/// The longest response that may be about a task that was made: it has no content yet.
const MAX_CREATED: usize = 64 << 10;
/// Longer ids of tasks aren't remembered: theirs are the default profile's.
const MAX_TASK_ID: usize = 1024;

impl Relay {
    /// The client's version of the response to `call`, which went over `session` as `body`; `None`
    /// where that is the server's.
    pub(super) fn respond(
        &self,
        call: &Request,
        session: &Arc<Session>,
        body: &[u8],
        text: &str,
    ) -> Option<String> {
        if call.method() == "tools/list" {
            let describe = |profile: &_| self.shared.metadata.description(profile);
            // Which tools an HTTP client leaves out for their headers is for that client to decide.
            let mirrors = call.is_stateless() && self.context.ownership == Ownership::Proxy;
            return self.catalog.rewrite(text, mirrors, &self.shared.offer, describe);
        }
        self.learn(call, session, body, text);
        None
    }

    /// Keeps what a successful response means for later: log levels and subscriptions to replay,
    /// tasks and their profile.
    fn learn(&self, call: &Request, session: &Arc<Session>, body: &[u8], response: &str) {
        let method = call.method();
        let result = || Envelope::parse(response).ok().and_then(|it| it.result).is_some();
        match method {
            "logging/setLevel" if result() => {
                if let Some(params) = call.params() {
                    self.context.handshake.log_level(params);
                    self.set_level(params);
                }
            }
            "resources/subscribe" | "resources/unsubscribe" if self.renews(session) && result() => {
                if let Some(uri) = call.uri() {
                    // Without what chose the profile.
                    let sent = std::str::from_utf8(body).ok();
                    let params = sent.and_then(|it| Envelope::parse(it).ok()?.params);
                    let kept = params.filter(|_| method == "resources/subscribe");
                    session.subscribed(uri, kept);
                }
            }
            "tools/call" => self.learn_task(&session.profile, response),
            _ => {}
        }
    }

    /// Whether the proxy opens another session in the place of this one, where it is lost.
    fn renews(&self, session: &Session) -> bool {
        !session.is_default || self.context.ownership == Ownership::Proxy
    }

    /// Keeps which profile made a task, if `response` says that one was made.
    fn learn_task(&self, profile: &ProfileName, response: &str) {
        // Nearly every response is done here.
        if response.len() > MAX_CREATED
            || memchr::memmem::find(response.as_bytes(), b"\"taskId\"").is_none()
        {
            return;
        }
        let result = Envelope::parse(response).ok().and_then(|envelope| envelope.result);
        if let Some(result) = result.and_then(|result| Object::parse(result).ok()) {
            self.remember_task(profile, &result);
        }
    }

    /// Keeps which profile made a task, if `result` is about one.
    fn remember_task(&self, profile: &ProfileName, result: &Object<'_>) {
        let task = result.find_object("task");
        let id = task.as_ref().unwrap_or(result).find_string("taskId");
        if let Some(id) = id.filter(|id| id.len() <= MAX_TASK_ID) {
            let mut tasks = lock(&self.tasks);
            // Told twice, or used again: the last one counts.
            tasks.retain(|(known, _)| *known != id);
            if tasks.len() == MAX_TASKS {
                tasks.pop_front();
            }
            tasks.push_back((id.into_owned(), profile.clone()));
        }
    }

    /// Tells the sessions of the other profiles, where they are open.
    fn set_level(&self, params: &str) {
        let open: Vec<Arc<Session>> = lock(&self.sessions).values().cloned().collect();
        for session in open.into_iter().filter(|session| !session.is_default) {
            let params = params.to_owned();
            self.work.spawn(async move {
                if let Some(live) = session.current() {
                    session.tell(&live, "logging/setLevel", &params).await;
                }
            });
        }
    }
}
