//! What is changed in the messages of an answer on their way to an HTTP client.

use crate::exchange::{Verdict, judge};
use crate::wire::{self, Envelope, Id};

/// What happens to the data of an event, or to a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It goes on as it came.
    Keep,
    /// This goes on in its place.
    Replace(String),
    /// Nothing goes on.
    Drop,
}

/// Sees a response, and may give another to show in its place.
type Inspect = Box<dyn FnMut(&str) -> Option<String> + Send>;

/// What looks at the response.
pub(super) struct Watch {
    /// Sees the response, and may put another in its place.
    pub(super) inspect: Inspect,
    /// Whether it must see a response that is large, too.
    pub(super) needs_whole: bool,
}

/// The rule for the answer to one request.
pub(super) struct Rule {
    id: Id,
    watch: Option<Watch>,
    /// Whether the response was seen.
    answered: bool,
    /// Whether a response to another request was dropped.
    was_foreign: bool,
}

impl Rule {
    /// The rule for the answer to the request `id`, whose response `watch` sees.
    pub(super) fn new(id: Id, watch: Option<Watch>) -> Self {
        Self { id, watch, answered: false, was_foreign: false }
    }

    /// Whether the answer held a response to another request, and not its own.
    pub(super) fn is_foreign(&self) -> bool {
        self.was_foreign && !self.answered
    }

    /// The id of the request.
    pub(super) fn id(&self) -> &Id {
        &self.id
    }

    /// Whether a message whose beginning this is may go on before it is complete.
    pub(super) fn passes_by(&mut self, beginning: &[u8]) -> bool {
        if self.watch.as_ref().is_some_and(|watch| watch.needs_whole) {
            return false;
        }
        match wire::peek(beginning) {
            wire::Peek::Id(id) if self.id.is_spelt(id) && !self.answered => {
                self.answered = true;
                true
            }
            wire::Peek::Method => true,
            // Foreign, or a second one.
            wire::Peek::Id(_) | wire::Peek::Unknown => false,
        }
    }

    /// Judges the data of an event, or a body: a message, or a batch (2025-03-26).
    pub(super) fn apply(&mut self, text: &str) -> Change {
        match wire::batch(text) {
            Ok(None) => self.message(text),
            Ok(Some(batch)) => self.batch(&batch),
            Err(_) => Change::Keep,
        }
    }

    fn batch(&mut self, batch: &[&str]) -> Change {
        let changes: Vec<Change> = batch.iter().map(|text| self.message(text)).collect();
        if changes.iter().all(|change| *change == Change::Keep) {
            return Change::Keep;
        }
        let kept: Vec<&str> = batch
            .iter()
            .zip(&changes)
            .filter_map(|(text, change)| match change {
                Change::Keep => Some(*text),
                Change::Replace(other) => Some(other.as_str()),
                Change::Drop => None,
            })
            .collect();
        if kept.is_empty() {
            Change::Drop
        } else {
            Change::Replace(format!("[{}]", kept.join(",")))
        }
    }

    fn message(&mut self, text: &str) -> Change {
        let Ok(envelope) = Envelope::parse(text) else { return Change::Keep };
        match judge(text, &envelope, &self.id) {
            Verdict::Other => Change::Keep,
            Verdict::Foreign => {
                tracing::warn!("dropped a response to another request from the answer to this one");
                self.was_foreign = true;
                Change::Drop
            }
            // A server that replays what it has sent: the client has no request for this any more.
            Verdict::Own(_) if self.answered => {
                tracing::warn!("dropped a second response to the same request");
                Change::Drop
            }
            Verdict::Own(repaired) => {
                self.answered = true;
                let seen = repaired.as_deref().unwrap_or(text);
                let changed = self.watch.as_mut().and_then(|watch| (watch.inspect)(seen));
                changed.or(repaired).map_or(Change::Keep, Change::Replace)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_batch_only_what_is_foreign_is_dropped() {
        let mut rule = Rule::new(Id::from_token("1"), None);
        let (note, own, other) = (
            r#"{"method":"notifications/message"}"#,
            r#"{"id":1,"result":{}}"#,
            r#"{"id":2,"result":{}}"#,
        );
        assert_eq!(rule.apply(&format!("[{note},{own}]")), Change::Keep);
        let mut rule = Rule::new(Id::from_token("1"), None);
        let kept = Change::Replace(format!("[{note},{own}]"));
        assert_eq!(rule.apply(&format!("[{note}, {other}, {own}]")), kept);
        assert_eq!(rule.apply(&format!("[{other}]")), Change::Drop);
        assert!(!rule.is_foreign(), "its own came too");
    }

    #[test]
    fn a_request_has_one_response() {
        let own = r#"{"id":1,"result":{}}"#;
        let mut rule = Rule::new(Id::from_token("1"), None);
        assert_eq!((rule.apply(own), rule.apply(own)), (Change::Keep, Change::Drop));
        let mut rule = Rule::new(Id::from_token("1"), None);
        assert!(rule.passes_by(br#"{"jsonrpc":"2.0","id":1,"result":{"text":"xxx"#));
        assert!(!rule.passes_by(br#"{"jsonrpc":"2.0","id":1,"result":{"text":"xxx"#));
        assert_eq!(rule.apply(own), Change::Drop);
    }

    #[test]
    fn a_large_message_passes_by_its_beginning() {
        let mut rule = Rule::new(Id::from_token("1"), None);
        assert!(rule.passes_by(br#"{"jsonrpc":"2.0","id":1,"result":{"text":"xxx"#));
        assert!(rule.passes_by(br#"{"method":"notifications/message","params":{"#));
        assert!(!rule.passes_by(br#"{"jsonrpc":"2.0","id":2,"result":{"#));
        assert!(!rule.passes_by(br#"{"result":{"id":1,"text":"xxx"#));
    }
}
