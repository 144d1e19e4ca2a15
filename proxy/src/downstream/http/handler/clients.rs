//! The clients that have a session with the server, by its id.
//!
//! The id is the server's own, passed through. With each goes what the proxy adds: the sessions of
//! the other profiles. They end with it, or when nothing has been heard of it for long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::HeaderValue;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::losses::Losses;
use super::stream::Inbox;
use super::unfinished::Unfinished;
use crate::budget::{Budget, Message};
use crate::client::{CLIENTS, Client, InFlight, Outlet, Shared};
use crate::request::Request;
use crate::session::Ownership;
use crate::wire::Id;

/// More sessions than this at a time are refused.
const MAX_SESSIONS: usize = 4096;
/// A client that is silent for so long, with no stream open, is gone.
const IDLE: Duration = Duration::from_secs(3600);
/// Messages of servers that wait for a client to open its GET stream. Some clients never do, and the
/// small ones among these messages are in no budget.
const WAITING: usize = 16;

/// A client's part of the memory of requests has room for one of the largest.
const PARTS: usize = 2;

/// The part of the memory that is for one connection: where there are no sessions, nothing else tells
/// one client from another.
#[derive(Debug)]
pub(crate) struct Part {
    pub(super) requests: Budget,
    messages: Budget,
}

impl Part {
    pub(super) fn new(shared: &Shared) -> Self {
        let messages = shared.messages.of_client(CLIENTS);
        Self { requests: shared.requests.of_client(PARTS), messages }
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct HttpClient {
    pub(super) mcp: Arc<Client>,
    /// What the other profiles' servers say on their own account.
    inbox: Arc<tokio::sync::Mutex<mpsc::Receiver<Message>>>,
    heard: Mutex<Instant>,
    pub(super) unfinished: Unfinished,
    /// Its part of the memory that requests take.
    pub(super) requests: Budget,
}

impl HttpClient {
    pub(super) fn new(shared: Arc<Shared>, ownership: Ownership) -> Arc<Self> {
        let (out, inbox) = mpsc::channel(WAITING);
        Arc::new(Self {
            requests: shared.requests.of_client(PARTS),
            mcp: Client::new(shared, ownership, out),
            inbox: Arc::new(tokio::sync::Mutex::new(inbox)),
            heard: Mutex::new(Instant::now()),
            unfinished: Unfinished::default(),
        })
    }

    /// Waits for the turn to read the inbox: a message goes to one of the client's streams.
    pub(super) fn inbox(&self) -> BoxFuture<'static, Inbox> {
        Arc::clone(&self.inbox).lock_owned().boxed()
    }
}

/// A client that is served: it isn't idle while one of these is there.
#[derive(Debug)]
pub(super) struct Busy(pub(super) Arc<HttpClient>);

impl Busy {
    fn new(client: &Arc<HttpClient>) -> Self {
        *lock(&client.heard) = Instant::now();
        Self(Arc::clone(client))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        *lock(&self.0.heard) = Instant::now();
    }
}

/// A request in flight, until this is dropped.
#[derive(Debug)]
pub(super) struct Registered {
    pub(super) client: Busy,
    pub(super) flight: Arc<InFlight>,
    /// Under which it can be cancelled. Clients without a session may use one id at the same time.
    id: Option<Id>,
}

impl Registered {
    /// Takes note of a request whose messages go to `out`; an error says why that can't be.
    /// `part` is of the connection that it came over.
    pub(super) fn begin(
        client: Busy,
        call: &Request,
        out: Outlet,
        part: &Part,
    ) -> Result<Self, &'static str> {
        let id = client.0.mcp.has_session().then(|| call.id().clone());
        let flight = match id {
            Some(_) => client.0.mcp.register(call, out)?,
            None => InFlight::within(call, out, Some(part.messages.clone())),
        };
        Ok(Self { client, flight, id })
    }
}

impl Registered {
    /// A call whose answer its client takes up again. It was registered, and may still be, where the
    /// end of its connection wasn't seen yet.
    pub(super) fn resumed(client: Busy, call: &Request) -> Self {
        Self { client, flight: InFlight::new(call, mpsc::channel(1).0), id: None }
    }

    /// Where the client's calls are found whose answer isn't complete.
    pub(super) fn unfinished(&self) -> &Unfinished {
        &self.client.0.unfinished
    }

    /// Whose request it is.
    pub(super) fn client(&self) -> &Arc<Client> {
        &self.client.0.mcp
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(id) = &self.id {
            self.client.0.mcp.forget(id, &self.flight);
        }
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Clients {
    shared: Arc<Shared>,
    /// Where there are no sessions, all clients are one.
    nobody: Arc<HttpClient>,
    by_session: Mutex<HashMap<HeaderValue, Arc<HttpClient>>>,
    /// What clients had in sessions that their servers dropped.
    losses: Losses,
}

impl Clients {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let nobody = HttpClient::new(Arc::clone(&shared), Ownership::Nobody);
        Self { shared, nobody, by_session: Mutex::default(), losses: Losses::default() }
    }

    /// The client of a session; `None` if there is no such session (any more).
    pub(super) fn find(&self, session: Option<&HeaderValue>) -> Option<Busy> {
        match session {
            None => Some(Busy::new(&self.nobody)),
            Some(id) => lock(&self.by_session).get(id).map(Busy::new),
        }
    }

    /// A client that is about to open a session; `None` if there are too many.
    pub(super) fn begin(&self) -> Option<Busy> {
        (lock(&self.by_session).len() < MAX_SESSIONS)
            .then(|| Busy::new(&HttpClient::new(Arc::clone(&self.shared), Ownership::Client)))
    }

    /// A client whose session is the proxy's own; `None` if there are too many.
    pub(super) fn begin_hosted(&self) -> Option<Busy> {
        (lock(&self.by_session).len() < MAX_SESSIONS)
            .then(|| Busy::new(&HttpClient::new(Arc::clone(&self.shared), Ownership::Hosted)))
    }

    /// The server gave the client's session this id. The client that had it before, if one did, which
    /// must be ended.
    #[must_use]
    pub(super) fn insert(
        &self,
        id: HeaderValue,
        client: Arc<HttpClient>,
    ) -> Option<Arc<HttpClient>> {
        lock(&self.by_session).insert(id, client)
    }

    /// The server no longer knows the session: its client will open another.
    pub(super) fn lose(&self, id: &HeaderValue) -> Option<Arc<HttpClient>> {
        let client = self.remove(id)?;
        if let Some((params, profiles)) = client.mcp.losses() {
            self.losses.add(&params, profiles, Instant::now());
        }
        Some(client)
    }

    /// A client has opened a session with these `params`. Where it is one that had another before, it is told what is gone.
    pub(super) fn opened(&self, client: &HttpClient, params: &str) {
        if let Some(profiles) = self.losses.take(params, Instant::now()) {
            client.mcp.replaces(&profiles);
        }
    }

    /// The session has ended.
    pub(super) fn remove(&self, id: &HeaderValue) -> Option<Arc<HttpClient>> {
        lock(&self.by_session).remove(id)
    }

    /// Takes out the clients that have been silent for too long.
    pub(super) fn take_idle(&self, now: Instant) -> Vec<Arc<HttpClient>> {
        let is_idle = |client: &Arc<HttpClient>| {
            Arc::strong_count(client) == 1 && now.duration_since(*lock(&client.heard)) >= IDLE
        };
        let mut clients = lock(&self.by_session);
        clients.extract_if(|_, client| is_idle(client)).map(|(_, client)| client).collect()
    }

    /// Takes all out.
    pub(super) fn take_all(&self) -> Vec<Arc<HttpClient>> {
        let mut all: Vec<_> = lock(&self.by_session).drain().map(|(_, client)| client).collect();
        all.push(Arc::clone(&self.nobody));
        all
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
