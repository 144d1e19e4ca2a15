//! Calls whose answer isn't complete, by the events after which their client can resume it.
//!
//! An HTTP client resumes a stream with a GET that contains only an event id. The rest is checked as the answer to the
//! call of that event: the rules for a response apply across all connections.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::request::Request;
use crate::wire::{self, Id};

/// The most events that are stored for one client.
const MAX_EVENTS: usize = 256;
/// Longer event ids aren't stored.
const MAX_EVENT_ID: usize = 256;
/// Of longer requests only the method is stored.
const MAX_REQUEST: usize = 4 << 10;

/// The unfinished calls of one client.
#[derive(Debug, Default)]
pub(super) struct Unfinished(Mutex<VecDeque<(String, Request)>>);

impl Unfinished {
    /// Stores that the client gets `event` of the answer to `call`, which isn't complete.
    pub(super) fn remember(&self, event: &str, call: &Request) {
        if event.len() > MAX_EVENT_ID {
            return;
        }
        let Some(call) = stored(call) else { return };
        let mut events = self.lock();
        events.retain(|(known, _)| known != event);
        if events.len() == MAX_EVENTS {
            // A call with many events replaces its own oldest event, so that other calls stay
            // resumable.
            let oldest = events.iter().position(|(_, known)| known.id() == call.id());
            events.remove(oldest.unwrap_or(0));
        }
        events.push_back((event.to_owned(), call));
    }

    /// The call in whose answer `event` was sent.
    pub(super) fn find(&self, event: &str) -> Option<Request> {
        self.lock().iter().find(|(known, _)| known == event).map(|(_, call)| call.clone())
    }

    /// Removes a call that has its response.
    pub(super) fn forget(&self, id: &Id) {
        self.lock().retain(|(_, call)| call.id() != id);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(String, Request)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stored(call: &Request) -> Option<Request> {
    if call.text().len() <= MAX_REQUEST {
        return Some(call.clone());
    }
    Request::from_proxy(wire::request(call.id(), call.method(), "{}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(id: u32, params: &str) -> Request {
        let id = Id::from_token(&id.to_string());
        Request::from_proxy(wire::request(&id, "tools/call", params)).unwrap()
    }

    #[test]
    fn an_event_identifies_its_call_until_the_response() {
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
    fn stored_events_are_bounded() {
        let unfinished = Unfinished::default();
        let params = format!(r#"{{"x":"{}"}}"#, "x".repeat(MAX_REQUEST));
        unfinished.remember("large", &call(1, &params));
        let stored = unfinished.find("large").unwrap();
        assert_eq!((stored.method(), stored.text().len() < 100), ("tools/call", true));
        unfinished.remember(&"x".repeat(MAX_EVENT_ID + 1), &call(1, "{}"));
        for number in 0..2 * MAX_EVENTS {
            unfinished.remember(&number.to_string(), &call(2, "{}"));
        }
        assert_eq!(unfinished.lock().len(), MAX_EVENTS);
        assert!(unfinished.find("large").is_some(), "each call replaces its own events");
        unfinished.remember("third", &call(3, "{}"));
        assert_eq!(unfinished.lock().len(), MAX_EVENTS);
        assert!(unfinished.find("large").is_none(), "otherwise the oldest event is dropped");
    }
}
