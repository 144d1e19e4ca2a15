//! What came back: messages, nothing, or a failure whose words are safe to show.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::messages::Messages;
use crate::error::Error;
use crate::wire;

/// How much of an error answer is read.
const MAX_ERROR_BODY: usize = 1 << 20;

/// An answer for whoever passes it on as it came.
#[derive(Debug)]
pub enum Passed {
    /// Success; the body is still on its way.
    Success(reqwest::Response),
    /// Anything else, and the body, where that may be shown.
    Failure {
        /// What it says.
        failure: Failure,
        /// Its headers.
        headers: HeaderMap,
        /// Empty if it was too long, or quoted the signature.
        body: Bytes,
    },
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The id that the server gave the session, if it did.
    pub session_id: Option<HeaderValue>,
    /// The rest.
    pub reply: Reply,
}

/// The kinds of answers.
#[derive(Debug)]
pub enum Reply {
    /// Success, and nothing to read.
    Accepted,
    /// Success, with messages: one in JSON, or a stream of events.
    Messages(Box<Messages>),
    /// Anything that isn't success.
    Failure(Failure),
}

/// An answer that isn't success.
#[derive(Debug)]
pub struct Failure {
    /// Host and port of the endpoint.
    pub host: String,
    /// The status.
    pub status: StatusCode,
    /// The body, where it is a JSON-RPC error.
    pub message: Option<String>,
    /// The first line of the server's own words.
    pub detail: Option<String>,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let Failure { host, status, detail, .. } = failure;
        Self::Status { host, status, detail }
    }
}

impl Failure {
    /// Reads an answer that isn't success, and its body, where that may be shown: empty if it was too
    /// long, or quoted the signature. `silence` limits all of it.
    pub(super) async fn read(
        mut response: reqwest::Response,
        host: String,
        signature: Option<HeaderMap>,
        silence: Duration,
    ) -> (Self, Bytes) {
        let status = response.status();
        let json = media_type(&response).as_deref() == Some("application/json");
        let mut body = Vec::new();
        let mut complete = true;
        let limit = silence.min(Duration::from_secs(30));
        let reading = async {
            while let Ok(Some(piece)) = response.chunk().await {
                if body.len() + piece.len() > MAX_ERROR_BODY {
                    complete = false;
                    break;
                }
                body.extend_from_slice(&piece);
            }
        };
        let _ = tokio::time::timeout(limit, reading).await;
        let mut text = String::from_utf8(body).unwrap_or_default();
        if !complete || quotes(&text, signature.as_ref()) {
            text = own_words(&text).map_or_else(String::new, |words| {
                format!(r#"{{"message":{}}}"#, wire::quote(&words))
            });
        }
        let message = (json && wire::Envelope::parse(&text).is_ok_and(|it| it.error.is_some()))
            .then(|| text.clone());
        let detail = if status.is_redirection() {
            Some("redirects are never followed, since a signature is for one host".to_owned())
        } else {
            own_words(&text).filter(|words| !quotes(words, signature.as_ref()))
        };
        let quoted = quotes(&text, signature.as_ref());
        let body = if quoted { Bytes::new() } else { text.into() };
        (Self { host, status, message, detail }, body)
    }
}

/// The media type of an answer, without its parameters.
#[must_use]
pub fn media_type(response: &reqwest::Response) -> Option<String> {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.map(|kind| kind.split(';').next().unwrap_or(kind).trim().to_lowercase())
}

/// The first line of the message in an AWS error body (`message` or `Message`).
fn own_words(body: &str) -> Option<String> {
    let object = wire::Object::parse(body).ok()?;
    let message = object.find_string("message").or_else(|| object.find_string("Message"))?;
    let line = message.lines().next()?.trim();
    let line: String = line.chars().filter(|c| !c.is_control()).take(300).collect();
    (!line.is_empty()).then_some(line)
}

/// Whether an upstream's words quote what only the signature holds: `SignatureDoesNotMatch` answers
/// with the whole canonical request, session token included.
fn quotes(words: &str, signature: Option<&HeaderMap>) -> bool {
    // In JSON a slash may be written as \\/, and tokens are full of them.
    let words = words.replace("\\/", "/");
    let values = signature.into_iter().flat_map(|headers| headers.iter());
    values.filter_map(|(name, value)| value.to_str().ok().map(|value| (name, value))).any(
        |(name, value)| {
            words.contains(value)
                || (name == AUTHORIZATION
                    && value.rsplit('=').next().is_some_and(|signature| words.contains(signature)))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_may_not_quote_the_signature() {
        let mut signature = HeaderMap::new();
        signature.insert("x-amz-security-token", HeaderValue::from_static("TOKEN/abc=="));
        signature.insert(
            AUTHORIZATION,
            HeaderValue::from_static(
                "AWS4-HMAC-SHA256 Credential=AK/s, SignedHeaders=host, Signature=c0ffee",
            ),
        );
        assert!(quotes("got token TOKEN/abc== but", Some(&signature)));
        assert!(quotes("signature c0ffee is wrong", Some(&signature)));
        assert!(!quotes("The security token is invalid", Some(&signature)));
    }

    #[test]
    fn only_the_first_line_of_an_error_is_shown() {
        let body =
            r#"{"message":"The signature does not match.\n\nThe Canonical String was 'POST"}"#;
        assert_eq!(own_words(body).as_deref(), Some("The signature does not match."));
        assert_eq!(own_words("<html>"), None);
        assert_eq!(own_words(r#"{"Message":""}"#), None);
    }
}
