//! Whether the certificate of an open connection is still valid.
//!
//! The attack: an authority is removed, or a certificate expires, and a caller that connected
//! before continues for weeks. So the expiry is checked with each call, and the whole chain is
//! verified again when the files have changed, and once a minute, because an intermediate
//! certificate may expire too. A connection whose certificate is no longer valid gets an error, and
//! is closed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use sigward_proto::certificate::{Leaf, Name};
use tokio::sync::watch;
use tokio_rustls::rustls::ServerConnection;
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};

use super::files::Material;
use crate::clock;
use crate::error::{Denial, Reason};
use crate::peer::Standing;

/// How long a verification of the chain is valid.
const VERIFIED: Duration = Duration::from_secs(60);
/// How long a connection stays open after its certificate became invalid, so that calls get an
/// error that explains it.
const GRACE: Duration = Duration::from_secs(2);

/// The certificate of a connection.
#[derive(Debug)]
pub(super) struct Certificate {
    leaf: Leaf,
    chain: Vec<CertificateDer<'static>>,
    material: watch::Receiver<Arc<Material>>,
    verified: Mutex<Verified>,
}

/// The last successful verification: the generation of the files, and the time.
#[derive(Debug)]
struct Verified {
    generation: Option<u64>,
    at: SystemTime,
}

impl Certificate {
    /// The certificate of a connection whose handshake is complete.
    pub(super) fn of(
        connection: &ServerConnection,
        material: watch::Receiver<Arc<Material>>,
    ) -> Result<Self, String> {
        // The service speaks only HTTP/2: a client that hasn't asked for it may mean another server.
        if connection.alpn_protocol() != Some(b"h2") {
            return Err("it didn't ask for h2 (ALPN)".to_owned());
        }
        let chain = connection.peer_certificates().unwrap_or_default().to_vec();
        let leaf = chain.first().ok_or("there is no certificate")?;
        let leaf = Leaf::read(leaf).map_err(|unnamed| unnamed.to_string())?;
        // The files may have changed during the handshake: the first call verifies the chain again.
        let verified = Mutex::new(Verified { generation: None, at: SystemTime::UNIX_EPOCH });
        Ok(Self { leaf, chain, material, verified })
    }

    pub(super) fn name(&self) -> &Name {
        &self.leaf.name
    }

    /// Completes a moment after the certificate has become invalid.
    pub(super) fn ended(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        let certificate = Arc::clone(self);
        async move {
            let mut material = certificate.material.clone();
            loop {
                let now = clock::now();
                if certificate.check(now).is_err() {
                    break;
                }
                // The clock may step, so no wait is longer than this.
                let left = certificate.leaf.not_after.duration_since(now).unwrap_or_default();
                let wait = VERIFIED.min(left + Duration::from_millis(10));
                // A change of the files, or the timeout.
                drop(tokio::time::timeout(wait, material.changed()).await);
            }
            tokio::time::sleep(GRACE).await;
        }
    }

    fn verify(&self, material: &Material, now: SystemTime) -> Result<(), Denial> {
        let refused = |why: String| Denial::new(Reason::PeerUnknown, why);
        let (leaf, intermediates) = self
            .chain
            .split_first()
            .ok_or_else(|| refused("there is no certificate".to_owned()))?;
        let time = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time = UnixTime::since_unix_epoch(time);
        let verified = material.verifier.verify_client_cert(leaf, intermediates, time);
        verified.map(drop).map_err(|error| {
            refused(format!("the certificate of {} is no longer valid: {error}", self.leaf.name))
        })
    }
}

impl Standing for Certificate {
    fn check(&self, now: SystemTime) -> Result<(), Denial> {
        if now > self.leaf.not_after {
            let why = format!("the certificate of {} has expired", self.leaf.name);
            return Err(Denial::new(Reason::PeerUnknown, why));
        }
        let material = Arc::clone(&self.material.borrow());
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = now.duration_since(verified.at).is_ok_and(|age| age < VERIFIED);
        if verified.generation == Some(material.generation) && is_recent {
            return Ok(());
        }
        self.verify(&material, now)?;
        *verified = Verified { generation: Some(material.generation), at: now };
        Ok(())
    }
}
