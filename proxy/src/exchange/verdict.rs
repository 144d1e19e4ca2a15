//! Decides which request a message of the server responds to.
//!
//! A server, or a gateway in front of it, may mix up the responses of its callers
//! (GHSA-345p-7cg4-v4c7), or replay earlier messages. Therefore a response under the id of another
//! request is dropped, and each request gets one response.

use rmcp::model::ErrorCode;

use crate::error::Error;
use crate::sse::Why;
use crate::upstream::Failure;
use crate::wire::{self, Edits, Envelope, Id, Kind, Object, Peek};

/// How a message relates to the request in whose answer it came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the response. Contains a replacement for its text if the client couldn't read the
    /// original.
    Own(Option<String>),
    /// The client must not get it.
    Dropped,
    /// It is a request or a notification.
    Other,
}

/// Judges the messages in the answer to one request, in their order.
#[derive(Debug)]
pub(super) struct Judge {
    /// The request's id; `None` for a stream of unsolicited messages, which may contain no
    /// response.
    id: Option<Id>,
    /// Whether the client accepts requests of the server here.
    takes_requests: bool,
    is_answered: bool,
    /// Whether a response to another request was dropped.
    was_foreign: bool,
    /// Why a message was lost that may have been the response.
    lost: Option<Why>,
}

impl Judge {
    pub(super) fn new(id: Id, takes_requests: bool) -> Self {
        let (is_answered, was_foreign, lost) = (false, false, None);
        Self { id: Some(id), takes_requests, is_answered, was_foreign, lost }
    }

    /// For a stream that isn't the answer to a request.
    pub(super) fn unsolicited() -> Self {
        let (is_answered, was_foreign, lost) = (false, false, None);
        Self { id: None, takes_requests: true, is_answered, was_foreign, lost }
    }

    pub(super) fn message(&mut self, text: &str, envelope: &Envelope<'_>) -> Verdict {
        match verdict(text, envelope, self.id.as_ref()) {
            Some(Verdict::Own(_)) if self.is_answered => {
                tracing::warn!("dropped a second response to the same request");
                Verdict::Dropped
            }
            Some(Verdict::Own(repaired)) => {
                self.is_answered = true;
                Verdict::Own(repaired)
            }
            None => {
                tracing::warn!("dropped a response: it belongs to no request that was sent here");
                self.was_foreign = true;
                Verdict::Dropped
            }
            Some(Verdict::Other) if envelope.kind == Kind::Request && !self.takes_requests => {
                let method = &envelope.method;
                tracing::warn!(%method, "dropped a request that the server may not make here");
                Verdict::Dropped
            }
            Some(other) => other,
        }
    }

    /// Whether a message with this beginning may be forwarded before it is complete.
    pub(super) fn may_forward(&mut self, beginning: &[u8]) -> bool {
        match wire::peek(beginning) {
            Peek::Id(id)
                if !self.is_answered && self.id.as_ref().is_some_and(|own| own.is_spelt(id)) =>
            {
                self.is_answered = true;
                true
            }
            // A notification, or a request whose id comes later in the text.
            Peek::Method => self.takes_requests,
            // A response to another request, or a second response.
            Peek::Id(_) | Peek::Unknown => false,
        }
    }

    /// Records that a message was lost.
    pub(super) fn on_lost(&mut self, why: Why) {
        tracing::warn!(%why, "dropped a message of the server");
        self.lost = Some(why);
    }

    /// Why there is no response, if there is none.
    pub(super) fn missing(&self) -> Option<Error> {
        match self.lost {
            _ if self.is_answered || self.id.is_none() => None,
            Some(why) => Some(why.into()),
            None if self.was_foreign => Some(Error::ForeignAnswer),
            None => Some(Error::NoAnswer),
        }
    }
}

/// Judges a message in the answer to the request `id`. `None` for the response to another request.
fn verdict(text: &str, envelope: &Envelope<'_>, id: Option<&Id>) -> Option<Verdict> {
    if envelope.kind != Kind::Response {
        return Some(Verdict::Other);
    }
    let id = id.filter(|id| is_about(envelope, id))?;
    Some(Verdict::Own(repaired(text, envelope, id)))
}

/// Whether a message is an error without an id. In the answer to a request, it is about that request.
fn has_no_id(envelope: &Envelope<'_>) -> bool {
    envelope.error.is_some() && envelope.id.is_none_or(|id| id == "null" || id == "\"\"")
}

/// The answer to the request `id`, which isn't a success, without a JSON-RPC error that belongs to another request.
pub(super) fn of_request(mut failure: Failure, id: &Id) -> Failure {
    let is_foreign = failure.message.as_deref().is_some_and(|message| {
        Envelope::parse(message).is_ok_and(|envelope| {
            // The Python SDK sends this id where it doesn't know the request's id.
            let is_placeholder = envelope.id == Some("\"server-error\"");
            !envelope.answers(id) && !has_no_id(&envelope) && !is_placeholder
        })
    });
    if is_foreign {
        tracing::warn!("dropped an error: it belongs to no request that was sent here");
        failure.message = None;
        failure.body = bytes::Bytes::new();
    }
    failure
}

/// Whether a response belongs to the request `id`, or has no id.
pub(super) fn is_about(envelope: &Envelope<'_>, id: &Id) -> bool {
    envelope.kind == Kind::Response && (envelope.answers(id) || has_no_id(envelope))
}

/// Repairs a response for the client: its own id, and either an error or a result, not both. `None`
/// if nothing must change.
pub(crate) fn repaired(text: &str, envelope: &Envelope<'_>, id: &Id) -> Option<String> {
    let changed = with_id(text, envelope, id);
    let both = envelope.error.is_some_and(|error| error != "null") && envelope.result.is_some();
    let neither = envelope.error == Some("null");
    if !both && !neither {
        return changed;
    }
    let superfluous = if both { "result" } else { "error" };
    let text = changed.as_deref().unwrap_or(text);
    let Ok(object) = Object::parse(text) else { return changed };
    let mut edits = Edits::new(text);
    edits.members(&object, |member| member.name() == superfluous, &[]);
    Some(edits.apply().map_or_else(|_| unrepairable(id), wire::one_line))
}

/// `text` with another id; `None` if it already has that id.
pub(crate) fn with_id(text: &str, envelope: &Envelope<'_>, id: &Id) -> Option<String> {
    let mut edits = Edits::new(text);
    match envelope.id {
        Some(token) if token == id.token() => return None,
        Some(token) => edits.replace(token, id.token()),
        None => edits.members(&envelope.object, |_| false, &[("id", id.token())]),
    }
    Some(edits.apply().unwrap_or_else(|_| unrepairable(id)))
}

/// Replaces a response that couldn't be repaired.
fn unrepairable(id: &Id) -> String {
    let why = "The server's response can't be forwarded.";
    wire::error_response(id, ErrorCode::INTERNAL_ERROR, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(id: &str) -> Judge {
        Judge::new(Id::from_token(id), true)
    }

    fn verdict(text: &str, id: &str) -> Verdict {
        judge(id).message(text, &Envelope::parse(text).unwrap())
    }

    #[test]
    fn a_response_to_another_request_is_foreign() {
        for other in ["2", "\"1\"", "\"other\"", "-1", "1.5", "null"] {
            let text = format!(r#"{{"jsonrpc":"2.0","id":{other},"result":{{}}}}"#);
            assert_eq!(verdict(&text, "1"), Verdict::Dropped, "{other}");
        }
        let error = r#"{"jsonrpc":"2.0","id":2,"error":{"code":-1,"message":"m"}}"#;
        assert_eq!(verdict(error, "1"), Verdict::Dropped);
    }

    #[test]
    fn an_id_in_another_spelling_is_the_same_id() {
        for (id, other) in [
            ("1", "1.0"),
            ("100", "1e2"),
            ("123456789012345678901", "123456789012345680000"),
            (r#""ab""#, r#""a\u0062""#),
        ] {
            let text = format!(r#"{{"jsonrpc":"2.0","id":{other},"result":{{}}}}"#);
            let expected = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
            assert_eq!(verdict(&text, id), Verdict::Own(Some(expected)));
        }
    }

    #[test]
    fn an_error_without_an_id_is_about_the_request() {
        for id in [r#""id":null,"#, r#""id":"","#, ""] {
            let text = format!(r#"{{"jsonrpc":"2.0",{id}"error":{{"code":-1,"message":"m"}}}}"#);
            assert!(matches!(verdict(&text, "7"), Verdict::Own(Some(_))), "{text}");
        }
    }

    #[test]
    fn an_error_of_another_request_is_cut_from_a_failure() {
        let kept = |id: &str| {
            let message =
                format!(r#"{{"jsonrpc":"2.0",{id}"error":{{"code":-1,"message":"of whom"}}}}"#);
            let failure = Failure {
                host: "h".to_owned(),
                status: http::StatusCode::BAD_REQUEST,
                retry_after: None,
                body: message.clone().into(),
                message: Some(message),
                detail: None,
            };
            let failure = of_request(failure, &Id::from_token("7"));
            assert_eq!(failure.message.is_some(), !failure.body.is_empty());
            failure.message.is_some()
        };
        for own in [r#""id":7,"#, r#""id":7.0,"#, r#""id":null,"#, "", r#""id":"server-error","#] {
            assert!(kept(own), "{own}");
        }
        for foreign in [r#""id":8,"#, r#""id":"7","#, r#""id":"other","#] {
            assert!(!kept(foreign), "{foreign}");
        }
    }

    #[test]
    fn requests_and_notifications_are_no_responses() {
        assert_eq!(verdict(r#"{"method":"notifications/message"}"#, "1"), Verdict::Other);
        assert_eq!(verdict(r#"{"id":1,"method":"roots/list"}"#, "1"), Verdict::Other);
    }

    #[test]
    fn a_request_has_one_response() {
        let own = r#"{"id":1,"result":{}}"#;
        let envelope = Envelope::parse(own).unwrap();
        let mut twice = judge("1");
        assert_eq!(twice.message(own, &envelope), Verdict::Own(None));
        assert_eq!(twice.message(own, &envelope), Verdict::Dropped);
        let beginning = br#"{"jsonrpc":"2.0","id":1,"result":{"text":"xxx"#;
        let mut large = judge("1");
        assert!(large.may_forward(beginning));
        assert!(!large.may_forward(beginning));
        assert_eq!(large.message(own, &envelope), Verdict::Dropped);
        assert!(large.missing().is_none());
    }

    #[test]
    fn a_large_message_passes_by_its_beginning() {
        let mut judge = judge("1");
        assert!(judge.may_forward(br#"{"jsonrpc":"2.0","id":1,"result":{"text":"xxx"#));
        assert!(judge.may_forward(br#"{"method":"notifications/message","params":{"#));
        assert!(!judge.may_forward(br#"{"jsonrpc":"2.0","id":2,"result":{"#));
        assert!(!judge.may_forward(br#"{"result":{"id":1,"text":"xxx"#));
    }

    /// From 2026-07-28 on, servers send no requests.
    #[test]
    fn requests_are_dropped_in_stateless_answers() {
        let question = r#"{"id":1,"method":"roots/list"}"#;
        let note = r#"{"method":"notifications/message"}"#;
        let mut judge = Judge::new(Id::from_token("1"), false);
        let mut verdict = |text| judge.message(text, &Envelope::parse(text).unwrap());
        assert_eq!(verdict(question), Verdict::Dropped);
        assert_eq!(verdict(note), Verdict::Other);
        assert!(!judge.may_forward(br#"{"method":"roots/list","params":{"#));
    }

    #[test]
    fn a_lost_response_is_reported() {
        let missing = |judge: &Judge| judge.missing().map(|error| error.to_string());
        let mut judge = judge("1");
        assert_eq!(missing(&judge), Some(Error::NoAnswer.to_string()));
        let other = r#"{"id":2,"result":{}}"#;
        judge.message(other, &Envelope::parse(other).unwrap());
        assert_eq!(missing(&judge), Some(Error::ForeignAnswer.to_string()));
        judge.on_lost(Why::NotText);
        assert_eq!(missing(&judge), Some(Error::from(Why::NotText).to_string()));
        let own = r#"{"id":1,"result":{}}"#;
        judge.message(own, &Envelope::parse(own).unwrap());
        assert_eq!(missing(&judge), None);
    }

    #[test]
    fn an_unsolicited_stream_expects_no_response() {
        let mut judge = Judge::unsolicited();
        let mut verdict = |text| judge.message(text, &Envelope::parse(text).unwrap());
        assert_eq!(verdict(r#"{"id":1,"result":{}}"#), Verdict::Dropped);
        assert_eq!(verdict(r#"{"id":null,"error":{"code":1,"message":"m"}}"#), Verdict::Dropped);
        assert_eq!(verdict(r#"{"id":1,"method":"roots/list"}"#), Verdict::Other);
        assert!(!judge.may_forward(br#"{"jsonrpc":"2.0","id":1,"result":{"text":"xxx"#));
        assert!(judge.may_forward(br#"{"method":"notifications/message","params":{"#));
        assert!(judge.missing().is_none(), "it may end at any time");
    }
}
