//! Calls whose answer isn't complete, by the events after which their client may take it up again.
//!
//! A client that speaks HTTP itself resumes a stream with a GET that names an event, and nothing else.
//! What comes then is judged as the answer to the call that the event belonged to: the rules for a
//! response hold however many connections it takes.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::request::Request;
use crate::wire::{self, Id};

/// Events that are remembered for one client.
const MAX_EVENTS: usize = 256;
/// Longer ids of events aren't remembered.
const MAX_EVENT_ID: usize = 256;
/// Of longer requests only the method is remembered.
const MAX_REQUEST: usize = 4 << 10;

/// Those of one client.
#[derive(Debug, Default)]
pub(super) struct Unfinished(Mutex<VecDeque<(String, Request)>>);

impl Unfinished {
    /// The client has seen `event` of the answer to `call`, and no response.
    pub(super) fn remember(&self, event: &str, call: &Request) {
        if event.len() > MAX_EVENT_ID {
            return;
        }
        let Some(call) = kept(call) else { return };
        let mut events = self.lock();
        events.retain(|(known, _)| known != event);
        if events.len() == MAX_EVENTS {
            // A call that says much doesn't take from the others what they can be resumed by.
            let own = events.iter().position(|(_, known)| known.id() == call.id());
            events.remove(own.unwrap_or(0));
        }
        events.push_back((event.to_owned(), call));
    }

    /// The call to whose answer `event` belonged.
    pub(super) fn find(&self, event: &str) -> Option<Request> {
        self.lock().iter().find(|(known, _)| known == event).map(|(_, call)| call.clone())
    }

    /// The call has its response.
    pub(super) fn forget(&self, id: &Id) {
        self.lock().retain(|(_, call)| call.id() != id);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(String, Request)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kept(call: &Request) -> Option<Request> {
    if call.text().len() <= MAX_REQUEST {
        return Some(call.clone());
    }
    Request::own(wire::request(call.id(), call.method(), "{}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(id: u32, params: &str) -> Request {
        let id = Id::from_token(&id.to_string());
        Request::own(wire::request(&id, "tools/call", params)).unwrap()
    }

    #[test]
    fn an_event_leads_to_its_call_until_that_is_answered() {
        let unfinished = Unfinished::default();
        unfinished.remember("a/1", &call(1, "{}"));
        unfinished.remember("b/1", &call(2, "{}"));
        unfinished.remember("a/2", &call(1, "{}"));
        let found = |event| unfinished.find(event).map(|call| call.id().token().to_owned());
        assert_eq!(found("a/1").as_deref(), Some("1"));
        assert_eq!(found("b/1").as_deref(), Some("2"));
        unfinished.forget(&Id::from_token("1"));
        assert_eq!((found("a/1"), found("a/2")), (None, None));
        assert_eq!(found("b/1").as_deref(), Some("2"));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let unfinished = Unfinished::default();
        let params = format!(r#"{{"x":"{}"}}"#, "x".repeat(MAX_REQUEST));
        unfinished.remember("large", &call(1, &params));
        let kept = unfinished.find("large").unwrap();
        assert_eq!((kept.method(), kept.text().len() < 100), ("tools/call", true));
        unfinished.remember(&"x".repeat(MAX_EVENT_ID + 1), &call(1, "{}"));
        for number in 0..2 * MAX_EVENTS {
            unfinished.remember(&number.to_string(), &call(2, "{}"));
        }
        assert_eq!(unfinished.lock().len(), MAX_EVENTS);
        assert!(unfinished.find("large").is_some(), "each call makes room for itself");
        unfinished.remember("third", &call(3, "{}"));
        assert_eq!(unfinished.lock().len(), MAX_EVENTS);
        assert!(unfinished.find("large").is_none(), "else the oldest makes room");
    }
}
