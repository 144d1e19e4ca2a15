//! A client that sends line by line: it knows nothing of sessions, and all its messages come and go
//! over one pipe.

use std::sync::Arc;

use rmcp::model::{ErrorCode, ProtocolVersion};

use super::{Flight, Relay};
use crate::budget::Message;
use crate::request::{Incoming, Request};
use crate::wire::{self, Envelope, Fault, Id, Kind, Object};

/// Longer ids aren't repeated in refusals.
const MAX_ECHO: usize = 1024;

impl Relay {
    /// Takes one message of the client. Waits for room in the output only where much is unread.
    pub async fn receive(self: &Arc<Self>, message: Message) {
        match wire::batch(&message.text) {
            Ok(None) => self.dispatch(message).await,
            Ok(Some(batch)) => self.batch(batch, &message).await,
            Err(fault) => self.refuse(&message.text, &fault).await,
        }
    }

    /// Answers what can't be read at all.
    pub async fn refuse(&self, text: &str, fault: &Fault) {
        self.say(fault_response(text, fault)).await;
    }

    /// Batches existed in 2025-03-26 alone. Their messages are taken one by one, in order.
    async fn batch(self: &Arc<Self>, batch: Vec<&str>, whole: &Message) {
        if let Err(fault) = self.check_batch(&batch) {
            return self.refuse("", &fault).await;
        }
        for message in batch {
            self.dispatch(whole.part(message)).await;
        }
    }

    /// Whether the client's protocol version has batches.
    pub(crate) fn check_batch(&self, batch: &[&str]) -> Result<(), Fault> {
        let session = self.existing(self.shared.profiles.default());
        let live = session.and_then(|session| session.current());
        let version = live.as_ref().and_then(|live| live.version()).unwrap_or_default();
        if version != ProtocolVersion::V_2025_03_26.as_str() {
            return Err(Fault::NotMessage("batches aren't part of this protocol version"));
        }
        if batch.is_empty() {
            return Err(Fault::NotMessage("an empty batch"));
        }
        Ok(())
    }

    async fn dispatch(self: &Arc<Self>, message: Message) {
        let (kind, message) = match Incoming::read(message) {
            Ok(Incoming::Request(call)) => return self.begin(call).await,
            Ok(Incoming::Other(kind, message)) => (kind, message),
            Err((fault, message)) => return self.refuse(&message.text, &fault).await,
        };
        let Ok(envelope) = Envelope::parse(&message.text) else { return };
        match kind {
            Kind::Response => self.answered(&envelope, &message),
            Kind::Request | Kind::Notification => self.notified(&envelope, &message),
        }
    }

    async fn begin(self: &Arc<Self>, call: Request) {
        match self.register(&call, self.out.clone()) {
            Ok(flight) => {
                if call.begins_session() {
                    flight.opening(self.begin_session(call.params()));
                }
                self.start(call, flight);
            }
            Err(why) => {
                let id = echoed(call.id().clone());
                self.say(wire::error_response(&id, ErrorCode::INVALID_REQUEST, why)).await;
            }
        }
    }

    fn start(self: &Arc<Self>, call: Request, flight: Arc<Flight>) {
        let relay = Arc::clone(self);
        self.work.spawn(async move {
            if let Some(response) = relay.respond_to(&call, &flight).await {
                let _ = flight.out.send(response).await;
            }
        });
    }
}

/// The answer to a text that is no message, under its id where that can be seen.
pub(crate) fn fault_response(text: &str, fault: &Fault) -> String {
    let (code, kind) = if fault.is_parse_error() {
        (ErrorCode::PARSE_ERROR, "Parse error")
    } else {
        (ErrorCode::INVALID_REQUEST, "Invalid request")
    };
    let id = Object::parse(text).ok().and_then(|object| object.find("id").map(Id::from_token));
    let id = id.map_or_else(Id::null, echoed);
    wire::error_response(&id, code, &format!("{kind}: {fault}"))
}

/// The id of a refusal. What was refused no longer counts, and a long id shall not outlive it.
fn echoed(id: Id) -> Id {
    if id.token().len() <= MAX_ECHO { id } else { Id::null() }
}
