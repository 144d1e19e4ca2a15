//! Whose answer a message is.
//!
//! A server, or a gateway in front of it, may mix up the answers of its callers (GHSA-345p-7cg4-v4c7):
//! what has the id of another request reaches nobody.

use rmcp::model::ErrorCode;

use crate::wire::{self, Edits, Envelope, Id, Kind, Object};

/// What a message in the answer to a request is to that request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its response; the text to show in its place, where the client couldn't take it as it came.
    Own(Option<String>),
    /// The response to another request.
    Foreign,
    /// A request or a notification.
    Other,
}

/// Judges a message in the answer to the request `id`.
pub(crate) fn judge(text: &str, envelope: &Envelope<'_>, id: &Id) -> Verdict {
    match envelope.kind {
        Kind::Request | Kind::Notification => Verdict::Other,
        Kind::Response if envelope.answers(id) || has_no_id(envelope) => {
            Verdict::Own(repaired(text, envelope, id))
        }
        Kind::Response => Verdict::Foreign,
    }
}

/// Whether a message is an error that the server didn't attribute: in the answer to a request, it is
/// about that request.
fn has_no_id(envelope: &Envelope<'_>) -> bool {
    envelope.error.is_some() && envelope.id.is_none_or(|id| id == "null" || id == "\"\"")
}

/// A response as the client can take it, under its own id, and with an error or a result, not both;
/// `None` where it is like that.
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
    Some(edits.apply().map_or_else(|_| unfit(id), wire::one_line))
}

/// `text` under another id; `None` where it has that id.
pub(crate) fn with_id(text: &str, envelope: &Envelope<'_>, id: &Id) -> Option<String> {
    let mut edits = Edits::new(text);
    match envelope.id {
        Some(token) if token == id.token() => return None,
        Some(token) => edits.replace(token, id.token()),
        None => edits.members(&envelope.object, |_| false, &[("id", id.token())]),
    }
    Some(edits.apply().unwrap_or_else(|_| unfit(id)))
}

/// In the place of a response that can't be changed as it must be.
fn unfit(id: &Id) -> String {
    let why = "The server's response can't be passed on.";
    wire::error_response(id, ErrorCode::INTERNAL_ERROR, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &str, id: &str) -> Verdict {
        judge(text, &Envelope::parse(text).unwrap(), &Id::from_token(id))
    }

    #[test]
    fn a_response_to_another_request_is_foreign() {
        for other in ["2", "\"1\"", "\"other\"", "-1", "1.5", "null"] {
            let text = format!(r#"{{"jsonrpc":"2.0","id":{other},"result":{{}}}}"#);
            assert_eq!(verdict(&text, "1"), Verdict::Foreign, "{other}");
        }
        let error = r#"{"jsonrpc":"2.0","id":2,"error":{"code":-1,"message":"m"}}"#;
        assert_eq!(verdict(error, "1"), Verdict::Foreign);
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
    fn what_answers_nothing_is_neither() {
        assert_eq!(verdict(r#"{"method":"notifications/message"}"#, "1"), Verdict::Other);
        assert_eq!(verdict(r#"{"id":1,"method":"roots/list"}"#, "1"), Verdict::Other);
    }
}
