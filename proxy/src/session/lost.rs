//! Recognises how servers report that they no longer have a session.

use http::StatusCode;

use crate::protocol::AWS_SESSION_EXPIRED;
use crate::upstream::Failure;
use crate::wire::{Envelope, Object};

/// Whether a failure reports that the session is lost. `is_bound` is set if the request named a
/// session.
///
/// The specification has 404, and 410 means the same. Servers of other SDKs, and gateways, use another status with a
/// text: 400 from the TypeScript SDK and mcp-go, 401 from rmcp. AWS has its own code.
#[must_use]
pub(crate) fn is_lost(failure: &Failure, is_bound: bool) -> bool {
    match failure.message.as_deref().and_then(error_code) {
        Some(AWS_SESSION_EXPIRED) => return true,
        // The server has the session, but not the method.
        Some(-32601) => return false,
        _ => {}
    }
    if !is_bound {
        return false;
    }
    match failure.status {
        StatusCode::NOT_FOUND | StatusCode::GONE => true,
        // These are about the request or the client, whatever their text.
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::TOO_MANY_REQUESTS => false,
        status if status.is_client_error() => {
            let message = failure.message.as_deref().and_then(error_message);
            let words = message.as_deref().or(failure.detail.as_deref());
            let body =
                || String::from_utf8_lossy(&failure.body[..failure.body.len().min(MAX_WORDS)]);
            match words {
                Some(words) => reports_loss(words),
                // Plain text, or JSON of an unknown shape.
                None => reports_loss(&body()),
            }
        }
        // The server may have acted on the request.
        _ => false,
    }
}

/// The longest part of a body that is examined, in bytes.
const MAX_WORDS: usize = 1024;

/// Whether a text reports that the session doesn't exist.
fn reports_loss(words: &str) -> bool {
    const LOSS: [&str; 22] = [
        "no valid",
        "invalid",
        "not valid",
        "not found",
        "no such",
        "no session",
        "no active",
        "not active",
        "inactive",
        "no longer",
        "expired",
        "timed out",
        "unknown",
        "unrecognized",
        "not recognized",
        "terminated",
        "closed",
        "ended",
        "not exist",
        "doesn't exist",
        "missing",
        "required",
    ];
    let words = separated(words);
    let has = |phrase: &str| words.contains(&format!(" {phrase}"));
    // AWS also writes about session tokens and session policies, which are about credentials.
    let names_session = has("session") && !has("token") && !has("polic");
    let is_lost = names_session && LOSS.iter().any(|loss| has(loss));
    // From the TypeScript SDK and the Python SDK after a restart.
    is_lost || has("server not initialized") || has("before initialization")
}

/// `text` in lower case, with one space before each word, so that `SessionNotFound`, `session_not_found` and `Session
/// not found` are equal.
fn separated(text: &str) -> String {
    let mut words = String::with_capacity(text.len() + 8);
    let mut before = ' ';
    for c in text.chars() {
        let is_word = c.is_alphanumeric() || c == '\'';
        let begins = is_word
            && (!before.is_alphanumeric() && before != '\''
                || before.is_lowercase() && c.is_uppercase());
        if begins {
            words.push(' ');
        }
        if is_word {
            words.extend(c.to_lowercase());
        }
        before = c;
    }
    words
}

/// The code of a JSON-RPC error message.
#[must_use]
pub(crate) fn error_code(message: &str) -> Option<i64> {
    code_of(&Envelope::parse(message).ok()?)
}

/// The code of the error in a message.
#[must_use]
pub(crate) fn code_of(envelope: &Envelope<'_>) -> Option<i64> {
    Object::parse(envelope.error?).ok()?.find("code")?.parse().ok()
}

/// The message of a JSON-RPC error.
pub(super) fn error_message(text: &str) -> Option<String> {
    let envelope = Envelope::parse(text).ok()?;
    let error = Object::parse(envelope.error?).ok()?;
    error.find_string("message").map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(status: u16, message: Option<&str>, detail: Option<&str>) -> Failure {
        Failure {
            host: "h".to_owned(),
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
            body: bytes::Bytes::new(),
            message: message.map(|message| {
                format!(r#"{{"jsonrpc":"2.0","id":null,"error":{{"code":-32000,"message":"{message}"}}}}"#)
            }),
            detail: detail.map(str::to_owned),
        }
    }

    #[test]
    fn the_reports_of_a_lost_session_by_known_servers_are_recognised() {
        for words in [
            "Bad Request: No valid session ID provided",
            "Bad Request: Server not initialized",
            "Invalid session ID",
            "Session expired",
            "Session has been terminated",
            "No session found for id abc",
            "Bad Request: No active session",
            "Bad Request: Mcp-Session-Id header is required",
            "Unauthorized: Session not found",
            "The session doesn't exist",
            "session timed out",
            "Received request before initialization was complete",
        ] {
            for status in [400, 401, 403, 409, 412, 422, 440] {
                assert!(is_lost(&failure(status, Some(words), None), true), "{status} {words}");
                assert!(is_lost(&failure(status, None, Some(words)), true), "{status} {words}");
                let mut other = failure(status, None, None);
                other.body = words.to_owned().into();
                assert!(is_lost(&other, true), "{status} {words}");
                assert!(!is_lost(&failure(status, Some(words), None), false), "none was named");
            }
            assert!(!is_lost(&failure(500, Some(words), None), true), "it may have acted");
        }
        assert!(
            is_lost(&failure(404, None, None), true) && is_lost(&failure(410, None, None), true)
        );
    }

    #[test]
    fn error_names_are_split_into_words() {
        for body in [
            r#"{"error":"session_not_found"}"#,
            r#"{"error":{"code":"SessionNotFound"}}"#,
            r#"{"__type":"InvalidSessionException"}"#,
            "SESSION_EXPIRED",
        ] {
            let mut failure = failure(400, None, None);
            failure.body = body.into();
            assert!(is_lost(&failure, true), "{body}");
        }
    }

    #[test]
    fn other_refusals_keep_the_session() {
        for words in [
            "User: arn:aws:sts::123456789012:assumed-role/a/b is not authorized to perform: \
             x:Invoke because no session policy allows the x:Invoke action",
            "This obsession is required",
            "Too many sessions",
            "Bad Request: Unsupported protocol version",
            "The session token included in the request is invalid",
            "Not Acceptable",
        ] {
            assert!(!is_lost(&failure(400, Some(words), None), true), "{words}");
        }
        assert!(!is_lost(&failure(400, None, None), true));
        let unknown_method =
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found"}}"#;
        let mut failure = failure(404, None, None);
        failure.message = Some(unknown_method.to_owned());
        assert!(!is_lost(&failure, true));
    }
}
