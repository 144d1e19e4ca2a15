//! The scripted replies of a test, instead of the usual responses.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::record::Received;
use super::reply::Reply;

type Hook = Box<dyn Fn(&Received) -> Option<Reply> + Send + Sync>;

/// Queues of replies, a hook, and a number of signatures to refuse.
#[derive(Default)]
pub(super) struct Script(Mutex<Parts>);

#[derive(Default)]
struct Parts {
    queues: HashMap<String, VecDeque<Reply>>,
    hook: Option<Hook>,
    refused_signatures: usize,
}

impl Script {
    /// Queues `reply` for the next message of `method`.
    pub(super) fn push(&self, method: &str, reply: Reply) {
        self.parts().queues.entry(method.to_owned()).or_default().push_back(reply);
    }

    /// Removes the replies for `method`.
    pub(super) fn clear(&self, method: &str) {
        self.parts().queues.remove(method);
    }

    /// Calls `hook` for every request without a queued reply.
    pub(super) fn hook(&self, hook: Hook) {
        self.parts().hook = Some(hook);
    }

    pub(super) fn refuse_signatures(&self, count: usize) {
        self.parts().refused_signatures += count;
    }

    /// Uses up one refusal, if there are any left.
    pub(super) fn take_refusal(&self) -> bool {
        let mut parts = self.parts();
        let refused = parts.refused_signatures > 0;
        parts.refused_signatures = parts.refused_signatures.saturating_sub(1);
        refused
    }

    /// The scripted reply for `request`, or [`Reply::Usual`]. The name of a queue is the JSON-RPC method, else the HTTP
    /// method: `GET`, `DELETE`.
    pub(super) fn take(&self, request: &Received) -> Reply {
        let name = match request.method() {
            "" => &request.http_method,
            method => method,
        };
        let mut parts = self.parts();
        if let Some(reply) = parts.queues.get_mut(name).and_then(VecDeque::pop_front) {
            return reply;
        }
        parts.hook.as_ref().and_then(|hook| hook(request)).unwrap_or(Reply::Usual)
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Script").finish_non_exhaustive()
    }
}
