//! The HTTP clients, by session id.
//!
//! The id is the server's own, forwarded unchanged. The proxy adds the sessions of the other
//! profiles to each client. They end with the client, or when it has been idle for too long.

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

/// The most sessions at a time; further ones are refused.
const MAX_SESSIONS: usize = 4096;
/// A client that is idle for this time, with no stream open, is closed.
const IDLE: Duration = Duration::from_secs(3600);
/// The most messages of servers that wait for a client to open its GET stream. Some clients never do, and small
/// messages are in no memory budget.
const WAITING: usize = 16;

/// Half of the memory for requests: a client's share has room for one request of the largest size.
const PARTS: usize = 2;

/// The share of the memory for one connection. Without sessions, only the connection distinguishes clients.
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

/// An HTTP client.
#[derive(Debug)]
pub(super) struct HttpClient {
    pub(super) mcp: Arc<Client>,
    /// Unsolicited messages of the servers of other profiles.
    inbox: Arc<tokio::sync::Mutex<mpsc::Receiver<Message>>>,
    last_active: Mutex<Instant>,
    pub(super) unfinished: Unfinished,
    /// Its share of the memory for requests.
    pub(super) requests: Budget,
}

impl HttpClient {
    pub(super) fn new(shared: Arc<Shared>, ownership: Ownership) -> Arc<Self> {
        let (out, inbox) = mpsc::channel(WAITING);
        Arc::new(Self {
            requests: shared.requests.of_client(PARTS),
            mcp: Client::new(shared, ownership, out),
            inbox: Arc::new(tokio::sync::Mutex::new(inbox)),
            last_active: Mutex::new(Instant::now()),
            unfinished: Unfinished::default(),
        })
    }

    /// Waits for the turn to read the inbox: each message goes to one of the client's streams.
    pub(super) fn inbox(&self) -> BoxFuture<'static, Inbox> {
        Arc::clone(&self.inbox).lock_owned().boxed()
    }
}

/// A client with a request or a stream in progress: it isn't idle while one of these exists.
#[derive(Debug)]
pub(super) struct Busy(pub(super) Arc<HttpClient>);

impl Busy {
    fn new(client: &Arc<HttpClient>) -> Self {
        *lock(&client.last_active) = Instant::now();
        Self(Arc::clone(client))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        *lock(&self.0.last_active) = Instant::now();
    }
}

/// A request in flight, until this is dropped.
#[derive(Debug)]
pub(super) struct Registered {
    pub(super) client: Busy,
    pub(super) flight: Arc<InFlight>,
    /// The id under which it can be cancelled. Clients without a session may use one id at the same
    /// time, so that theirs is `None`.
    id: Option<Id>,
}

impl Registered {
    /// Registers a request whose messages go to `out`. The error is the reason for a refusal.
    /// `part` is the share of its connection.
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
    /// A call whose answer its client resumes. It isn't registered again, because it may still be registered if the end
    /// of its connection wasn't noticed yet.
    pub(super) fn resumed(client: Busy, call: &Request) -> Self {
        Self { client, flight: InFlight::new(call, mpsc::channel(1).0), id: None }
    }

    /// The client's calls whose answer isn't complete.
    pub(super) fn unfinished(&self) -> &Unfinished {
        &self.client.0.unfinished
    }

    /// The client of the request.
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

/// All HTTP clients.
#[derive(Debug)]
pub(super) struct Clients {
    shared: Arc<Shared>,
    /// Represents all clients without a session, which can't be told apart.
    without_session: Arc<HttpClient>,
    by_session: Mutex<HashMap<HeaderValue, Arc<HttpClient>>>,
    /// The used sessions that clients have lost.
    losses: Losses,
}

impl Clients {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let without_session = HttpClient::new(Arc::clone(&shared), Ownership::Nobody);
        Self { shared, without_session, by_session: Mutex::default(), losses: Losses::default() }
    }

    /// The client of a session; `None` if the session is unknown.
    pub(super) fn find(&self, session: Option<&HeaderValue>) -> Option<Busy> {
        match session {
            None => Some(Busy::new(&self.without_session)),
            Some(id) => lock(&self.by_session).get(id).map(Busy::new),
        }
    }

    /// A client that is about to open a session; `None` if there are too many.
    pub(super) fn begin(&self) -> Option<Busy> {
        (lock(&self.by_session).len() < MAX_SESSIONS)
            .then(|| Busy::new(&HttpClient::new(Arc::clone(&self.shared), Ownership::Client)))
    }

    /// A client whose session the proxy itself hosts; `None` if there are too many.
    pub(super) fn begin_hosted(&self) -> Option<Busy> {
        (lock(&self.by_session).len() < MAX_SESSIONS)
            .then(|| Busy::new(&HttpClient::new(Arc::clone(&self.shared), Ownership::Hosted)))
    }

    /// Stores the client under the id that the server gave to its session. Returns the client that had this id before,
    /// which the caller must close.
    #[must_use]
    pub(super) fn insert(
        &self,
        id: HeaderValue,
        client: Arc<HttpClient>,
    ) -> Option<Arc<HttpClient>> {
        lock(&self.by_session).insert(id, client)
    }

    /// Removes a client whose session the server no longer has, and stores what it has lost.
    pub(super) fn lose(&self, id: &HeaderValue) -> Option<Arc<HttpClient>> {
        let client = self.remove(id)?;
        if let Some((params, profiles)) = client.mcp.losses() {
            self.losses.add(&params, profiles, Instant::now());
        }
        Some(client)
    }

    /// Notifies a client that has opened a session with these `params` if it lost another one before.
    pub(super) fn opened(&self, client: &HttpClient, params: &str) {
        if let Some(profiles) = self.losses.take(params, Instant::now()) {
            client.mcp.replaces(&profiles);
        }
    }

    /// Removes a client whose session has ended.
    pub(super) fn remove(&self, id: &HeaderValue) -> Option<Arc<HttpClient>> {
        lock(&self.by_session).remove(id)
    }

    /// Removes and returns the idle clients.
    pub(super) fn take_idle(&self, now: Instant) -> Vec<Arc<HttpClient>> {
        let is_idle = |client: &Arc<HttpClient>| {
            Arc::strong_count(client) == 1 && now.duration_since(*lock(&client.last_active)) >= IDLE
        };
        let mut clients = lock(&self.by_session);
        clients.extract_if(|_, client| is_idle(client)).map(|(_, client)| client).collect()
    }

    /// Removes and returns all clients.
    pub(super) fn take_all(&self) -> Vec<Arc<HttpClient>> {
        let mut all: Vec<_> = lock(&self.by_session).drain().map(|(_, client)| client).collect();
        all.push(Arc::clone(&self.without_session));
        all
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
