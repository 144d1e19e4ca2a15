//! Requests of servers that the client hasn't answered yet.
//!
//! Two sessions may both ask under id 0; towards the client each question gets a number of its own,
//! and its answer goes back under the token that the server used.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::budget::Message;
use crate::session::{Ownership, Parcel, Session};
use crate::sync::lock;
use crate::wire::Id;

/// Questions of one client that are open at a time. Those that nobody answers would pile up: the
/// oldest makes room.
const MAX_OPEN: usize = 1024;
/// Longer ids and tokens are refused with their question: they are kept until it is answered.
const MAX_TOKEN: usize = 1024;

#[derive(Debug)]
pub(super) struct Questions {
    /// What the ids that we give begin and end with.
    affixes: (String, &'static str),
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Question>>,
    /// The receivers of the answers to our own questions.
    ours: Mutex<HashMap<u64, oneshot::Sender<String>>>,
}

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Question {
    /// Who asked.
    pub(super) asker: Asker,
    /// Under which id.
    pub(super) id: Id,
    /// The token under which it wants to hear of progress.
    progress_token: Option<String>,
}

/// A session as it was when it asked: one that was opened in its place knows nothing of the question.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    pub(crate) session: Arc<Session>,
    pub(crate) epoch: u64,
}

impl Asker {
    /// Sends it what concerns its question. A session in its place may have a question of its own under
    /// the same id.
    pub(super) fn reply(self, message: Message) {
        self.session.enqueue(Parcel::of_epoch(self.epoch, message));
    }

    fn is(&self, session: &Arc<Session>, epoch: u64) -> bool {
        Arc::ptr_eq(&self.session, session) && self.epoch == epoch
    }
}

impl Questions {
    /// Where the client sees the server's own ids beside ours, ours are like no other.
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

    /// The number in an id that we gave.
    fn number_in(&self, id: &str) -> Option<u64> {
        let digits = id.strip_prefix(self.affixes.0.as_str())?.strip_suffix(self.affixes.1)?;
        digits.parse().ok().filter(|number| self.id(*number).token() == id)
    }

    /// Keeps a question, and gives it the id under which the client is asked; `None` if it can't be
    /// kept. Beside it, the question that had to make room.
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

    /// The id under which the client is asked by the proxy itself; its response goes to `answer`.
    pub(super) fn ask_ourselves(&self, answer: oneshot::Sender<String>) -> Id {
        let number = self.number();
        let mut ours = lock(&self.ours);
        ours.retain(|_, waiting| !waiting.is_closed());
        ours.insert(number, answer);
        self.id(number)
    }

    /// Hands over the response to a question of our own, if `id` is one.
    pub(super) fn answer_ourselves(&self, id: &str, response: &str) -> bool {
        let number = self.number_in(id);
        match number.and_then(|number| lock(&self.ours).remove(&number)) {
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
        let number = self.number_in(id)?;
        lock(&self.open).remove(&number)
    }

    /// Takes back what a session asked under `id`; the id that the client knows.
    pub(super) fn withdraw(&self, session: &Arc<Session>, epoch: u64, id: &Id) -> Option<Id> {
        let mut open = lock(&self.open);
        let number = open
            .iter()
            .find(|(_, question)| question.asker.is(session, epoch) && question.id == *id)
            .map(|(number, _)| *number)?;
        open.remove(&number);
        Some(self.id(number))
    }

    /// Takes back all that a session asked, which is lost; the ids that the client knows.
    pub(super) fn withdraw_all(&self, session: &Arc<Session>, epoch: u64) -> Vec<Id> {
        let mut open = lock(&self.open);
        let lost = open.extract_if(.., |_, question| question.asker.is(session, epoch));
        lost.map(|(number, _)| self.id(number)).collect()
    }

    /// Whether `token` is one that we gave, be its question still open or not. What has it is for
    /// nobody else.
    pub(super) fn gave(&self, token: &str) -> bool {
        let next = self.next.load(Ordering::Relaxed);
        self.number_in(token).is_some_and(|number| number < next)
    }

    /// Who hears of progress under `token`, which is the id that the question has at the client, and
    /// the token that the server gave it.
    pub(super) fn in_progress(&self, token: &str) -> Option<(Asker, String)> {
        let number = self.number_in(token)?;
        let open = lock(&self.open);
        let question = open.get(&number)?;
        Some((question.asker.clone(), question.progress_token.clone()?))
    }
}
