//! A request for upstream, with what is needed to send it.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};

use super::shared::Outlet;
use crate::exchange::Exchange;
use crate::protocol::{self, ParameterHeader};
use crate::request::Request;
use crate::session::Session;
use crate::wire::Envelope;

/// A request, its session, and the channel for messages before its response.
pub(super) struct Outbound<'a> {
    pub(super) call: &'a Request,
    pub(super) exchange: Exchange<'a>,
    pub(super) out: &'a Outlet,
}

impl<'a> Outbound<'a> {
    /// The same request over another session.
    pub(super) fn over(&self, session: &'a Arc<Session>) -> Self {
        let Exchange { id, body, sent, headers, .. } = &self.exchange;
        let exchange = Exchange { session, id, body: body.clone(), sent, headers: *headers };
        Self { call: self.call, exchange, out: self.out }
    }

    /// The text that is sent.
    fn text(&self) -> &str {
        std::str::from_utf8(&self.exchange.body).unwrap_or_default()
    }

    /// The headers of a request of 2026-07-28, which mirror parts of its text.
    pub(super) fn headers(
        &self,
        version: &HeaderValue,
        parameters: &[ParameterHeader],
    ) -> HeaderMap {
        let mut headers = protocol::post_headers();
        if let Ok(envelope) = Envelope::parse(self.text()) {
            protocol::mirror(&mut headers, version, &envelope, parameters);
        }
        headers
    }
}
