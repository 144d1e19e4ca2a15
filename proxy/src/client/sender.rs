//! Sends a request over a session, and reads the answer up to its response.

use std::sync::Arc;

use http::HeaderValue;

use super::outbound::Outbound;
use super::responses::Responses;
use super::server::FromServers;
use crate::budget::Message;
use crate::error::Error;
use crate::exchange::{Attempts, Exchange, Held, Part, Patience, Reading, Renewal, Response};
use crate::protocol::ParameterHeader;

/// The parts of a client that sending a request needs.
#[derive(Debug)]
pub(super) struct Sender {
    /// `--retries`.
    pub(super) retries: u32,
    pub(super) from_servers: Arc<FromServers>,
    pub(super) responses: Arc<Responses>,
}

impl Sender {
    /// Sends a request with a session (up to 2025-11-25).
    pub(super) async fn over_session(
        &self,
        request: &Outbound<'_>,
        repeatable: bool,
        patience: &mut Patience,
        mut held: Option<Held>,
    ) -> Result<Message, Error> {
        let mut attempts = Attempts::new(self.retries, repeatable);
        let mut renewal = Renewal::default();
        loop {
            let done = async {
                let exchange = &request.exchange;
                let reading = exchange.over_session(&mut renewal, patience, held.take()).await?;
                self.follow(request, reading).await
            };
            match done.await {
                Ok(response) => return Ok(response.message),
                Err(error) => attempts.after(error).await?,
            }
        }
    }

    /// One attempt of a request of 2026-07-28.
    pub(super) async fn once(
        &self,
        request: &Outbound<'_>,
        version: &HeaderValue,
        parameters: &[ParameterHeader],
        patience: &mut Patience,
        held: Option<Held>,
    ) -> Result<Response, Error> {
        let endless = request.call.is_patient();
        let headers = request.headers(version, parameters);
        let reading = request.exchange.unbound(headers, endless, patience, held).await?;
        self.follow(request, reading).await
    }

    /// Reads an answer up to its response, and forwards the messages before it.
    pub(super) async fn follow(
        &self,
        request: &Outbound<'_>,
        mut reading: Reading,
    ) -> Result<Response, Error> {
        loop {
            match reading.next().await? {
                Part::Message(message) => {
                    let session = request.exchange.session;
                    self.from_servers.pass_on(session, reading.epoch(), message, request.out).await;
                }
                Part::Response(Response { message, code }) => {
                    let Exchange { session, body, .. } = &request.exchange;
                    let changed =
                        self.responses.respond(request.call, session, body, &message.text);
                    return Ok(Response { message: message.changed(changed), code });
                }
            }
        }
    }
}
