//! The answer of the server: messages, nothing, or a failure with a text that is safe to show.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::messages::Messages;
use crate::error::{Error, printable};
use crate::wire;

/// The header with the session id (Streamable HTTP, 2025-03-26 to 2025-11-25).
pub const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// The longest part of an error answer that is read.
const MAX_ERROR_BODY: usize = 1 << 20;

/// An answer; a success has a body of type `B`.
#[derive(Debug)]
pub struct Answer<B = Messages> {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// The broker's audit id of the request's signature; `None` if it was sent unsigned.
    pub audit_id: Option<String>,
    /// The rest of the answer.
    pub reply: Reply<B>,
}

impl<B> Answer<B> {
    /// The id that the server gave to the session, if it did.
    #[must_use]
    pub fn session_id(&self) -> Option<HeaderValue> {
        session_id(&self.headers)
    }
}

/// The session id in the headers of an answer. It is copied: a header value keeps the 8 KB buffer that it was read into,
/// and a session lives for hours.
#[must_use]
pub fn session_id(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(SESSION_ID).and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok())
}

/// The kinds of answers.
#[derive(Debug)]
pub enum Reply<B = Messages> {
    /// A success with nothing to read.
    Accepted,
    /// A success with messages: one in JSON, or a stream of events.
    Messages(Box<B>),
    /// Any answer that isn't a success.
    Failure(Failure),
}

/// An answer that isn't a success.
#[derive(Debug)]
pub struct Failure {
    /// Host and port of the endpoint.
    pub host: String,
    /// The status.
    pub status: StatusCode,
    /// How long the server asks the client to wait.
    pub retry_after: Option<Duration>,
    /// The body if it may be shown; empty if it was too long or quoted the signature.
    pub body: Bytes,
    /// The body if it is a JSON-RPC error.
    pub message: Option<String>,
    /// The first line of the server's own message.
    pub detail: Option<String>,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let Failure { host, status, detail, retry_after, .. } = failure;
        Self::Status { host, status, detail, retry_after }
    }
}

impl Failure {
    /// The error of a request whose answer has no JSON-RPC error.
    #[must_use]
    pub fn error(&self) -> Error {
        let (host, detail) = (self.host.clone(), self.detail.clone());
        Error::Status { host, status: self.status, detail, retry_after: self.retry_after }
    }

    /// Reads an answer that isn't a success. `silence` is the limit for the whole answer.
    pub(super) async fn read(
        mut response: reqwest::Response,
        host: String,
        signature: Option<HeaderMap>,
        silence: Duration,
    ) -> Self {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let kind = media_type(&response);
        let json = kind.as_deref() == Some("application/json");
        let mut body = Vec::new();
        let mut complete = true;
        let limit = silence.min(Duration::from_secs(30));
        let reading = async {
            // An encoded body can't be shown.
            if encoding(response.headers()).is_some() {
                return;
            }
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
        let secrets = Secrets::of(signature.as_ref());
        let summary = match kind.as_deref() {
            Some("text/plain") => first_line(&text, &secrets),
            _ => aws_message(&text, &secrets),
        };
        if !complete || secrets.are_in(&text) {
            text = summary.as_deref().map_or_else(String::new, |summary| {
                format!(r#"{{"message":{}}}"#, wire::quote(summary))
            });
        }
        let message = (json && wire::Envelope::parse(&text).is_ok_and(|it| it.error.is_some()))
            .then(|| text.clone());
        let detail = if status.is_redirection() {
            Some("redirects are never followed, since a signature is for one host".to_owned())
        } else {
            summary.map(with_next_step)
        };
        Self { host, status, retry_after, body: text.into(), message, detail }
    }
}

/// The longest part of an encoding's name that is shown, in characters.
const MAX_ENCODING: usize = 64;

/// The encoding of a body, if it is encoded (RFC 9110, 8.4).
pub(super) fn encoding(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(CONTENT_ENCODING).iter();
    let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let named = values.collect::<Vec<_>>().join(", ");
    let all_identity = named
        .split(',')
        .map(str::trim)
        .all(|it| it.is_empty() || it.eq_ignore_ascii_case("identity"));
    (!all_identity).then(|| printable(&named, MAX_ENCODING))
}

/// In seconds, or until a date (RFC 9110, 10.2.3). A date uses the server's clock, and so does `Date` of the same
/// answer: if both exist, the local clock isn't needed.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let asked = text(RETRY_AFTER)?;
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(asked).ok()?;
    let now = text(DATE).and_then(|date| httpdate::parse_http_date(date).ok());
    Some(until.duration_since(now.unwrap_or_else(clock)).unwrap_or_default())
}

#[allow(
    clippy::disallowed_methods,
    reason = "the edge: only for a server that doesn't say what time it is"
)]
fn clock() -> SystemTime {
    SystemTime::now()
}

/// The media type of an answer, without its parameters.
pub(super) fn media_type(response: &reqwest::Response) -> Option<String> {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.map(|kind| kind.split(';').next().unwrap_or(kind).trim().to_lowercase())
}

/// The longest part of a server's message that is shown, in characters.
const MAX_SUMMARY: usize = 300;

/// The first line of the message in an AWS error body (`message` or `Message`), without secrets.
fn aws_message(body: &str, secrets: &Secrets) -> Option<String> {
    let object = wire::Object::parse(body).ok()?;
    let message = object.find_string("message").or_else(|| object.find_string("Message"))?;
    first_line(&message, secrets)
}

fn first_line(message: &str, secrets: &Secrets) -> Option<String> {
    let line = printable(secrets.redact(message.trim_start().lines().next()?).trim(), MAX_SUMMARY);
    (!line.is_empty()).then_some(line)
}

/// Adds advice to AWS's message about the time of a signature, the most common reason for a refused
/// signature.
fn with_next_step(summary: String) -> String {
    let about_time = [
        // InvalidSignatureException, which current services send:
        "Signature expired",
        "Signature not yet current",
        // RequestTimeTooSkewed, and RequestExpired:
        "request time and the current time",
        "Request has expired",
    ];
    if !about_time.iter().any(|phrase| summary.contains(phrase)) {
        return summary;
    }
    let summary = summary.trim_end_matches('.');
    format!(
        "{summary}. The clock of the machine that the broker runs on is wrong: set it \
         (`timedatectl` shows whether it is synchronised), then repeat the call"
    )
}

/// The parts of a signature that must not be shown: the signature itself and the session token.
/// `SignatureDoesNotMatch` answers with the whole canonical request, including the token. Time and
/// scope aren't secret, and a person needs them to find the error.
struct Secrets(Vec<String>);

impl Secrets {
    fn of(signature: Option<&HeaderMap>) -> Self {
        let text = |name: &str| signature?.get(name)?.to_str().ok();
        let token = text("x-amz-security-token");
        let signature = text(AUTHORIZATION.as_str()).and_then(|it| it.rsplit("Signature=").next());
        Self(token.into_iter().chain(signature).map(str::to_owned).collect())
    }

    /// Whether `text` contains one of them, also with escapes of JSON or URLs.
    fn are_in(&self, text: &str) -> bool {
        let decoded = unescaped(text);
        self.0.iter().any(|secret| text.contains(secret) || decoded.contains(secret))
    }

    /// `text` without the secrets.
    fn redact(&self, text: &str) -> String {
        let cut = self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "…"));
        // A secret in another spelling remains, so nothing is shown.
        if self.are_in(&cut) { String::new() } else { cut }
    }
}

/// `text` with the escapes of JSON (`\/`, `\u002F`) and of URLs (`%2F`) for ASCII decoded: tokens contain many slashes.
fn unescaped(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '%']) {
        decoded.push_str(&rest[..at]);
        let escape = &rest[at..];
        let digits = ["\\u00", "%"].into_iter().find_map(|prefix| {
            let digits = escape.strip_prefix(prefix)?.get(..2)?;
            let byte = u8::from_str_radix(digits, 16).ok().filter(u8::is_ascii)?;
            Some((char::from(byte), prefix.len() + 2))
        });
        let (c, length) = match digits {
            Some(decoded) => decoded,
            None if escape.starts_with("\\/") => ('/', 2),
            None => (if escape.starts_with('%') { '%' } else { '\\' }, 1),
        };
        decoded.push(c);
        rest = &escape[length..];
    }
    decoded.push_str(rest);
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature() -> HeaderMap {
        let mut signature = HeaderMap::new();
        let mut add = |name, value| signature.insert(name, HeaderValue::from_static(value));
        add("x-amz-security-token", "TOKEN/abc+d==");
        add("x-amz-date", "20261125T120000Z");
        add(
            "authorization",
            "AWS4-HMAC-SHA256 Credential=AK/20261125/us-east-1/aws-mcp/aws4_request, \
             SignedHeaders=host, Signature=c0ffee",
        );
        signature
    }

    fn shown(body: &str) -> Option<String> {
        aws_message(body, &Secrets::of(Some(&signature()))).map(with_next_step)
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_a_date() {
        let asked = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
            retry_after(&headers)
        };
        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        // The date has long passed by the local clock: the server doesn't send its own time.
        assert_eq!(asked("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        for other in ["-1", "1.5", "soon", "", "Fri, 31 Dec"] {
            assert_eq!(asked(other), None, "{other}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
        let mut dated = HeaderMap::new();
        dated.insert(RETRY_AFTER, HeaderValue::from_static("Fri, 31 Dec 1999 23:59:59 GMT"));
        dated.insert(DATE, HeaderValue::from_static("Fri, 31 Dec 1999 23:59:29 GMT"));
        assert_eq!(retry_after(&dated), Some(Duration::from_secs(30)), "by the server's clock");
        dated.insert(DATE, HeaderValue::from_static("Sat, 01 Jan 2000 00:00:00 GMT"));
        assert_eq!(retry_after(&dated), Some(Duration::ZERO));
    }

    #[test]
    fn signature_and_token_are_secrets_in_every_spelling() {
        let secrets = Secrets::of(Some(&signature()));
        for text in [
            "got token TOKEN/abc+d== but",
            r"TOKEN\/abc+d==",
            r"TOKEN\u002fabc\u002Bd=\u003d",
            "TOKEN%2Fabc%2bd%3D%3D",
            r"\T%TOKEN/abc+d==",
            "signature c0ffee is wrong",
        ] {
            assert!(secrets.are_in(text), "{text}");
            assert!(!secrets.are_in(&secrets.redact(text)), "{text}");
        }
        for text in ["The security token is invalid", "20261125T120000Z", "AK/20261125", "100% \\u"]
        {
            assert!(!secrets.are_in(text), "{text}");
            assert_eq!(secrets.redact(text), text);
        }
        assert_eq!(secrets.redact("a TOKEN/abc+d== b c0ffee."), "a … b ….");
        assert!(!Secrets::of(None).are_in("c0ffee"));
    }

    #[test]
    fn only_the_first_line_of_an_error_is_shown() {
        let none = Secrets::of(None);
        let body =
            r#"{"message":"The signature does not match.\n\nThe Canonical String was 'POST"}"#;
        assert_eq!(aws_message(body, &none).as_deref(), Some("The signature does not match."));
        assert_eq!(aws_message("<html>", &none), None);
        assert_eq!(aws_message(r#"{"Message":""}"#, &none), None);
        let body = r#"{"message":"a\u001b[2Kb\u2028c"}"#;
        assert_eq!(aws_message(body, &none).as_deref(), Some("a [2Kb c"));
    }

    /// The messages that AWS sends for a refused signature, verbatim.
    #[test]
    fn aws_messages_about_a_signature_are_shown() {
        let clock = "The clock of the machine that the broker runs on is wrong";
        for (summary, about_time) in [
            (
                "Signature expired: 20261125T120000Z is now earlier than 20261125T121000Z \
                 (20261125T121500Z - 5 min.)",
                true,
            ),
            (
                "Signature not yet current: 20261125T120000Z is still later than \
                 20261125T115000Z (20261125T114500Z + 5 min.)",
                true,
            ),
            ("The difference between the request time and the current time is too large.", true),
            ("The security token included in the request is expired", false),
            (
                "The request signature we calculated does not match the signature you provided. \
                 Check your AWS Secret Access Key and signing method. Consult the service \
                 documentation for details.",
                false,
            ),
            ("Credential should be scoped to a valid region. ", false),
        ] {
            let body = format!(
                r#"{{"__type":"com.amazon.coral.service#InvalidSignatureException","message":{}}}"#,
                wire::quote(summary)
            );
            let shown = shown(&body).unwrap();
            assert!(shown.starts_with(summary.trim_end().trim_end_matches('.')), "{shown}");
            assert_eq!(shown.contains(clock), about_time, "{shown}");
        }
    }

    #[test]
    fn a_canonical_request_is_not_shown() {
        let body = r#"{"message":"The request signature we calculated does not match.\n\nThe Canonical String for this request should have been\n'POST\n/mcp\n\nx-amz-security-token:TOKEN\/abc+d=="}"#;
        assert_eq!(
            shown(body).as_deref(),
            Some("The request signature we calculated does not match.")
        );
        assert!(Secrets::of(Some(&signature())).are_in(body));
    }
}
