//! An authority that issues certificates to workloads, as SPIRE does, and callers of a broker with such certificates.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, Issuer, KeyPair, SanType,
};
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

/// The name of every broker's certificate.
pub const BROKER: &str = "spiffe://test.example/broker";

/// Counts the authorities.
static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// A certificate authority.
#[derive(Debug)]
pub struct Workloads {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key.
#[derive(Debug)]
pub struct Issued {
    /// The certificate, followed by the intermediate ones, in PEM.
    pub cert: String,
    /// The key, in PEM.
    pub key: String,
    parameters: CertificateParams,
}

/// A URI for the names of a certificate.
///
/// # Panics
/// If it isn't ASCII.
#[must_use]
pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

/// A DNS name for a certificate.
///
/// # Panics
/// If it isn't ASCII.
#[must_use]
pub fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().expect("ASCII"))
}

impl Default for Workloads {
    fn default() -> Self {
        Self::new()
    }
}

impl Workloads {
    /// A new authority, with its own name and key.
    ///
    /// # Panics
    /// If no certificate can be made.
    #[must_use]
    pub fn new() -> Self {
        let mut parameters = CertificateParams::default();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        parameters.distinguished_name.push(DnType::CommonName, format!("workloads {number}"));
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self { issuer: CertifiedIssuer::self_signed(parameters, key).expect("an authority") }
    }

    /// The authority's own certificate, in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for these names, valid for a day.
    #[must_use]
    pub fn issue(&self, names: &[SanType]) -> Issued {
        self.issue_as(names, |_| {})
    }

    /// The same, valid between two times since 1970.
    #[must_use]
    pub fn issue_between(&self, names: &[SanType], from: Duration, until: Duration) -> Issued {
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        self.issue_as(names, |parameters| {
            parameters.not_before = epoch + Duration::from_secs(from.as_secs());
            parameters.not_after = epoch + Duration::from_secs(until.as_secs());
        })
    }

    /// The same, with `edit` applied to its parameters.
    ///
    /// # Panics
    /// If no certificate can be made.
    pub fn issue_as(&self, names: &[SanType], edit: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names = names.to_vec();
        let day = Duration::from_secs(24 * 60 * 60);
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        (parameters.not_before, parameters.not_after) =
            (epoch + (now() - day), epoch + (now() + day));
        edit(&mut parameters);
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.clone().signed_by(&key, &self.issuer).expect("a certificate");
        Issued { cert: certificate.pem(), key: key.serialize_pem(), parameters }
    }

    /// A certificate for the workload of this SPIFFE id.
    #[must_use]
    pub fn workload(&self, id: &str) -> Issued {
        self.issue(&[uri(id)])
    }

    /// A certificate for a broker at 127.0.0.1.
    ///
    /// # Panics
    /// Never: the address is one.
    #[must_use]
    pub fn broker(&self) -> Issued {
        let address = SanType::IpAddress("127.0.0.1".parse().expect("an address"));
        self.issue(&[uri(BROKER), dns("broker.test"), address])
    }

    /// The TLS configuration of a caller with the certificate `issued`, for a broker of this authority.
    #[must_use]
    pub fn caller(&self, issued: Option<&Issued>) -> ClientConfig {
        self.caller_with(issued, &[&version::TLS13])
    }

    /// The same with other versions of TLS.
    ///
    /// # Panics
    /// If the certificate can't be used.
    #[must_use]
    pub fn caller_with(
        &self,
        issued: Option<&Issued>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .expect("TLS")
            .with_root_certificates(roots);
        let mut config = match issued {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let chain: Result<Vec<_>, _> =
                    CertificateDer::pem_slice_iter(issued.cert.as_bytes()).collect();
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(chain.expect("a chain"), key).expect("a certificate")
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

impl Issued {
    /// A certificate that this one's holder issues, as if it were an authority; with its chain.
    ///
    /// # Panics
    /// If no certificate can be made.
    #[must_use]
    pub fn issue(&self, names: &[SanType]) -> Self {
        let own = KeyPair::from_pem(&self.key).expect("a key");
        let issuer = Issuer::from_params(&self.parameters, own);
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names = names.to_vec();
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.clone().signed_by(&key, &issuer).expect("a certificate");
        let cert = format!("{}{}", certificate.pem(), self.cert);
        Self { cert, key: key.serialize_pem(), parameters }
    }

    /// The secret lines of the key.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.key.lines().filter(|line| !line.starts_with("-----"))
    }
}

/// The time since 1970.
///
/// # Panics
/// Before 1970.
#[allow(clippy::disallowed_methods, reason = "an authority has a clock")]
#[must_use]
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
}
