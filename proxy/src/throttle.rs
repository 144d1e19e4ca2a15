//! Recognises how servers report throttling.
//!
//! A server that throttles hasn't acted on the request: it sends 429 (RFC 6585, 4) or, for AWS's MCP servers, the error
//! -32004, with or without `Retry-After`. 503 alone isn't sufficient: by RFC 9110, 15.6.4 a server "is currently unable
//! to handle the request", but load balancers and proxies also send 503 if their connection to the server broke during
//! a call, with or without `Retry-After`. So a 503 counts only if its body is a JSON-RPC error -32004, which only the
//! MCP server itself sends. Any other 503 is repeated like other server errors, if `--retries` allows it and the call
//! is read-only.

use http::StatusCode;

use crate::protocol::THROTTLED;
use crate::upstream::Failure;
use crate::wire::{Envelope, Object};

/// Larger messages aren't examined: errors are small.
pub(crate) const MAX_ERROR: usize = 64 << 10;

/// Whether an answer that isn't a success reports throttling.
pub(crate) fn is_failure(failure: &Failure) -> bool {
    failure.status == StatusCode::TOO_MANY_REQUESTS
        || failure.message.as_deref().is_some_and(|message| {
            Envelope::parse(message).is_ok_and(|envelope| is_error(&envelope))
        })
}

/// Whether a response reports throttling.
pub(crate) fn is_error(envelope: &Envelope<'_>) -> bool {
    let error = envelope.error.and_then(|error| Object::parse(error).ok());
    let code = error.as_ref().and_then(|error| error.find("code"));
    code.and_then(|code| code.parse().ok()) == Some(THROTTLED)
}

/// A fast path: whether a text may be such an error; nearly every message isn't.
pub(crate) fn may_be_error(text: &str) -> bool {
    text.len() <= MAX_ERROR && memchr::memmem::find(text.as_bytes(), b"-32004").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(status: u16, message: Option<&str>) -> Failure {
        Failure {
            host: "h".to_owned(),
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
            body: message.unwrap_or_default().to_owned().into(),
            message: message.map(str::to_owned),
            detail: None,
        }
    }

    #[test]
    fn only_429_or_the_code_reports_throttling() {
        let error = |code: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":{code},"message":"m"}}}}"#)
        };
        let throttled = error("-32004");
        for (status, message, expected) in [
            (429, None, true),
            (429, Some(error("-32000")), true),
            (503, Some(throttled.clone()), true),
            (400, Some(throttled.clone()), true),
            (503, None, false),
            (503, Some(error("-32000")), false),
            (500, None, false),
            (400, Some(error("-320040")), false),
        ] {
            assert_eq!(is_failure(&failure(status, message.as_deref())), expected, "{status}");
        }
        assert!(may_be_error(&throttled) && !may_be_error(&error("-32000")));
        assert!(!may_be_error(&format!("{}{throttled}", " ".repeat(MAX_ERROR))));
        // In a result, the code is ordinary text.
        let result = r#"{"jsonrpc":"2.0","id":1,"result":{"error":{"code":-32004}}}"#;
        assert!(!is_error(&Envelope::parse(result).unwrap()));
    }
}
