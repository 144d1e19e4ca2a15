//! A certificate authority for tests, and a server on this machine with a certificate of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A name in every server's certificate, for tests that resolve it.
pub const HOST: &str = "upstream.test";

/// Counts the authorities.
static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// A certificate authority, and a server's certificate for `127.0.0.1` and [`HOST`].
#[derive(Debug)]
pub struct Authority {
    /// The authority's own certificate, in PEM.
    pub pem: String,
    pub(crate) server: Arc<ServerConfig>,
}

impl Authority {
    /// An authority whose server offers these protocols (ALPN): `h2`, `http/1.1`.
    ///
    /// # Panics
    /// If no certificate can be made.
    #[must_use]
    pub fn new(protocols: &[&str]) -> Self {
        Self::shaped(protocols, |_| {})
    }

    /// The same, with changes to the server's certificate.
    ///
    /// # Panics
    /// If no certificate can be made.
    #[must_use]
    pub fn shaped(protocols: &[&str], shape: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = || KeyPair::generate().expect("a key");
        let mut authority = CertificateParams::default();
        // Each has its own name: with equal names, the certificates of one would be checked with the key of the other.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        authority.distinguished_name.push(DnType::CommonName, format!("authority {number}"));
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, key()).expect("an authority");
        let own = key();
        let names = ["127.0.0.1", HOST].map(str::to_owned);
        let mut certificate = CertificateParams::new(names).expect("two names");
        shape(&mut certificate);
        let certificate = certificate.signed_by(&own, &authority).expect("a certificate");
        let private = PrivateKeyDer::try_from(own.serialize_der()).expect("a key");
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .expect("a certificate and its key");
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self { pem: authority.pem(), server: Arc::new(config) }
    }
}
