//! The signs by which servers tell that they no longer know a session.

use http::StatusCode;

use crate::protocol::AWS_SESSION_EXPIRED;
use crate::upstream::Failure;
use crate::wire::{Envelope, Object};

/// Whether a failure says that the session is lost; `is_bound`: the request named one.
///
/// The specification has 404. Servers on the TypeScript SDK answer 400 with words, as some gateways
/// do with 401; 410 is what 404 should have been. AWS has a code of its own.
#[must_use]
pub(crate) fn is_lost(failure: &Failure, is_bound: bool) -> bool {
    match failure.message.as_deref().and_then(error_code) {
        Some(AWS_SESSION_EXPIRED) => return true,
        // A server that has the session, but not the method, says so in JSON-RPC.
        Some(-32601) => return false,
        _ => {}
    }
    if !is_bound {
        return false;
    }
    match failure.status {
        StatusCode::NOT_FOUND | StatusCode::GONE => true,
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED => {
            let message = failure.message.as_deref().and_then(error_message);
            message.as_ref().or(failure.detail.as_ref()).is_some_and(|words| tells_loss(words))
        }
        _ => false,
    }
}

/// Whether words say that there is no such session.
fn tells_loss(words: &str) -> bool {
    const LOSS: [&str; 11] = [
        "no valid",
        "invalid",
        "not valid",
        "not found",
        "no such",
        "expired",
        "unknown",
        "terminated",
        "does not exist",
        "doesn't exist",
        "missing",
    ];
    let words = words.to_lowercase();
    // A token of a session of AWS is something else: credentials.
    let names_session = words.contains("session") && !words.contains("token");
    let is_lost = names_session && LOSS.iter().any(|loss| words.contains(loss));
    // The TypeScript SDK, after a restart: each session is a transport of its own there.
    is_lost || words.contains("server not initialized")
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
    fn servers_tell_the_loss_of_a_session_in_several_ways() {
        for words in [
            "Bad Request: No valid session ID provided",
            "Bad Request: Server not initialized",
            "Invalid session ID",
            "Session expired",
            "Session has been terminated",
        ] {
            for status in [400, 401] {
                assert!(is_lost(&failure(status, Some(words), None), true), "{status} {words}");
                assert!(is_lost(&failure(status, None, Some(words)), true), "{status} {words}");
                assert!(!is_lost(&failure(status, Some(words), None), false), "none was named");
            }
            assert!(!is_lost(&failure(500, Some(words), None), true), "it may have acted");
        }
        assert!(
            is_lost(&failure(404, None, None), true) && is_lost(&failure(410, None, None), true)
        );
    }

    #[test]
    fn other_refusals_leave_the_session() {
        for words in [
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
