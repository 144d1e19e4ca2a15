//! The reverse proxy: forwards what a client and its server send each other unchanged.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use tokio_util::task::TaskTracker;

use super::body::Body;
use super::clients::{Busy, Clients, HttpClient};
use super::{answer, headers};
use crate::client::{GRACE, Shared};
use crate::error::Error;
use crate::request::Request;
use crate::session::is_lost;
use crate::upstream::{Answer, Failure, Frames, Reply, SESSION_ID, Sent};

/// All clients, and the state for the connections to their server.
#[derive(Debug)]
pub(super) struct ReverseProxy {
    pub(super) shared: Arc<Shared>,
    pub(super) clients: Arc<Clients>,
    /// The tasks that close clients.
    pub(super) ending: TaskTracker,
}

impl ReverseProxy {
    /// Forwards an answer that isn't a success.
    pub(super) fn failed(
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

    /// Closes the sessions of a client in the background; only closing the proxy waits for it.
    pub(super) fn end(&self, client: Arc<HttpClient>) {
        end(&self.ending, client);
    }

    /// Forwards what isn't an MCP request.
    pub(super) async fn forward(
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

    pub(super) async fn send(
        &self,
        client: Busy,
        method: Method,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<(Answer<Frames>, Busy), Response<Body>> {
        let patient = method == Method::GET;
        let session = client.0.mcp.default_session();
        let sent = match headers::upstream(headers, None) {
            Ok(sent) => sent,
            Err(why) => return Err(answer::refusal(StatusCode::BAD_REQUEST, &why.to_string())),
        };
        match session.link().forward(method, sent, body, patient, Sent::default(), None).await {
            Ok(answer) => Ok((answer, client)),
            Err(error) => Err(answer::unreachable(&error)),
        }
    }

    /// Forwards an answer unchanged.
    pub(super) fn raw(
        &self,
        client: Busy,
        headers: &HeaderMap,
        answer: Answer<Frames>,
    ) -> Response<Body> {
        match answer.reply {
            Reply::Messages(frames) => answer::raw(answer.status, &answer.headers, *frames, client),
            Reply::Accepted => answer::accepted(),
            Reply::Failure(failure) => self.failed(headers, None, failure, &answer.headers),
        }
    }

    /// The client of a request, by its session id.
    pub(super) fn client(&self, headers: &HeaderMap) -> Option<Busy> {
        self.clients.find(headers.get(SESSION_ID))
    }

    /// Removes the client whose session is lost, with its sessions of other profiles.
    pub(super) fn forget(&self, headers: &HeaderMap) {
        self.forgetting(headers)();
    }

    /// [`ReverseProxy::forget`] as a closure, for an answer that reports the loss later.
    pub(super) fn forgetting(&self, headers: &HeaderMap) -> impl FnOnce() + Send + use<> {
        let id = headers.get(SESSION_ID).cloned();
        let (clients, ending) = (Arc::clone(&self.clients), self.ending.clone());
        move || {
            if let Some(client) = id.and_then(|id| clients.lose(&id)) {
                client.mcp.forget_default();
                end(&ending, client);
            }
        }
    }
}

fn end(ending: &TaskTracker, client: Arc<HttpClient>) {
    ending.spawn(async move { client.mcp.close(GRACE).await });
}

/// Whether an error means that the client must initialize again.
pub(super) fn session_is_lost(error: &Error) -> bool {
    match error {
        Error::SessionExpired => true,
        Error::Shared(error) => session_is_lost(error),
        _ => false,
    }
}
