//! Requests the signature of final bytes.
//!
//! A request must be sent exactly as it was passed to [`Signer::sign`]. Headers that an HTTP stack sets
//! itself (length, encodings, connection, user agent) aren't signed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use sha2::{Digest, Sha256};
use sigward_proto::v1::sign_request::Payload;
use sigward_proto::v1::{Header, Reason, SignRequest};
use url::Url;

use crate::broker::{Broker, KeyId, Report};
use crate::config::ProfileName;
use crate::error::Error;

/// The bytes of a body that are hashed before other tasks of the thread run.
const PIECE: usize = 1 << 20;

/// A signature: the headers to add to the request.
#[derive(Debug)]
pub struct Signature {
    /// `Authorization` and its companions, marked sensitive.
    pub headers: HeaderMap,
    /// The credentials that made it, for [`Broker::report_rejection`].
    pub key: KeyId,
    /// The id of the broker's audit record.
    pub audit_id: String,
    /// Reports the end of the exchange, if the broker counts the exchanges in flight.
    pub end: Option<ExchangeEnd>,
}

/// Reports the end of an exchange when the last copy is dropped, with the answer or with its reader.
#[derive(Debug, Clone)]
pub struct ExchangeEnd(#[allow(dead_code, reason = "held, not read")] Arc<Ending>);

#[derive(Debug)]
struct Ending {
    broker: Broker,
    profile: ProfileName,
    uri: String,
    audit_id: String,
}

impl Drop for Ending {
    fn drop(&mut self) {
        // Without a runtime the process is ending, and the broker notices that the connection is closed.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (broker, profile) = (self.broker.clone(), self.profile.clone());
        let (uri, audit_id) = (std::mem::take(&mut self.uri), std::mem::take(&mut self.audit_id));
        runtime.spawn(async move {
            broker.report_exchange(&profile, Report { uri, audit_id, is_throttled: false }).await;
        });
    }
}

/// Requests signatures from the broker.
#[derive(Debug, Clone)]
pub struct Signer {
    broker: Broker,
    /// Whether the log has the credential scope of the signatures.
    is_announced: Arc<AtomicBool>,
}

impl Signer {
    /// Makes a signer that uses `broker`.
    #[must_use]
    pub fn new(broker: Broker) -> Self {
        Self { broker, is_announced: Arc::default() }
    }

    /// The signature of one HTTP request with the credentials of `profile`.
    pub async fn sign(
        &self,
        profile: &ProfileName,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Signature, Error> {
        let request = |payload: Payload| SignRequest {
            profile: profile.as_str().to_owned(),
            method: method.as_str().to_owned(),
            uri: url.as_str().to_owned(),
            headers: headers
                .iter()
                .map(|(name, value)| Header {
                    name: name.as_str().to_owned(),
                    value: Bytes::copy_from_slice(value.as_bytes()),
                })
                .collect(),
            payload: Some(payload),
        };
        let whole = || request(Payload::Body(body.clone()));
        let signed = if body.is_empty() || !self.broker.reads_no_body(profile) {
            self.broker.sign(profile, whole).await?
        } else {
            let hash = sha256(body).await;
            let hashed = || request(Payload::BodySha256(hash.clone()));
            match self.broker.sign(profile, hashed).await {
                // A rule about bodies has been added since the list of profiles was loaded.
                Err(Error::Refused(refusal)) if refusal.reason() == Some(Reason::BodyRequired) => {
                    self.broker.on_body_required(profile);
                    self.broker.sign(profile, whole).await?
                }
                signed => signed?,
            }
        };
        if signed.path_and_query != path_and_query(url) {
            return Err(Error::SignatureMismatch);
        }
        if !self.is_announced.swap(true, Ordering::Relaxed) {
            let scope = signed.credential_scope.as_str();
            tracing::info!(%profile, scope, "the broker signs");
        }
        let mut headers = HeaderMap::with_capacity(signed.headers.len());
        for header in &signed.headers {
            let name = HeaderName::from_bytes(header.name.as_bytes());
            let value = HeaderValue::from_bytes(&header.value);
            let (Ok(name), Ok(mut value)) = (name, value) else {
                return Err(Error::SignatureMismatch);
            };
            value.set_sensitive(true);
            headers.append(name, value);
        }
        let ends = signed.pacing.is_some_and(|pacing| pacing.report_end);
        let end = ends.then(|| {
            let (broker, profile) = (self.broker.clone(), profile.clone());
            let (uri, audit_id) = (url.as_str().to_owned(), signed.audit_id.clone());
            ExchangeEnd(Arc::new(Ending { broker, profile, uri, audit_id }))
        });
        let key = KeyId { agent: signed.agent, generation: signed.credential_generation };
        Ok(Signature { headers, key, audit_id: signed.audit_id, end })
    }

    /// Whether the broker is known to limit the rate of the profile's signatures.
    #[must_use]
    pub fn is_paced(&self, profile: &ProfileName) -> bool {
        self.broker.is_paced(profile)
    }

    /// Reports that the server throttled the request with this audit id.
    pub async fn throttled(&self, profile: &ProfileName, url: &Url, audit_id: &str) {
        let (uri, audit_id) = (url.as_str().to_owned(), audit_id.to_owned());
        self.broker.report_exchange(profile, Report { uri, audit_id, is_throttled: true }).await;
    }

    /// Whether there are newer credentials than those of a refused signature.
    ///
    /// # Errors
    /// A sign-in is needed, or the clock is wrong: this explains more than the refusal of the server.
    pub async fn refreshed(&self, profile: &ProfileName, key: &KeyId) -> Result<bool, Error> {
        match self.broker.report_rejection(profile, key).await {
            Ok(current) => Ok(current > key.generation),
            Err(error) if error.explains_a_refusal() => Err(error),
            Err(error) => {
                tracing::info!(%profile, %error, "no fresh credentials after a refused signature");
                Ok(false)
            }
        }
    }
}

async fn sha256(body: &Bytes) -> Bytes {
    let mut hash = Sha256::new();
    for (number, piece) in body.chunks(PIECE).enumerate() {
        if number > 0 {
            tokio::task::yield_now().await;
        }
        hash.update(piece);
    }
    Bytes::copy_from_slice(&hash.finalize())
}

/// The path and the query, as in the request line.
fn path_and_query(url: &Url) -> String {
    match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    }
}
