//! The life of one HTTP request of a client that speaks Streamable HTTP itself.
//!
//! For the default profile, and for all of 2026-07-28, this is a reverse proxy: the request goes on
//! with a signature, and status, headers and events come back as they are. What it changes is what
//! the profile argument needs. A call of another profile goes, where the protocol has sessions, over
//! a session of that profile, which belongs to the client's own and ends with it.

mod answer;
mod body;
mod clients;
mod deadline;
mod headers;
mod own;
mod passing;
mod post;
mod rule;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use tokio::time::Instant;

pub(crate) use self::body::{Body, full, until};
use self::clients::{Busy, Clients};
use crate::budget::Budget;
use crate::client::{GRACE, Shared};
use crate::error::Error;
use crate::protocol::LAST_EVENT_ID;
use crate::upstream::{Outgoing, Passed, SESSION_ID, Sent};

pub(crate) use self::answer::{refusal, unknown_session};

/// How often clients that are gone are looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// All clients of a listening proxy.
#[derive(Debug)]
pub struct Reverse {
    shared: Arc<Shared>,
    clients: Arc<Clients>,
}

impl Reverse {
    /// A reverse proxy without clients.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { clients: Arc::new(Clients::new(Arc::clone(&shared))), shared })
    }

    /// Ends the sessions of clients that are gone without a word; never returns.
    pub async fn sweep(&self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            for client in self.clients.take_idle(Instant::now()) {
                tracing::info!("a session ends: nothing was heard of its client for an hour");
                client.relay.close(GRACE).await;
            }
        }
    }

    /// Ends all sessions, and whatever is still at work.
    pub async fn close(&self) {
        let clients = self.clients.take_all();
        let closing = clients.iter().map(|client| client.relay.close(Duration::ZERO));
        futures_util::future::join_all(closing).await;
    }

    /// The memory of the requests of the client that sends `headers`; none if it names a session that
    /// there isn't.
    pub(crate) fn requests(&self, headers: &HeaderMap) -> Option<Budget> {
        self.client(headers).map(|client| client.0.requests.clone())
    }

    /// The stream of what the server says on its own account, or the rest of one that was cut.
    pub(crate) async fn get(&self, headers: &HeaderMap) -> Response<Body> {
        let Some(client) = self.client(headers) else { return answer::unknown_session() };
        let budget = client.0.relay.budget().clone();
        let out = self.outgoing(&client, Method::GET, headers, Bytes::new());
        let passed = client.0.relay.upstream().pass(out).await;
        match passed {
            Ok(Passed::Success(response)) => {
                // The rest of a stream that was cut ends with its response; the messages of other
                // profiles are for a stream that stays.
                let stays = !headers.contains_key(LAST_EVENT_ID);
                let inbox = (stays && client.0.relay.has_session()).then(|| client.0.inbox());
                answer::stream(response, &budget, client, |passing| match inbox {
                    Some(inbox) => passing.with(inbox),
                    None => passing,
                })
            }
            Ok(Passed::Failure { failure, headers: answered, body }) => {
                let is_lost = self.forget_if_lost(headers, &failure);
                answer::failure(None, failure, is_lost, &answered, body)
            }
            Err(error) => answer::unreachable(&error),
        }
    }

    /// The client ends its session.
    pub(crate) async fn delete(&self, headers: &HeaderMap) -> Response<Body> {
        let Some(client) = self.client(headers) else { return answer::unknown_session() };
        let budget = client.0.relay.budget().clone();
        let out = self.outgoing(&client, Method::DELETE, headers, Bytes::new());
        let passed = client.0.relay.upstream().pass(out).await;
        match passed {
            Ok(Passed::Success(response)) => {
                let ended = headers.get(SESSION_ID).and_then(|id| self.clients.remove(id));
                if let Some(ended) = ended {
                    ended.relay.forget_default();
                    post::end(ended);
                }
                answer::stream(response, &budget, client, |passing| passing)
            }
            Ok(Passed::Failure { failure, headers: answered, body }) => {
                let is_lost = self.forget_if_lost(headers, &failure);
                answer::failure(None, failure, is_lost, &answered, body)
            }
            Err(error) => answer::unreachable(&error),
        }
    }

    /// Whose request it is, by its session.
    fn client(&self, headers: &HeaderMap) -> Option<Busy> {
        self.clients.find(headers.get(SESSION_ID))
    }

    fn outgoing(
        &self,
        client: &Busy,
        method: Method,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Outgoing {
        Outgoing {
            profile: self.shared.profiles.default().clone(),
            patient: method == Method::GET,
            method,
            headers: headers::upstream(headers, None),
            body,
            sent: Sent::default(),
            budget: client.0.relay.budget().clone(),
        }
    }
}

/// Whether an error means that the client must initialize again.
fn session_is_lost(error: &Error) -> bool {
    match error {
        Error::SessionExpired => true,
        Error::Shared(error) => session_is_lost(error),
        _ => false,
    }
}
