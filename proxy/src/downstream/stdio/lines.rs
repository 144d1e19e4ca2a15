//! Reads a line of the client, and passes it to its handler.

use std::sync::Arc;

use rmcp::model::ErrorCode;
use sigward_proto::traces::Since;

use crate::budget::Message;
use crate::client::{Client, InFlight, echoed, fault_response};
use crate::request::{Incoming, Request};
use crate::wire::{self, Envelope, Fault, Kind};

/// Handles the messages of a stdio client, all of which use one pipe.
#[derive(Debug)]
pub struct Intake(Arc<Client>);

impl Intake {
    /// Makes the intake of `client`.
    #[must_use]
    pub fn new(client: Arc<Client>) -> Self {
        Self(client)
    }

    /// Handles one message of the client, which began to arrive at `begun`. Waits for room in the output only if many
    /// messages are unread.
    pub async fn receive(&self, message: Message, begun: Since) {
        match wire::batch(&message.text) {
            Ok(None) => self.dispatch(message, begun).await,
            Ok(Some(batch)) => self.batch(batch, &message, begun).await,
            Err(fault) => self.refuse(&message.text, &fault).await,
        }
    }

    /// Answers a line that isn't a valid message.
    pub async fn refuse(&self, text: &str, fault: &Fault) {
        self.0.send_notification(fault_response(text, fault)).await;
    }

    /// Batches exist only in 2025-03-26. Their messages are handled one by one, in order.
    async fn batch(&self, batch: Vec<&str>, whole: &Message, begun: Since) {
        if let Err(fault) = self.0.check_batch(&batch) {
            return self.refuse("", &fault).await;
        }
        for message in batch {
            self.dispatch(whole.part(message), begun).await;
        }
    }

    async fn dispatch(&self, message: Message, begun: Since) {
        let (kind, message) = match Incoming::read(message) {
            Ok(Incoming::Request(call)) => return self.begin(call, begun).await,
            Ok(Incoming::Other(kind, message)) => (kind, message),
            Err((fault, message)) => return self.refuse(&message.text, &fault).await,
        };
        let Ok(envelope) = Envelope::parse(&message.text) else { return };
        match kind {
            Kind::Response => self.0.on_response(&envelope, &message),
            Kind::Request | Kind::Notification => self.0.on_notification(&envelope, &message),
        }
    }

    async fn begin(&self, call: Request, begun: Since) {
        match self.0.register(&call, self.0.out().clone()) {
            Ok(flight) => {
                flight.received(begun);
                if call.begins_session() {
                    flight.opening(self.0.begin_session(call.params()));
                }
                self.start(call, flight);
            }
            Err(why) => {
                let id = echoed(call.id().clone());
                self.0
                    .send_notification(wire::error_response(&id, ErrorCode::INVALID_REQUEST, why))
                    .await;
            }
        }
    }

    fn start(&self, call: Request, flight: Arc<InFlight>) {
        let client = Arc::clone(&self.0);
        self.0.spawn(async move {
            if let Some(response) = client.respond_to(&call, &flight).await {
                let _ = flight.out().send(response).await;
            }
        });
    }
}
