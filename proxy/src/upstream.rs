//! One signed HTTP exchange with the endpoint.
//!
//! Exactly the signed bytes are sent. A redirect is an answer and is never followed, because a signature is for one
//! host. A request whose signature was rejected is signed and sent once more if the broker has fresh credentials by
//! then; nothing else is sent twice here.

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

/// One request, as it is signed and sent.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The profile that signs it.
    pub profile: ProfileName,
    /// POST, GET or DELETE.
    pub method: Method,
    /// All headers that the signature covers.
    pub headers: HeaderMap,
    /// The body; empty except for POST.
    pub body: Bytes,
    /// No limit on silence, for a stream that may be silent for hours.
    pub patient: bool,
    /// Send without a signature: for a request that needs no identity, while the profile can't
    /// sign.
    pub unsigned: bool,
    /// Set before the first byte may be sent.
    pub sent: Sent,
    /// The memory for messages of the answer.
    pub budget: Budget,
}

/// Whether a request may have reached the server; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Sent(Arc<AtomicBool>);

impl Sent {
    /// Whether the server may have received the request.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Clears the flag: the server has reported that it didn't act on the request.
    pub(crate) fn unset(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The endpoint, as one client uses it.
#[derive(Debug)]
pub struct Upstream {
    common: Arc<Common>,
    /// The name and version of the client.
    user_agent: OnceLock<HeaderValue>,
}

/// State that all clients share.
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
    /// The server's certificate in DER, if it is wanted.
    certificate: Option<OnceLock<Vec<u8>>>,
}

/// The parts of an [`Upstream`].
#[derive(Debug)]
pub struct Settings {
    /// The endpoint.
    pub url: Url,
    /// How the endpoint is reached.
    pub network: Network,
    /// Headers that are sent with every request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The time limits.
    pub timeouts: Timeouts,
    /// Whether requests are sent unsigned if there are no credentials.
    pub skip_auth: bool,
    /// Whether `User-Agent` contains the client's name.
    pub telemetry: bool,
    /// Whether the server's certificate is stored, for `sigward-proxy check`.
    pub inspect: bool,
}

impl Settings {
    /// The settings of a configuration.
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
    /// Makes an upstream without a connection.
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

    /// The same endpoint for another client.
    #[must_use]
    pub fn for_client(&self) -> Self {
        Self { common: Arc::clone(&self.common), user_agent: OnceLock::new() }
    }

    /// Adds the client's name to `User-Agent` from now on, unless telemetry is off.
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

    /// Whether [`Self::introduce`] has nothing to do any more.
    #[must_use]
    pub fn is_introduced(&self) -> bool {
        !self.common.telemetry || self.user_agent.get().is_some()
    }

    /// Opens a connection to the endpoint without sending anything on it.
    ///
    /// # Errors
    /// No connection can be opened.
    pub async fn probe(&self) -> Result<(), Error> {
        match self.common.connections.probe(&self.common.url).await {
            Ok(probed) => probed.map_err(|error| self.error(error)),
            Err(error) => {
                Err(Error::Connect { host: self.common.host.clone(), detail: error.to_string() })
            }
        }
    }

    /// The last certificate of the server, in DER, if it is stored.
    #[must_use]
    pub fn certificate(&self) -> Option<Vec<u8>> {
        self.common.certificate.as_ref()?.get().cloned()
    }

    /// Host and port.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.common.host
    }

    /// Whether the broker is known to pace the profile's signatures.
    #[must_use]
    pub fn is_paced(&self, profile: &ProfileName) -> bool {
        self.common.signer.is_paced(profile)
    }

    /// Reports to the broker that the server throttled a request. `audit_id` identifies its
    /// signature.
    pub async fn throttled(&self, profile: &ProfileName, audit_id: &str) {
        self.common.signer.throttled(profile, &self.common.url, audit_id).await;
    }

    /// Signs and sends a request, and reads its answer as messages.
    pub async fn exchange(&self, out: Outgoing) -> Result<Answer, Error> {
        let (patient, budget) = (out.patient, out.budget.clone());
        let (response, signature) = self.signed(out).await?;
        self.read(response, signature, patient, budget).await
    }

    /// Signs and sends a request, for a client that gets the answer unchanged.
    pub async fn forward(&self, out: Outgoing) -> Result<Answer<Frames>, Error> {
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
            tracing::info!(profile = %out.profile, "the signature was refused, signing again with fresh credentials");
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
        // Not signed, because an intermediary may change it.
        headers.insert(
            USER_AGENT,
            self.user_agent.get().cloned().unwrap_or(HeaderValue::from_static(USER_AGENT_NAME)),
        );
        // Not signed either. An encoded event stream would be buffered, and the size of an answer in memory would be
        // unknown until it is decoded.
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
            // Connecting has its own limit.
            let limit = match taken {
                0 => limit.saturating_add(self.common.timeouts.connect),
                _ => limit,
            };
            tokio::select! {
                answer = &mut response => {
                    let mut answer = answer.map_err(|error| self.error(error))?;
                    if let Some(certificate) = &self.common.certificate {
                        store_certificate(certificate, &answer);
                    }
                    // Held until the answer is read or dropped.
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
                    "{cause}: no trusted certificate authority has signed it (--ca-bundle FILE \
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

/// Stores the certificate of the connection that an answer came over.
fn store_certificate(certificate: &OnceLock<Vec<u8>>, answer: &reqwest::Response) {
    let info = answer.extensions().get::<reqwest::tls::TlsInfo>();
    if let Some(der) = info.and_then(reqwest::tls::TlsInfo::peer_certificate) {
        let _ = certificate.set(der.to_owned());
    }
}

/// The parts of a signature that are needed after sending: the headers, which no answer may quote,
/// and the audit id.
fn parts(signature: Option<Signature>) -> (Option<HeaderMap>, Option<String>) {
    signature.map(|signature| (signature.headers, signature.audit_id)).unzip()
}

/// Whether a status means that there is nothing to read.
pub(crate) fn is_accepted(status: StatusCode) -> bool {
    status == StatusCode::ACCEPTED || status == StatusCode::NO_CONTENT
}

/// The error of a success that isn't an answer to a message.
pub(crate) const NOT_MCP: Error = Error::NotMessage(
    "its content type is neither application/json nor text/event-stream; is this the URL of an MCP \
     endpoint?",
);

/// A name or a version for `User-Agent`: token characters (RFC 9110, 10.1.5), and short enough that no server refuses
/// the request head because of it.
fn product(text: &str) -> String {
    let token = |c: char| if c.is_ascii_alphanumeric() || "-._+".contains(c) { c } else { '-' };
    text.chars().take(MAX_PRODUCT).map(token).collect()
}

/// The longest name or version of a client in `User-Agent`, in characters.
const MAX_PRODUCT: usize = 64;

const USER_AGENT_NAME: &str = concat!("sigward-proxy/", env!("CARGO_PKG_VERSION"));
