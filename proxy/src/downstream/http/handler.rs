//! Handles the HTTP requests of clients that use Streamable HTTP.
//!
//! For the default profile, and for all requests of 2026-07-28, this is a reverse proxy: a request is forwarded with a
//! signature, and status, headers and events are returned unchanged. It changes only what the profile argument
//! requires. If the protocol has sessions, a call of another profile uses a session of that profile. That session
//! belongs to the client's own session, and ends with it.

mod answer;
mod body;
mod clients;
mod composed;
mod headers;
mod hosted;
mod losses;
mod post;
mod reverse;
mod stream;
mod unfinished;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use sigward_proto::traces::Since;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

pub(crate) use self::body::{Body, full, until};
pub(crate) use self::clients::Part;
use self::clients::{Busy, Clients, Registered};
use self::post::Posts;
use self::reverse::ReverseProxy;
use self::stream::CallAnswer;
use crate::budget::{Budget, Message};
use crate::client::Shared;
use crate::exchange::Deadline;
use crate::protocol::LAST_EVENT_ID;
use crate::request::Request;
use crate::upstream::{Answer, Reply, SESSION_ID};

pub(crate) use self::answer::{refusal, unknown_session};

/// How often idle clients are looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// How long closing clients may take that began to close before the proxy did.
const ENDING: Duration = Duration::from_millis(900);

/// All clients of a listening proxy.
#[derive(Debug)]
pub struct Handler {
    proxy: ReverseProxy,
}

impl Handler {
    /// Makes a handler without clients.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Arc<Self> {
        let clients = Arc::new(Clients::new(Arc::clone(&shared)));
        Arc::new(Self { proxy: ReverseProxy { shared, clients, ending: TaskTracker::new() } })
    }

    /// Closes the sessions of idle clients; never returns.
    pub async fn sweep(&self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.end_idle(Instant::now());
        }
    }

    /// Closes the sessions of all idle clients at the same time.
    fn end_idle(&self, now: Instant) {
        for client in self.proxy.clients.take_idle(now) {
            tracing::info!("closed a session: its client was idle for an hour");
            self.proxy.end(client);
        }
    }

    /// Closes all sessions, cancels requests in flight, and waits for clients that are already
    /// closing.
    pub async fn close(&self) {
        let clients = self.proxy.clients.take_all();
        let closing = clients.iter().map(|client| client.mcp.close(Duration::ZERO));
        futures_util::future::join_all(closing).await;
        self.proxy.ending.close();
        let _ = tokio::time::timeout(ENDING, self.proxy.ending.wait()).await;
    }

    /// The share of the memory for a new connection.
    pub(crate) fn part(&self) -> Part {
        Part::new(&self.proxy.shared)
    }

    /// The memory for requests of the client that sends `headers`: its session's, or else its connection's `part`.
    /// `None` if the session is unknown.
    pub(crate) fn requests(&self, headers: &HeaderMap, part: &Part) -> Option<Budget> {
        match headers.contains_key(SESSION_ID) {
            true => self.proxy.client(headers).map(|client| client.0.requests.clone()),
            false => Some(part.requests.clone()),
        }
    }

    /// Handles a message or a batch, which began to arrive at `begun`.
    pub(crate) async fn post(
        &self,
        headers: &HeaderMap,
        message: Message,
        part: &Part,
        begun: Since,
    ) -> Response<Body> {
        Posts { proxy: &self.proxy, part, begun }.take(headers, message).await
    }

    /// Opens the stream of unsolicited messages, or the rest of a stream that was cut.
    pub(crate) async fn get(&self, headers: &HeaderMap) -> Response<Body> {
        let Some(client) = self.proxy.client(headers) else { return answer::unknown_session() };
        if client.0.mcp.is_hosted() {
            return hosted::stream(client);
        }
        let after = headers.get(LAST_EVENT_ID);
        let event = after.and_then(|event| event.to_str().ok());
        if let Some((event, call)) = event.and_then(|it| Some((it, client.0.unfinished.find(it)?)))
        {
            return self.resume(client, headers, event, call).await;
        }
        let (answer, client) =
            match self.proxy.send(client, Method::GET, headers, Bytes::new()).await {
                Ok(answered) => answered,
                Err(answer) => return answer,
            };
        match answer.reply {
            // This includes a resumption after an event that belongs to no known call: it is the rest of an unsolicited
            // stream, which may contain no response. Unchecked, a list in it would show tools that --tools-deny hides.
            Reply::Messages(frames) if frames.is_events() => {
                let inbox = client.0.mcp.has_session().then(|| client.0.inbox());
                answer::unsolicited(answer.status, &answer.headers, frames, inbox, client)
            }
            reply => self.proxy.raw(client, headers, Answer { reply, ..answer }),
        }
    }

    /// Ends the session of the client.
    pub(crate) async fn delete(&self, headers: &HeaderMap) -> Response<Body> {
        let Some(client) = self.proxy.client(headers) else { return answer::unknown_session() };
        if client.0.mcp.is_hosted() {
            return hosted::end(&self.proxy, headers);
        }
        let answer = self.proxy.forward(client, Method::DELETE, headers, Bytes::new()).await;
        // A server may refuse DELETE (405) and end sessions by itself. The client has ended in any case.
        let is_over =
            answer.status().is_success() || answer.status() == StatusCode::METHOD_NOT_ALLOWED;
        if is_over
            && let Some(ended) =
                headers.get(SESSION_ID).and_then(|id| self.proxy.clients.remove(id))
        {
            ended.mcp.forget_default();
            self.proxy.end(ended);
        }
        answer
    }

    /// The rest of the answer to `call` after an event.
    async fn resume(
        &self,
        client: Busy,
        headers: &HeaderMap,
        event: &str,
        call: Request,
    ) -> Response<Body> {
        let mcp = Arc::clone(&client.0.mcp);
        let session = mcp.default_session();
        let registered = Registered::resumed(client, &call);
        registered.flight.over(Arc::clone(&session));
        let sent = match headers::upstream(headers, None) {
            Ok(sent) => sent,
            Err(why) => return answer::refusal(StatusCode::BAD_REQUEST, &why.to_string()),
        };
        let flag = registered.flight.sent.clone();
        let answer =
            match session.link().forward(Method::GET, sent, Bytes::new(), true, flag, None).await {
                Ok(answer) => answer,
                Err(error) => return answer::unreachable(&error),
            };
        match answer.reply {
            Reply::Messages(frames) if frames.is_events() => {
                match mcp.resume(&call, event, *frames) {
                    Ok(reading) => {
                        let deadline = Deadline::none();
                        let resumed = CallAnswer::new(reading, call, registered, deadline)
                            .after(event)
                            .on_expired(self.proxy.forgetting(headers));
                        answer::of_call(answer.status, &answer.headers, resumed, None)
                    }
                    Err(error) => answer::unreachable(&error),
                }
            }
            Reply::Messages(frames) => {
                answer::raw(answer.status, &answer.headers, *frames, registered)
            }
            Reply::Accepted => answer::accepted(),
            Reply::Failure(failure) => self.proxy.failed(headers, None, failure, &answer.headers),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::budget::Share;
    use crate::config::REQUESTS_IN_TRANSIT;

    /// Clients that the sweep began to close are closed even if the proxy gets a signal.
    #[tokio::test(start_paused = true)]
    async fn close_waits_for_clients_that_are_already_closing() {
        let handler = Handler::new(Shared::unconnected());
        let ended = Arc::new(AtomicUsize::new(0));
        for number in 0..10 {
            let client = handler.proxy.clients.begin().unwrap();
            let count = Arc::clone(&ended);
            client.0.mcp.spawn(async move {
                tokio::time::sleep(Duration::from_millis(200)).await;
                count.fetch_add(1, Ordering::Relaxed);
            });
            let id = http::HeaderValue::from(number);
            assert!(handler.proxy.clients.insert(id, Arc::clone(&client.0)).is_none());
        }
        handler.end_idle(Instant::now() + Duration::from_secs(7200));
        let begun = Instant::now();
        handler.close().await;
        assert_eq!(ended.load(Ordering::Relaxed), 10);
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "the clients were closed one after the other"
        );
    }

    /// The attack: a client without a session uses up the memory for requests. Only its connection distinguishes it
    /// from other clients.
    #[tokio::test]
    async fn a_client_without_a_session_has_the_share_of_its_connection() {
        let handler = Handler::new(Shared::unconnected());
        let (one, other) = (handler.part(), handler.part());
        let covers = |part: &Part, share: &mut Share, bytes: usize| {
            let requests = handler.requests(&HeaderMap::new(), part).unwrap();
            share.try_cover(&requests, bytes)
        };
        let mut shares = [(); 3].map(|()| Share::default());
        let half = REQUESTS_IN_TRANSIT / 2;
        assert!(covers(&one, &mut shares[0], half));
        assert!(!covers(&one, &mut shares[1], 1 << 20), "its share is used up");
        assert!(covers(&other, &mut shares[2], half), "the other connection has its own share");
        let mut session = HeaderMap::new();
        session.insert(SESSION_ID, http::HeaderValue::from_static("s"));
        assert!(handler.requests(&session, &one).is_none(), "there is no such session");
    }
}
