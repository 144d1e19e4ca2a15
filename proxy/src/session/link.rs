//! The connection of one profile to the server, for requests with and without a session.

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

/// The connection of one client and profile.
#[derive(Debug)]
pub(crate) struct Link {
    pub(super) profile: ProfileName,
    /// Whether requests are sent unsigned.
    pub(super) unsigned: bool,
    pub(super) upstream: Arc<Upstream>,
    /// The client's share of the memory for messages.
    pub(super) budget: Budget,
    /// The metadata for `_meta` of the proxy's own requests.
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

    /// The host of the server.
    pub(crate) fn host(&self) -> &str {
        self.upstream.host()
    }

    /// Whether the broker is known to limit the rate of signatures.
    pub(crate) fn is_paced(&self) -> bool {
        self.upstream.is_paced(&self.profile)
    }

    /// Reports to the broker that the server throttled a request. `audit_id` identifies its
    /// signature.
    pub(crate) async fn throttled(&self, audit_id: Option<&str>) {
        if let Some(audit_id) = audit_id {
            // Boxed because it is rare and large: it holds a request to the broker.
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

    /// The same, with additional headers.
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

    /// Sends one message without a session: `initialize`, and all requests of 2026-07-28.
    pub(crate) async fn post_unbound(
        &self,
        headers: HeaderMap,
        text: impl Into<Bytes>,
        patient: bool,
        sent: Sent,
    ) -> Result<Answer, Error> {
        self.send(Method::POST, headers, text.into(), patient, sent).await
    }

    /// Opens a stream with GET: the stream of unsolicited messages, or the rest of the stream that was cut `after` an
    /// event. `patient` is set for the former, which may be silent for hours.
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
            // Without it, the server would open another stream in place of resuming this one.
            let after = HeaderValue::try_from(after)
                .map_err(|_| Error::NotMessage("its event id can't be sent in a header"))?;
            headers.insert(LAST_EVENT_ID, after);
        }
        self.send(Method::GET, headers, Bytes::new(), patient, Sent::default()).await
    }

    /// Ends a session with a DELETE if the server gave it an id.
    pub(crate) async fn end(&self, live: &Live) {
        let Some(id) = &live.id else { return };
        let mut headers = HeaderMap::with_capacity(4);
        protocol::bind(&mut headers, Some(id), live.version.as_ref());
        let ended = self.send(Method::DELETE, headers, Bytes::new(), false, Sent::default()).await;
        if let Err(error) = ended {
            tracing::debug!(profile = %self.profile, %error, "the session's DELETE failed");
        }
    }

    /// Sends a request of an HTTP client with the client's headers; the client gets the answer unchanged. `budget` is
    /// the memory for its messages, if that isn't the link's.
    pub(crate) async fn forward(
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
        self.upstream.forward(out).await
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
