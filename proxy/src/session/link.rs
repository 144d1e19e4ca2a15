//! The connection of one profile to the server, for requests with a session and without.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};

use super::live::Live;
use crate::budget::Budget;
use crate::config::ProfileName;
use crate::error::Error;
use crate::metadata::Metadata;
use crate::protocol::{self, LAST_EVENT_ID};
use crate::upstream::{Answer, Frames, Outgoing, Sent, Upstream};

/// Whose credentials sign, and for which client.
#[derive(Debug)]
pub(crate) struct Link {
    pub(super) profile: ProfileName,
    /// Whether nothing is signed.
    pub(super) unsigned: bool,
    pub(super) upstream: Arc<Upstream>,
    /// The client's part of the memory that messages take.
    pub(super) budget: Budget,
    /// Goes into `_meta` of the proxy's own requests.
    pub(super) metadata: Arc<Metadata>,
}

impl Link {
    /// The connection of `profile`.
    pub(crate) fn new(
        profile: ProfileName,
        upstream: Arc<Upstream>,
        budget: Budget,
        metadata: Arc<Metadata>,
    ) -> Self {
        Self { profile, unsigned: false, upstream, budget, metadata }
    }

    /// The server, as it is called in a sentence.
    pub(crate) fn host(&self) -> &str {
        self.upstream.host()
    }

    /// Whether the broker gives signatures by turns, as far as it has said.
    pub(crate) fn is_paced(&self) -> bool {
        self.upstream.is_paced(&self.profile)
    }

    /// Tells the broker that the server throttled a request, by the record of its signature.
    pub(crate) async fn throttled(&self, audit_id: Option<&str>) {
        if let Some(audit_id) = audit_id {
            // Rare, and large: it holds a question to the broker.
            Box::pin(self.upstream.throttled(&self.profile, audit_id)).await;
        }
    }

    /// Sends one message over the session.
    pub(crate) async fn post(
        &self,
        live: &Live,
        text: impl Into<Bytes>,
        sent: Sent,
    ) -> Result<Answer, Error> {
        self.post_with(None, live, text.into(), sent).await
    }

    /// The same, with other headers beside those that MCP asks for.
    pub(crate) async fn post_with(
        &self,
        others: Option<&HeaderMap>,
        live: &Live,
        text: Bytes,
        sent: Sent,
    ) -> Result<Answer, Error> {
        let mut headers = protocol::post_headers();
        headers.extend(others.cloned().unwrap_or_default());
        protocol::bind(&mut headers, live.id.as_ref(), live.version.as_ref());
        self.send(Method::POST, headers, text, false, sent).await
    }

    /// Sends one message that belongs to no session: `initialize`, and all of 2026-07-28.
    pub(crate) async fn post_unbound(
        &self,
        headers: HeaderMap,
        text: impl Into<Bytes>,
        patient: bool,
        sent: Sent,
    ) -> Result<Answer, Error> {
        self.send(Method::POST, headers, text.into(), patient, sent).await
    }

    /// Opens a stream by GET: the one of what the server says on its own account, or the rest of the
    /// one that was cut `after` an event. `patient` is for the former, which may be silent for hours.
    pub(crate) async fn stream(
        &self,
        live: &Live,
        after: Option<&str>,
        patient: bool,
    ) -> Result<Answer, Error> {
        let mut headers = HeaderMap::with_capacity(6);
        headers.insert(http::header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        protocol::bind(&mut headers, live.id.as_ref(), live.version.as_ref());
        if let Some(after) = after {
            // Without it, the server would open another stream, and not go on with this one.
            let after = HeaderValue::try_from(after)
                .map_err(|_| Error::NotMessage("its event id can't be sent in a header"))?;
            headers.insert(LAST_EVENT_ID, after);
        }
        self.send(Method::GET, headers, Bytes::new(), patient, Sent::default()).await
    }

    /// Ends a session with a DELETE, where the server gave it an id.
    pub(crate) async fn end(&self, live: &Live) {
        let Some(id) = &live.id else { return };
        let mut headers = HeaderMap::with_capacity(4);
        protocol::bind(&mut headers, Some(id), live.version.as_ref());
        let ended = self.send(Method::DELETE, headers, Bytes::new(), false, Sent::default()).await;
        if let Err(error) = ended {
            tracing::debug!(profile = %self.profile, %error, "the session's DELETE failed");
        }
    }

    /// Sends what a client that speaks HTTP itself sends, with its own headers, for an answer that it
    /// gets as it came. `budget` is for its messages, where that isn't the one of the link.
    pub(crate) async fn pass(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
        patient: bool,
        sent: Sent,
        budget: Option<Budget>,
    ) -> Result<Answer<Frames>, Error> {
        let mut out = self.outgoing(method, headers, body, patient, sent);
        if let Some(budget) = budget {
            out.budget = budget;
        }
        self.upstream.pass(out).await
    }

    async fn send(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
        patient: bool,
        sent: Sent,
    ) -> Result<Answer, Error> {
        let out = self.outgoing(method, headers, body, patient, sent);
        self.upstream.exchange(out).await
    }

    fn outgoing(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
        patient: bool,
        sent: Sent,
    ) -> Outgoing {
        let (profile, unsigned) = (self.profile.clone(), self.unsigned);
        let budget = self.budget.clone();
        Outgoing { profile, method, headers, body, patient, unsigned, sent, budget }
    }
}
