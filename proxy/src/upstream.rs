//! One signed HTTP exchange with the endpoint.
//!
//! The bytes that were signed are the bytes that are sent. A redirect is an answer, never a place to
//! go: a signature is for one host. A refused signature is repeated once, if the broker has fresh
//! credentials by then; nothing else is sent twice from here.

mod body;
mod messages;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use url::Url;

pub use self::messages::{Incoming, Messages};
use crate::budget::Budget;
use crate::config::{MESSAGES_IN_TRANSIT, ProfileName, Timeouts};
use crate::error::{Error, innermost};
use crate::signer::Signer;
use crate::wire;

/// The session that a server binds requests to (Streamable HTTP, 2025-03-26 to 2025-11-25).
pub const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// How much of an error answer is read.
const MAX_ERROR_BODY: usize = 1 << 20;

/// One request, as it will be signed and sent.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Whose credentials sign it.
    pub profile: ProfileName,
    /// POST, GET or DELETE.
    pub method: Method,
    /// All headers that the signature covers.
    pub headers: HeaderMap,
    /// The body; empty but for POST.
    pub body: Bytes,
    /// No limit on silence: a stream that may have nothing to say for hours.
    pub patient: bool,
}

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

/// The endpoint, and how to speak to it.
#[derive(Debug)]
pub struct Upstream {
    client: reqwest::Client,
    signer: Signer,
    url: Url,
    host: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    timeouts: Timeouts,
    skip_auth: bool,
    user_agent: OnceLock<HeaderValue>,
    telemetry: bool,
    budget: Budget,
}

/// The parts of an [`Upstream`].
#[derive(Debug)]
pub struct Settings {
    /// The endpoint.
    pub url: Url,
    /// Sent with every request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The waits.
    pub timeouts: Timeouts,
    /// Send unsigned where there are no credentials.
    pub skip_auth: bool,
    /// Whether the client's name goes into `User-Agent`.
    pub telemetry: bool,
}

impl Upstream {
    /// An upstream without a connection yet. Fails if the machine's trusted roots can't be read.
    pub fn new(settings: Settings, signer: Signer) -> Result<Self, reqwest::Error> {
        let Settings { url, headers, timeouts, skip_auth, telemetry } = settings;
        let mut builder = reqwest::Client::builder();
        // HTTP_PROXY would take what is for this machine to another one, in clear text: a signature
        // and a session token that anybody on the way could use. HTTPS_PROXY sees a tunnel.
        if url.scheme() == "http" {
            builder = builder.no_proxy();
        }
        let client = builder
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .http1_only()
            .connect_timeout(timeouts.connect)
            .pool_idle_timeout(Duration::from_secs(55))
            .tcp_nodelay(true)
            .build()?;
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        Ok(Self {
            client,
            signer,
            url,
            host,
            headers,
            timeouts,
            skip_auth,
            user_agent: OnceLock::new(),
            telemetry,
            budget: Budget::new(MESSAGES_IN_TRANSIT),
        })
    }

    /// Names the client in `User-Agent` from now on, unless telemetry is off.
    pub fn introduce(&self, client: &str, version: &str) {
        if !self.is_introduced() {
            let client = client.to_lowercase().replace([' ', '/'], "-");
            if let Ok(value) =
                HeaderValue::try_from(format!("{USER_AGENT_NAME} {client}/{version}"))
            {
                let _ = self.user_agent.set(value);
            }
        }
    }

    /// Whether the client needn't be named any more.
    #[must_use]
    pub fn is_introduced(&self) -> bool {
        !self.telemetry || self.user_agent.get().is_some()
    }

    /// Signs, sends and reads. `sent` becomes true before the first byte may leave.
    pub async fn exchange(&self, out: Outgoing, sent: &AtomicBool) -> Result<Answer, Error> {
        let patient = out.patient;
        let (response, signature) = self.signed(out, sent).await?;
        self.read(response, signature, patient).await
    }

    /// Signs and sends, and leaves the reading to the caller.
    pub async fn pass(&self, out: Outgoing, sent: &AtomicBool) -> Result<Passed, Error> {
        let (response, signature) = self.signed(out, sent).await?;
        if response.status().is_success() {
            return Ok(Passed::Success(response));
        }
        let headers = response.headers().clone();
        let json = media_type(&response).as_deref() == Some("application/json");
        let (failure, body) = self.failure(response, json, signature).await;
        Ok(Passed::Failure { failure, headers, body })
    }

    /// The memory that messages share.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Host and port of the endpoint.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// How long an answer may be silent between two pieces.
    #[must_use]
    pub fn read_timeout(&self) -> Duration {
        self.timeouts.read
    }

    async fn signed(
        &self,
        mut out: Outgoing,
        sent: &AtomicBool,
    ) -> Result<(reqwest::Response, Option<HeaderMap>), Error> {
        for (name, value) in &self.headers {
            if !out.headers.contains_key(name) {
                out.headers.append(name, value.clone());
            }
        }
        let mut signature = self.sign(&out).await?;
        let mut response = self.send(&out, signature.as_ref().map(|it| &it.0), sent).await?;
        if let Some((_, generation)) = signature
            && matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            && self.signer.refreshed(&out.profile, generation).await?
        {
            tracing::info!(profile = %out.profile, "signature refused, once more with fresh credentials");
            signature = self.sign(&out).await?;
            response = self.send(&out, signature.as_ref().map(|it| &it.0), sent).await?;
        }
        Ok((response, signature.map(|it| it.0)))
    }

    /// The headers to add; `None` to send unsigned.
    async fn sign(&self, out: &Outgoing) -> Result<Option<(HeaderMap, u64)>, Error> {
        match self.signer.sign(&out.profile, &out.method, &self.url, &out.headers, &out.body).await
        {
            Ok(signature) => Ok(Some((signature.headers, signature.credential_generation))),
            Err(error) if self.skip_auth && error.lacks_credentials() => {
                tracing::warn!(%error, "sending unsigned (--skip-auth)");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn send(
        &self,
        out: &Outgoing,
        signature: Option<&HeaderMap>,
        sent: &AtomicBool,
    ) -> Result<reqwest::Response, Error> {
        let mut request = reqwest::Request::new(out.method.clone(), self.url.clone());
        let headers = request.headers_mut();
        headers.extend(out.headers.clone());
        if let Some(signature) = signature {
            headers.extend(signature.clone());
        }
        // Not signed: an HTTP stack on the way may change it.
        headers.insert(
            USER_AGENT,
            self.user_agent.get().cloned().unwrap_or(HeaderValue::from_static(USER_AGENT_NAME)),
        );
        let (body, progress) = body::paced(out.body.clone());
        if !out.body.is_empty() {
            *request.body_mut() = Some(reqwest::Body::wrap(body));
        }
        sent.store(true, Ordering::Release);
        let mut response = std::pin::pin!(self.client.execute(request));
        loop {
            let taken = progress.taken();
            let (limit, what, option) = if taken < out.body.len() {
                (self.timeouts.write, "didn't take the request", "--write-timeout")
            } else {
                (self.timeouts.read, "sent nothing", "--read-timeout")
            };
            // Connecting has a limit of its own, inside.
            let limit = limit.saturating_add(self.timeouts.connect);
            match tokio::time::timeout(limit, &mut response).await {
                Ok(answer) => return answer.map_err(|error| self.error(error)),
                Err(_) if progress.taken() > taken || out.patient => {}
                Err(_) => {
                    let (host, after) = (self.host.clone(), limit);
                    return Err(Error::Timeout { host, what, after, option });
                }
            }
        }
    }

    async fn read(
        &self,
        response: reqwest::Response,
        signature: Option<HeaderMap>,
        patient: bool,
    ) -> Result<Answer, Error> {
        let status = response.status();
        let session_id = response.headers().get(SESSION_ID).cloned();
        let kind = media_type(&response);
        let read = (!patient).then_some(self.timeouts.read);
        let reply = if !status.is_success() {
            let json = kind.as_deref() == Some("application/json");
            Reply::Failure(self.failure(response, json, signature).await.0)
        } else if status == StatusCode::ACCEPTED || status == StatusCode::NO_CONTENT {
            Reply::Accepted
        } else {
            match kind.as_deref() {
                Some("text/event-stream") => Reply::Messages(Box::new(Messages::events(
                    response,
                    self.host.clone(),
                    read,
                    self.budget.clone(),
                ))),
                Some("application/json") => {
                    let budget = self.budget.clone();
                    Reply::Messages(Box::new(Messages::json(
                        response,
                        self.host.clone(),
                        read,
                        budget,
                    )))
                }
                _ if response.content_length() == Some(0) => Reply::Accepted,
                _ => {
                    return Err(Error::NotMessage(
                        "its content type is neither application/json nor text/event-stream; is \
                         this the URL of an MCP endpoint?",
                    ));
                }
            }
        };
        Ok(Answer { session_id, reply })
    }

    async fn failure(
        &self,
        mut response: reqwest::Response,
        json: bool,
        signature: Option<HeaderMap>,
    ) -> (Failure, Bytes) {
        let status = response.status();
        let mut body = Vec::new();
        let mut complete = true;
        let limit = self.timeouts.read.min(Duration::from_secs(30));
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
        (Failure { host: self.host.clone(), status, message, detail }, body)
    }

    fn error(&self, error: reqwest::Error) -> Error {
        let host = self.host.clone();
        let detail = if error.is_timeout() && error.is_connect() {
            format!(
                "no connection within {} s (--connect-timeout)",
                self.timeouts.connect.as_secs_f64()
            )
        } else {
            innermost(&error)
        };
        if error.is_connect() {
            Error::Connect { host, detail }
        } else {
            Error::Interrupted { host, detail }
        }
    }
}

/// The media type of an answer, without its parameters.
#[must_use]
pub fn media_type(response: &reqwest::Response) -> Option<String> {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.map(|kind| kind.split(';').next().unwrap_or(kind).trim().to_lowercase())
}

const USER_AGENT_NAME: &str = concat!("sigward-proxy/", env!("CARGO_PKG_VERSION"));

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
