//! Verifies that the other end is the expected broker.
//!
//! The attack: another workload with a certificate of the same authority answers in the broker's place, and gets the
//! requests to sign.

use std::sync::Arc;

use crate::certificate::{Leaf, Name};
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{
    VerifierBuilderError, verify_server_cert_signed_by_trust_anchor,
};
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};

use super::named::BrokerName;

/// The checks of WebPKI (RFC 5280), with the expected name in place of the host's.
#[derive(Debug)]
pub(super) struct BrokerVerifier {
    chain: Arc<WebPkiServerVerifier>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    name: BrokerName,
}

/// The certificate belongs to another name.
#[derive(Debug, thiserror::Error)]
#[error("its certificate is that of {0}")]
struct Other(Name);

impl BrokerVerifier {
    pub(super) fn new(
        roots: RootCertStore,
        provider: &Arc<CryptoProvider>,
        name: BrokerName,
    ) -> Result<Self, VerifierBuilderError> {
        let (roots, provider) = (Arc::new(roots), Arc::clone(provider));
        let builder =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        Ok(Self { chain: builder.build()?, roots, provider, name })
    }
}

fn refused(why: impl std::error::Error + Send + Sync + 'static) -> Error {
    CertificateError::Other(OtherError(Arc::new(why))).into()
}

impl ServerCertVerifier for BrokerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.name {
            BrokerName::Host(host) => {
                let host = ServerName::try_from(host.as_str())
                    .map_err(|_| Error::General("the name isn't one".to_owned()))?;
                self.chain.verify_server_cert(end_entity, intermediates, &host, ocsp, now)
            }
            BrokerName::SpiffeId(wanted) => {
                let certificate = ParsedCertificate::try_from(end_entity)?;
                let algorithms = self.provider.signature_verification_algorithms.all;
                verify_server_cert_signed_by_trust_anchor(
                    &certificate,
                    &self.roots,
                    intermediates,
                    now,
                    algorithms,
                )?;
                match Leaf::read(end_entity).map_err(refused)?.name {
                    Name::SpiffeId(id) if id == *wanted => Ok(ServerCertVerified::assertion()),
                    other => Err(refused(Other(other))),
                }
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
