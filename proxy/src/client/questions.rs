//! Requests of servers that the client hasn't answered yet.
//!
//! Two sessions may both use id 0 for a request. Towards the client each request gets a unique
//! number; the response goes back under the token that the server used.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::budget::Message;
use crate::session::{Ownership, Parcel, Session};
use crate::sync::lock;
use crate::wire::Id;

/// The most open requests of servers for one client. A client that doesn't answer would let them
/// accumulate, so the oldest is dropped.
const MAX_OPEN: usize = 1024;
/// Requests with longer ids or tokens are refused, because these are kept until the response.
const MAX_TOKEN: usize = 1024;

#[derive(Debug)]
pub(super) struct Questions {
    /// The prefix and suffix of ids that the proxy issues.
    affixes: (String, &'static str),
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Question>>,
    /// The receivers of the responses to the proxy's own requests.
    ours: Mutex<HashMap<u64, oneshot::Sender<String>>>,
}

/// A request of a server that waits for the client's response.
#[derive(Debug, Clone)]
pub(super) struct Question {
    /// The asking session.
    pub(super) asker: Asker,
    /// The id that the server used.
    pub(super) id: Id,
    /// The progress token that the server gave.
    progress_token: Option<String>,
}

/// A session at the time when it asked: a session that replaced it doesn't know the question.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    pub(crate) session: Arc<Session>,
    pub(crate) epoch: u64,
}

impl Asker {
    /// Sends a message about the question to its session. A session that replaced it doesn't get the message, because
    /// it may have used the same id for another question.
    pub(super) fn reply(self, message: Message) {
        self.session.enqueue(Parcel::of_epoch(self.epoch, message));
    }

    fn is(&self, session: &Arc<Session>, epoch: u64) -> bool {
        Arc::ptr_eq(&self.session, session) && self.epoch == epoch
    }
}

impl Questions {
    /// Where the client also sees the servers' ids, the issued ids have a unique prefix.
    pub(super) fn new(ownership: Ownership) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let affixes = match ownership {
            Ownership::Proxy => (String::new(), ""),
            Ownership::Hosted | Ownership::Client | Ownership::Nobody => {
                (format!("\"sigward-{}-", NEXT.fetch_add(1, Ordering::Relaxed)), "\"")
            }
        };
        Self { affixes, next: AtomicU64::new(0), open: Mutex::default(), ours: Mutex::default() }
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn id(&self, number: u64) -> Id {
        Id::from_token(&format!("{}{number}{}", self.affixes.0, self.affixes.1))
    }

    /// The number in an issued id.
    fn number_in(&self, id: &str) -> Option<u64> {
        let digits = id.strip_prefix(self.affixes.0.as_str())?.strip_suffix(self.affixes.1)?;
        digits.parse().ok().filter(|number| self.id(*number).token() == id)
    }

    /// Stores a question, and returns the id for the client and the question that was dropped to
    /// make room; `None` if it can't be stored.
    pub(super) fn ask(
        &self,
        asker: Asker,
        id: Id,
        progress_token: Option<&str>,
    ) -> Option<(Id, Option<Question>)> {
        let longest = id.token().len().max(progress_token.map_or(0, str::len));
        if longest > MAX_TOKEN {
            return None;
        }
        let mut open = lock(&self.open);
        let oldest = if open.len() >= MAX_OPEN { open.pop_first() } else { None };
        let number = self.number();
        let progress_token = progress_token.map(str::to_owned);
        open.insert(number, Question { asker, id, progress_token });
        Some((self.id(number), oldest.map(|(_, question)| question)))
    }

    /// Issues an id for a question of the proxy itself; the response goes to `answer`.
    pub(super) fn ask_for_proxy(&self, answer: oneshot::Sender<String>) -> Id {
        let number = self.number();
        let mut ours = lock(&self.ours);
        ours.retain(|_, waiting| !waiting.is_closed());
        ours.insert(number, answer);
        self.id(number)
    }

    /// Delivers the response to a question of the proxy itself. Returns whether `id` was one.
    pub(super) fn take_proxy_answer(&self, id: &str, response: &str) -> bool {
        let number = self.number_in(id);
        match number.and_then(|number| lock(&self.ours).remove(&number)) {
            // If the receiver is gone, the question is no longer relevant.
            Some(waiting) => {
                let _ = waiting.send(response.to_owned());
                true
            }
            None => false,
        }
    }

    /// Removes and returns the question that the client answers under `id`.
    pub(super) fn take(&self, id: &str) -> Option<Question> {
        let number = self.number_in(id)?;
        lock(&self.open).remove(&number)
    }

    /// Removes the question that a session asked under `id`, and returns the id that the client
    /// knows.
    pub(super) fn withdraw(&self, session: &Arc<Session>, epoch: u64, id: &Id) -> Option<Id> {
        let mut open = lock(&self.open);
        let number = open
            .iter()
            .find(|(_, question)| question.asker.is(session, epoch) && question.id == *id)
            .map(|(number, _)| *number)?;
        open.remove(&number);
        Some(self.id(number))
    }

    /// Removes all questions of a lost session, and returns the ids that the client knows.
    pub(super) fn withdraw_all(&self, session: &Arc<Session>, epoch: u64) -> Vec<Id> {
        let mut open = lock(&self.open);
        let lost = open.extract_if(.., |_, question| question.asker.is(session, epoch));
        lost.map(|(number, _)| self.id(number)).collect()
    }

    /// Whether the proxy issued `token`, even if its question is closed. A message with such a
    /// token isn't for any server.
    pub(super) fn has_issued(&self, token: &str) -> bool {
        let next = self.next.load(Ordering::Relaxed);
        self.number_in(token).is_some_and(|number| number < next)
    }

    /// The session that receives progress under `token` (the id that the client knows), and the server's own token.
    pub(super) fn in_progress(&self, token: &str) -> Option<(Asker, String)> {
        let number = self.number_in(token)?;
        let open = lock(&self.open);
        let question = open.get(&number)?;
        Some((question.asker.clone(), question.progress_token.clone()?))
    }
}
