//! What a response means for later, and what the client sees of it.

use std::sync::Arc;

use super::{Outbound, Relay};
use crate::client::lock;
use crate::config::ProfileName;
use crate::session::Session;
use crate::wire::{Envelope, Object};

/// Tasks whose profile is remembered.
const MAX_TASKS: usize = 4096;
/// The longest response that may be about a task that was made: it has no content yet.
const MAX_CREATED: usize = 64 << 10;
/// Longer ids of tasks aren't remembered: theirs are the default profile's.
const MAX_TASK_ID: usize = 1024;

impl Relay {
    /// The client's version of a response; `None` where that is the server's.
    pub(super) fn respond(&self, request: &Outbound<'_>, text: &str) -> Option<String> {
        if request.call.method() == "tools/list" {
            let describe = |profile: &_| self.shared.metadata.description(profile);
            let stateless = request.call.is_stateless();
            return self.catalog.rewrite(text, stateless, &self.shared.offer, describe);
        }
        self.learn(request, text);
        None
    }

    /// Keeps what a successful response means for later: log levels and subscriptions to replay,
    /// tasks and their profile.
    fn learn(&self, request: &Outbound<'_>, response: &str) {
        let method = request.call.method();
        let session = request.exchange.session;
        let result = || Envelope::parse(response).ok().and_then(|it| it.result).is_some();
        match method {
            "logging/setLevel" if result() => {
                if let Some(params) = request.call.params() {
                    self.context.handshake.log_level(params);
                    self.set_level(params);
                }
            }
            "resources/subscribe" | "resources/unsubscribe" if result() => {
                let params = request.params();
                if let Some(uri) = request.call.uri() {
                    let kept = params.filter(|_| method == "resources/subscribe");
                    session.subscribed(uri, kept);
                }
            }
            "tools/call" => self.learn_task(&session.profile, response),
            _ => {}
        }
    }

    /// Keeps which profile made a task, if `response` says that one was made.
    pub(crate) fn learn_task(&self, profile: &ProfileName, response: &str) {
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
    pub(crate) fn set_level(&self, params: &str) {
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
