//! The life of one HTTP request of a client that speaks Streamable HTTP itself.
//!
//! For the default profile, and for all of 2026-07-28, this is a reverse proxy: the request goes on
//! with a signature, and status, headers and events come back as they are. What it changes is what
//! the profile argument needs. A call of another profile goes, where the protocol has sessions, over
//! a session of that profile, which belongs to the client's own and ends with it.

mod answer;
mod body;
mod clients;
mod headers;
mod own;
mod post;
mod stream;
mod unfinished;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use tokio::time::Instant;

pub(crate) use self::body::{Body, full, until};
use self::clients::{Busy, Clients, Registered};
use self::stream::CallAnswer;
use crate::budget::Budget;
use crate::client::{GRACE, Shared};
use crate::error::Error;
use crate::exchange::Deadline;
use crate::protocol::LAST_EVENT_ID;
use crate::request::Request;
use crate::session::is_lost;
use crate::upstream::{Answer, Failure, Frames, Reply, SESSION_ID, Sent};

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
        let after = headers.get(LAST_EVENT_ID);
        let event = after.and_then(|event| event.to_str().ok());
        if let Some((event, call)) = event.and_then(|it| Some((it, client.0.unfinished.find(it)?)))
        {
            return self.resume(client, headers, event, call).await;
        }
        let is_new = after.is_none();
        let (answer, client) = match self.send(client, Method::GET, headers, Bytes::new()).await {
            Ok(answered) => answered,
            Err(answer) => return answer,
        };
        match answer.reply {
            Reply::Messages(frames) if frames.is_events() && is_new => {
                let inbox = client.0.relay.has_session().then(|| client.0.inbox());
                answer::unsolicited(answer.status, &answer.headers, frames, inbox, client)
            }
            // The rest of a stream that nobody here knows.
            reply => self.raw(client, headers, Answer { reply, ..answer }),
        }
    }

    /// The client ends its session.
    pub(crate) async fn delete(&self, headers: &HeaderMap) -> Response<Body> {
        let Some(client) = self.client(headers) else { return answer::unknown_session() };
        let answer = self.pass(client, Method::DELETE, headers, Bytes::new()).await;
        // A server may refuse this, and end sessions by itself (405). Its client has gone in any case.
        let is_over =
            answer.status().is_success() || answer.status() == StatusCode::METHOD_NOT_ALLOWED;
        if is_over
            && let Some(ended) = headers.get(SESSION_ID).and_then(|id| self.clients.remove(id))
        {
            ended.relay.forget_default();
            post::end(ended);
        }
        answer
    }

    /// The rest of the answer to `call`, after an event.
    async fn resume(
        &self,
        client: Busy,
        headers: &HeaderMap,
        event: &str,
        call: Request,
    ) -> Response<Body> {
        let relay = Arc::clone(&client.0.relay);
        let session = relay.default_session();
        let registered = Registered::resumed(client, &call);
        registered.flight.over(Arc::clone(&session));
        let (sent, flag) = (headers::upstream(headers, None), registered.flight.sent.clone());
        let answer = match session.pass(Method::GET, sent, Bytes::new(), true, flag).await {
            Ok(answer) => answer,
            Err(error) => return answer::unreachable(&error),
        };
        match answer.reply {
            Reply::Messages(frames) if frames.is_events() => {
                match relay.resume(&call, event, *frames) {
                    Ok(reading) => {
                        let deadline = Deadline::none();
                        let resumed =
                            CallAnswer::new(reading, call, registered, deadline).after(event);
                        answer::of_call(answer.status, &answer.headers, resumed, None)
                    }
                    Err(error) => answer::unreachable(&error),
                }
            }
            Reply::Messages(frames) => {
                answer::raw(answer.status, &answer.headers, *frames, registered)
            }
            Reply::Accepted => answer::accepted(),
            Reply::Failure(failure) => self.failed(headers, None, failure, &answer.headers),
        }
    }

    /// An answer that isn't success.
    fn failed(
        &self,
        headers: &HeaderMap,
        call: Option<&Request>,
        failure: Failure,
        answered: &HeaderMap,
    ) -> Response<Body> {
        let is_lost = is_lost(&failure, headers.contains_key(SESSION_ID));
        if is_lost {
            self.forget(headers);
        }
        answer::failure(call, failure, is_lost, answered)
    }

    /// Passes on what isn't a request of MCP.
    async fn pass(
        &self,
        client: Busy,
        method: Method,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Response<Body> {
        match self.send(client, method, headers, body).await {
            Ok((answer, client)) => self.raw(client, headers, answer),
            Err(answer) => answer,
        }
    }

    async fn send(
        &self,
        client: Busy,
        method: Method,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<(Answer<Frames>, Busy), Response<Body>> {
        let patient = method == Method::GET;
        let session = client.0.relay.default_session();
        let sent = headers::upstream(headers, None);
        match session.pass(method, sent, body, patient, Sent::default()).await {
            Ok(answer) => Ok((answer, client)),
            Err(error) => Err(answer::unreachable(&error)),
        }
    }

    /// An answer as it came.
    fn raw(&self, client: Busy, headers: &HeaderMap, answer: Answer<Frames>) -> Response<Body> {
        match answer.reply {
            Reply::Messages(frames) => answer::raw(answer.status, &answer.headers, *frames, client),
            Reply::Accepted => answer::accepted(),
            Reply::Failure(failure) => self.failed(headers, None, failure, &answer.headers),
        }
    }

    /// Whose request it is, by its session.
    fn client(&self, headers: &HeaderMap) -> Option<Busy> {
        self.clients.find(headers.get(SESSION_ID))
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
