//! Requests of servers that the client hasn't answered yet.
//!
//! Two sessions may both ask under id 0; towards the client each question gets a number of its own,
//! and its answer goes back under the token that the server used.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::lock;
use crate::session::{Ownership, Session};
use crate::wire::Id;

/// Questions of one client that are open at a time: more are refused.
const MAX_OPEN: usize = 1024;
/// Longer ids and tokens are refused with their question: they are kept until it is answered.
const MAX_TOKEN: usize = 1024;

#[derive(Debug)]
pub(super) struct Questions {
    /// What the ids that we give begin and end with.
    affixes: (String, &'static str),
    next: AtomicU64,
    open: Mutex<HashMap<String, Question>>,
    /// Questions of our own: who waits for the answer.
    ours: Mutex<HashMap<String, oneshot::Sender<String>>>,
}

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Question {
    /// Who asked.
    pub(super) asker: Asker,
    /// Under which id.
    pub(super) id: Id,
    progress_token: Option<String>,
}

/// A session as it was when it asked: one that was opened in its place knows nothing of the question.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    pub(super) session: Arc<Session>,
    pub(super) generation: u64,
}

impl Questions {
    /// Where the client sees the server's own ids beside ours, ours are like no other.
    pub(super) fn new(ownership: Ownership) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let affixes = match ownership {
            Ownership::Proxy => (String::new(), ""),
            Ownership::Client | Ownership::Nobody => {
                (format!("\"sigward-{}-", NEXT.fetch_add(1, Ordering::Relaxed)), "\"")
            }
        };
        Self { affixes, next: AtomicU64::new(0), open: Mutex::default(), ours: Mutex::default() }
    }

    fn number(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{}{number}{}", self.affixes.0, self.affixes.1)
    }

    /// Whether `id` is one under which the client was asked.
    pub(super) fn knows(&self, id: &str) -> bool {
        lock(&self.open).contains_key(id) || lock(&self.ours).contains_key(id)
    }

    /// The id under which the client is asked; `None` if this is more than it can be asked.
    pub(super) fn ask(&self, asker: Asker, id: Id, progress_token: Option<&str>) -> Option<Id> {
        let mut open = lock(&self.open);
        let longest = id.token().len().max(progress_token.map_or(0, str::len));
        if open.len() >= MAX_OPEN || longest > MAX_TOKEN {
            return None;
        }
        let number = self.number();
        let progress_token = progress_token.map(str::to_owned);
        open.insert(number.clone(), Question { asker, id, progress_token });
        Some(Id::from_token(&number))
    }

    /// The id under which the client is asked by the proxy itself; its response goes to `answer`.
    pub(super) fn ask_ourselves(&self, answer: oneshot::Sender<String>) -> Id {
        let number = self.number();
        let mut ours = lock(&self.ours);
        ours.retain(|_, waiting| !waiting.is_closed());
        ours.insert(number.clone(), answer);
        Id::from_token(&number)
    }

    /// Hands over the response to a question of our own, if `id` is one.
    pub(super) fn answer_ourselves(&self, id: &str, response: &str) -> bool {
        match lock(&self.ours).remove(id) {
            // Nobody waits any more: the question has settled itself.
            Some(waiting) => {
                let _ = waiting.send(response.to_owned());
                true
            }
            None => false,
        }
    }

    /// The question that the client answers under `id`.
    pub(super) fn take(&self, id: &str) -> Option<Question> {
        lock(&self.open).remove(id)
    }

    /// Takes back what a session asked under `id`; the id that the client knows.
    pub(super) fn withdraw(&self, session: &Arc<Session>, id: &Id) -> Option<Id> {
        let mut open = lock(&self.open);
        let number = open
            .iter()
            .find(|(_, question)| {
                Arc::ptr_eq(&question.asker.session, session) && question.id == *id
            })
            .map(|(number, _)| number.clone())?;
        open.remove(&number);
        Some(Id::from_token(&number))
    }

    /// Who asked under a progress token.
    pub(super) fn asker_of(&self, token: &str) -> Option<Asker> {
        lock(&self.open)
            .values()
            .find(|question| question.progress_token.as_deref() == Some(token))
            .map(|question| question.asker.clone())
    }
}
