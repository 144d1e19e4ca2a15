//! Verifies that a caller's certificate is trusted and names the caller.
//!
//! The handshake fails for a certificate that no authority has signed, that isn't valid now, or
//! that has no usable name ([`Leaf`]): a TLS alert tells its holder that the certificate was
//! refused.

use std::sync::Arc;

use sigward_proto::certificate::Leaf;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

/// The checks of WebPKI (RFC 5280), and a check for a name.
#[derive(Debug)]
pub(super) struct PeerVerifier(Arc<dyn ClientCertVerifier>);

impl PeerVerifier {
    pub(super) fn new(chain: Arc<dyn ClientCertVerifier>) -> Self {
        Self(chain)
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now)?;
        Leaf::read(end_entity)
            .map_err(|unnamed| CertificateError::Other(OtherError(Arc::new(unnamed))))?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
