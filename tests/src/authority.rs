//! A certificate authority of its own, and the server on this machine that it vouches for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A name of every server, where a test has it resolved.
pub const HOST: &str = "upstream.test";

/// Counts the authorities.
static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// A certificate authority, and a certificate of it for `127.0.0.1` and [`HOST`].
#[derive(Debug)]
pub struct Authority {
    /// Its own certificate, in PEM.
    pub pem: String,
    pub(crate) server: Arc<ServerConfig>,
}

impl Authority {
    /// An authority whose server offers the protocols of these names (ALPN): `h2`, `http/1.1`.
    ///
    /// # Panics
    /// If no certificate can be made.
    #[must_use]
    pub fn new(protocols: &[&str]) -> Self {
        Self::shaped(protocols, |_| {})
    }

    /// The same, with a certificate of the server that isn't the usual one.
    ///
    /// # Panics
    /// If no certificate can be made.
    #[must_use]
    pub fn shaped(protocols: &[&str], shape: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = || KeyPair::generate().expect("a key");
        let mut authority = CertificateParams::default();
        // Names of their own: of two with one name, the certificates of one would be checked with the key of the other.
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
