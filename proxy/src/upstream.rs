//! One signed HTTP exchange with the endpoint.
//!
//! The bytes that were signed are the bytes that are sent. A redirect is an answer, never a place to
//! go: a signature is for one host. A refused signature is repeated once, if the broker has fresh
//! credentials by then; nothing else is sent twice from here.

mod answer;
mod body;
mod connections;
mod connector;
mod frames;
mod messages;
mod probe;
mod trust;
mod warm;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use sigward_proto::phase;
use tracing::Instrument;
use tracing::field::Empty;
use url::Url;

pub use self::answer::{Answer, Failure, Reply, SESSION_ID, session_id};
use self::answer::{encoding, media_type};
use self::connections::Connections;
pub use self::frames::{Frame, Frames, Whole};
pub use self::messages::{Incoming, Messages};
pub use self::trust::SetupError;
use crate::budget::Budget;
use crate::config::{Config, Network, ProfileName, Timeouts};
use crate::error::{Error, innermost};
use crate::signer::{Signature, Signer};

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
    /// Without a signature: what needs nobody's identity, while nobody can sign.
    pub unsigned: bool,
    /// Set before the first byte may leave.
    pub sent: Sent,
    /// The memory that messages of the answer take.
    pub budget: Budget,
}

/// Whether a request may have reached the server; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Sent(Arc<AtomicBool>);

impl Sent {
    /// Whether the server may know of the request.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// The server said that it didn't act on the request: there is nothing that it knows of.
    pub(crate) fn unset(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The endpoint, and how to speak to it for one client.
#[derive(Debug)]
pub struct Upstream {
    common: Arc<Common>,
    /// What the client calls itself.
    user_agent: OnceLock<HeaderValue>,
}

/// What all clients share.
#[derive(Debug)]
struct Common {
    connections: Connections,
    signer: Signer,
    url: Url,
    host: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    timeouts: Timeouts,
    skip_auth: bool,
    telemetry: bool,
    /// The server's certificate in DER, where somebody wants to know.
    certificate: Option<OnceLock<Vec<u8>>>,
}

/// The parts of an [`Upstream`].
#[derive(Debug)]
pub struct Settings {
    /// The endpoint.
    pub url: Url,
    /// How it is reached.
    pub network: Network,
    /// Sent with every request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The waits.
    pub timeouts: Timeouts,
    /// Send unsigned where there are no credentials.
    pub skip_auth: bool,
    /// Whether the client's name goes into `User-Agent`.
    pub telemetry: bool,
    /// Whether the server's certificate is kept, for whoever checks the way to it.
    pub inspect: bool,
}

impl Settings {
    /// What a configuration says of the endpoint.
    pub(crate) fn new(config: &Config, inspect: bool) -> Self {
        Self {
            url: config.endpoint.clone(),
            network: config.network.clone(),
            headers: config.headers.clone(),
            timeouts: config.timeouts,
            skip_auth: config.skip_auth,
            telemetry: config.telemetry,
            inspect,
        }
    }
}

impl Upstream {
    /// An upstream without a connection yet.
    ///
    /// # Errors
    /// The certificate authorities can't be read.
    pub fn new(settings: Settings, signer: Signer) -> Result<Self, SetupError> {
        let Settings { url, network, headers, timeouts, skip_auth, telemetry, inspect } = settings;
        let connections = Connections::new(network, &timeouts, inspect)?;
        let certificate = inspect.then(OnceLock::new);
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        let common = Common {
            connections,
            signer,
            url,
            host,
            headers,
            timeouts,
            skip_auth,
            telemetry,
            certificate,
        };
        Ok(Self { common: Arc::new(common), user_agent: OnceLock::new() })
    }

    /// The same endpoint, for a client of its own.
    #[must_use]
    pub fn for_client(&self) -> Self {
        Self { common: Arc::clone(&self.common), user_agent: OnceLock::new() }
    }

    /// Names the client in `User-Agent` from now on, unless telemetry is off.
    pub fn introduce(&self, client: &str, version: &str) {
        if !self.is_introduced() {
            let client = product(&client.to_lowercase());
            let product = match product(version) {
                version if version.is_empty() => client,
                version => format!("{client}/{version}"),
            };
            if let Ok(value) = HeaderValue::try_from(format!("{USER_AGENT_NAME} {product}")) {
                let _ = self.user_agent.set(value);
            }
        }
    }

    /// Whether the client needn't be named any more.
    #[must_use]
    pub fn is_introduced(&self) -> bool {
        !self.common.telemetry || self.user_agent.get().is_some()
    }

    /// Opens a connection to the endpoint, and sends nothing on it.
    ///
    /// # Errors
    /// None can be opened.
    pub async fn probe(&self) -> Result<(), Error> {
        match self.common.connections.probe(&self.common.url).await {
            Ok(probed) => probed.map_err(|error| self.error(error)),
            Err(error) => {
                Err(Error::Connect { host: self.common.host.clone(), detail: error.to_string() })
            }
        }
    }

    /// The certificate that the server showed last, in DER, if it was to be kept.
    #[must_use]
    pub fn certificate(&self) -> Option<Vec<u8>> {
        self.common.certificate.as_ref()?.get().cloned()
    }

    /// Host and port.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.common.host
    }

    /// Whether the broker gives the profile's signatures by turns, as far as it has said.
    #[must_use]
    pub fn is_paced(&self, profile: &ProfileName) -> bool {
        self.common.signer.is_paced(profile)
    }

    /// Tells the broker that the server throttled a request, by the record of its signature.
    pub async fn throttled(&self, profile: &ProfileName, audit_id: &str) {
        self.common.signer.throttled(profile, &self.common.url, audit_id).await;
    }

    /// Signs, sends and reads.
    pub async fn exchange(&self, out: Outgoing) -> Result<Answer, Error> {
        let (patient, budget) = (out.patient, out.budget.clone());
        let (response, signature) = self.signed(out).await?;
        self.read(response, signature, patient, budget).await
    }

    /// Signs and sends, for a client that gets the answer as it came.
    pub async fn pass(&self, out: Outgoing) -> Result<Answer<Frames>, Error> {
        let budget = out.budget.clone();
        let (mut response, signature) = self.signed(out).await?;
        let status = response.status();
        if !status.is_success() {
            let headers = response.headers().clone();
            let (secrets, audit_id) = parts(signature);
            let reply = Reply::Failure(self.failure(response, secrets).await);
            return Ok(Answer { status, headers, audit_id, reply });
        }
        let audit_id = parts(signature).1;
        let kind = media_type(&response);
        let headers = std::mem::take(response.headers_mut());
        let (host, read) = (self.common.host.clone(), self.common.timeouts.read);
        let frames = Frames::new(response, kind.as_deref(), host, read, budget);
        Ok(Answer { status, headers, audit_id, reply: Reply::Messages(Box::new(frames)) })
    }

    async fn signed(
        &self,
        mut out: Outgoing,
    ) -> Result<(reqwest::Response, Option<Signature>), Error> {
        for (name, value) in &self.common.headers {
            if !out.headers.contains_key(name) {
                out.headers.append(name, value.clone());
            }
        }
        self.common.connections.open_ahead(&self.common.url);
        let mut signature = self.sign(&out).await?;
        let mut response = self.send(&out, signature.as_ref()).await?;
        if let Some(Signature { key, .. }) = &signature
            && matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            && self.common.signer.refreshed(&out.profile, key).await?
        {
            tracing::info!(profile = %out.profile, "signature refused, once more with fresh credentials");
            signature = self.sign(&out).await?;
            response = self.send(&out, signature.as_ref()).await?;
        }
        if response.status().is_success()
            && let Some(encoding) = encoding(response.headers())
        {
            return Err(Error::Encoded { host: self.common.host.clone(), encoding });
        }
        Ok((response, signature))
    }

    /// The headers to add; `None` to send unsigned.
    async fn sign(&self, out: &Outgoing) -> Result<Option<Signature>, Error> {
        if out.unsigned {
            return Ok(None);
        }
        let (url, signer) = (&self.common.url, &self.common.signer);
        let signed = signer.sign(&out.profile, &out.method, url, &out.headers, &out.body);
        let span = phase!("sign", otel.kind = "client", sigward.profile = out.profile.as_str());
        match signed.instrument(span).await {
            Ok(signature) => Ok(Some(signature)),
            Err(error) if self.common.skip_auth && error.has_no_credentials() => {
                tracing::warn!(%error, "sending unsigned (--skip-auth)");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn send(
        &self,
        out: &Outgoing,
        signature: Option<&Signature>,
    ) -> Result<reqwest::Response, Error> {
        let span = phase!(
            "send",
            otel.kind = "client",
            http.request.method = out.method.as_str(),
            server.address = self.common.host.as_str(),
            http.response.status_code = Empty,
        );
        let response = self.sent(out, signature).instrument(span.clone()).await;
        if let Ok(response) = &response {
            span.record("http.response.status_code", response.status().as_u16());
        }
        response
    }

    async fn sent(
        &self,
        out: &Outgoing,
        signature: Option<&Signature>,
    ) -> Result<reqwest::Response, Error> {
        let mut request = reqwest::Request::new(out.method.clone(), self.common.url.clone());
        let added = signature.map(|signature| &signature.headers);
        let headers = request.headers_mut();
        headers.reserve(out.headers.len() + added.map_or(0, HeaderMap::len) + 2);
        for (name, value) in &out.headers {
            headers.append(name, value.clone());
        }
        // Each has one value.
        for (name, value) in added.into_iter().flatten() {
            headers.insert(name, value.clone());
        }
        // Not signed: an HTTP stack on the way may change it.
        headers.insert(
            USER_AGENT,
            self.user_agent.get().cloned().unwrap_or(HeaderValue::from_static(USER_AGENT_NAME)),
        );
        // Nor this: the broker signs none. Encoded, a stream of events would be buffered, and the size of
        // an answer in memory would be unknown until it is decoded.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let (body, progress) = body::paced(out.body.clone());
        if !out.body.is_empty() {
            *request.body_mut() = Some(reqwest::Body::wrap(body));
        }
        out.sent.set();
        let (client, place) = if out.patient {
            (self.common.connections.single(), None)
        } else {
            let (client, place) = self.common.connections.place();
            (client, Some(place))
        };
        let mut response = std::pin::pin!(client.execute(request));
        loop {
            let taken = progress.taken();
            let (limit, what, option) = if taken < out.body.len() {
                (self.common.timeouts.write, "didn't take the request", "--write-timeout")
            } else {
                (self.common.timeouts.read, "sent nothing", "--read-timeout")
            };
            // Connecting has a limit of its own, inside.
            let limit = match taken {
                0 => limit.saturating_add(self.common.timeouts.connect),
                _ => limit,
            };
            tokio::select! {
                answer = &mut response => {
                    let mut answer = answer.map_err(|error| self.error(error))?;
                    if let Some(certificate) = &self.common.certificate {
                        keep(certificate, &answer);
                    }
                    // Until the answer is read, or given up.
                    if let Some(place) = place {
                        answer.extensions_mut().insert(place);
                    }
                    if let Some(end) = signature.and_then(|signature| signature.end.clone()) {
                        answer.extensions_mut().insert(end);
                    }
                    return Ok(answer);
                }
                () = progress.more() => {}
                () = tokio::time::sleep(limit), if !out.patient => {
                    let (host, after) = (self.common.host.clone(), limit);
                    return Err(Error::Timeout { host, what, after, option });
                }
            }
        }
    }

    async fn read(
        &self,
        mut response: reqwest::Response,
        signature: Option<Signature>,
        patient: bool,
        budget: Budget,
    ) -> Result<Answer, Error> {
        let status = response.status();
        let kind = media_type(&response);
        if !status.is_success() {
            let headers = response.headers().clone();
            let (secrets, audit_id) = parts(signature);
            let reply = Reply::Failure(self.failure(response, secrets).await);
            return Ok(Answer { status, headers, audit_id, reply });
        }
        let audit_id = parts(signature).1;
        let read = (!patient).then_some(self.common.timeouts.read);
        let headers = std::mem::take(response.headers_mut());
        let host = || self.common.host.clone();
        let reply = match kind.as_deref() {
            _ if is_accepted(status) => Reply::Accepted,
            Some("text/event-stream") => {
                Reply::Messages(Box::new(Messages::events(response, host(), read, budget)))
            }
            Some("application/json") => {
                Reply::Messages(Box::new(Messages::json(response, host(), read, budget)))
            }
            _ if response.content_length() == Some(0) => Reply::Accepted,
            _ => return Err(NOT_MCP),
        };
        Ok(Answer { status, headers, audit_id, reply })
    }

    async fn failure(&self, response: reqwest::Response, signature: Option<HeaderMap>) -> Failure {
        Failure::read(response, self.common.host.clone(), signature, self.common.timeouts.read)
            .await
    }

    fn error(&self, error: reqwest::Error) -> Error {
        let host = self.common.host.clone();
        let detail = if error.is_timeout() && error.is_connect() {
            format!(
                "no connection within {} s (--connect-timeout)",
                self.common.timeouts.connect.as_secs_f64()
            )
        } else {
            let cause = innermost(&error);
            match cause.contains("UnknownIssuer") {
                true => format!(
                    "{cause}: none of the certificate authorities vouches for it (--ca-bundle FILE \
                     names others)"
                ),
                false => cause,
            }
        };
        if error.is_connect() {
            Error::Connect { host, detail }
        } else {
            Error::Interrupted { host, detail }
        }
    }
}

/// Keeps the certificate of the connection that an answer came over.
fn keep(certificate: &OnceLock<Vec<u8>>, answer: &reqwest::Response) {
    let info = answer.extensions().get::<reqwest::tls::TlsInfo>();
    if let Some(der) = info.and_then(reqwest::tls::TlsInfo::peer_certificate) {
        let _ = certificate.set(der.to_owned());
    }
}

/// What outlives the sending: the headers, which no answer may quote, and the broker's record.
fn parts(signature: Option<Signature>) -> (Option<HeaderMap>, Option<String>) {
    signature.map(|signature| (signature.headers, signature.audit_id)).unzip()
}

/// Whether a status says that there is nothing to read.
pub(crate) fn is_accepted(status: StatusCode) -> bool {
    status == StatusCode::ACCEPTED || status == StatusCode::NO_CONTENT
}

/// A success that is no answer to a message.
pub(crate) const NOT_MCP: Error = Error::NotMessage(
    "its content type is neither application/json nor text/event-stream; is this the URL of an MCP \
     endpoint?",
);

/// A name or a version as `User-Agent` can hold it: characters of a token (RFC 9110, 10.1.5), and so
/// few that no server refuses the head of a request for what a client calls itself.
fn product(text: &str) -> String {
    let token = |c: char| if c.is_ascii_alphanumeric() || "-._+".contains(c) { c } else { '-' };
    text.chars().take(MAX_PRODUCT).map(token).collect()
}

/// The longest name or version of a client in `User-Agent`, in characters.
const MAX_PRODUCT: usize = 64;

const USER_AGENT_NAME: &str = concat!("sigward-proxy/", env!("CARGO_PKG_VERSION"));
