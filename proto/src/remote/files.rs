//! The files for a TLS connection to a broker, and the client configuration built from them.
//!
//! Invariant: errors contain no text of a file, and a key that other users can read isn't used.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use crate::pem;
use rustix::fs::OFlags;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use zeroize::Zeroizing;

use super::named::TlsBroker;
use super::verifier::BrokerVerifier;

/// The configuration, and the marks of its files.
pub(super) struct Files {
    pub(super) config: Arc<ClientConfig>,
    pub(super) marks: Marks,
}

/// Identifies the contents of the three files, even if another file is renamed over one, as in Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks([Option<Mark>; 3]);

/// Device, inode, size, and the time of the last change.
type Mark = (u64, u64, u64, i64, i64);

/// A file that can't be used, with its option and the reason.
#[derive(Debug, thiserror::Error)]
#[error("{option} {path}: {why}")]
pub(super) struct Unusable {
    option: &'static str,
    path: String,
    why: String,
}

impl Marks {
    /// The current marks. This blocks.
    #[must_use]
    pub fn of(broker: &TlsBroker) -> Self {
        let mark =
            |file: Metadata| (file.dev(), file.ino(), file.size(), file.ctime(), file.ctime_nsec());
        let mark = |path: &Path| std::fs::metadata(path).ok().map(mark);
        Self([&broker.cert, &broker.key, &broker.ca].map(|path| mark(path)))
    }
}

impl Files {
    /// Reads the files. This blocks.
    pub(super) fn read(broker: &TlsBroker) -> Result<Self, Unusable> {
        // Before the files are read, so that a concurrent change is detected later.
        let marks = Marks::of(broker);
        let cert = Named { option: "--broker-cert", path: &broker.cert };
        let key = Named { option: "--broker-key", path: &broker.key };
        let ca = Named { option: "--broker-ca", path: &broker.ca };
        let mut roots = RootCertStore::empty();
        for authority in ca.certificates()? {
            roots
                .add(authority)
                .map_err(|_| ca.unusable("it has a certificate that isn't an authority's"))?;
        }
        let chain = cert.certificates()?;
        let secret = key.read(true)?;
        let secret = PrivateKeyDer::from_pem_slice(&secret)
            .map_err(|_| key.unusable("it has no private key in PEM"))?;
        let provider = Arc::new(default_provider());
        let verifier = BrokerVerifier::new(roots, &provider, broker.name.clone())
            .map_err(|error| ca.unusable(&error.to_string()))?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| cert.unusable(&error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(chain, secret)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    key.unusable("it isn't the key of the certificate in --broker-cert")
                }
                other => key.unusable(&other.to_string()),
            })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), marks })
    }
}

/// A file, and the option that names it.
struct Named<'p> {
    option: &'static str,
    path: &'p Path,
}

impl Named<'_> {
    fn unusable(&self, why: &str) -> Unusable {
        let (option, path) = (self.option, self.path.display().to_string());
        Unusable { option, path, why: why.to_owned() }
    }

    /// The certificates in it; at least one.
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Unusable> {
        pem::certificates(&self.read(false)?).map_err(|why| self.unusable(why))
    }

    fn read(&self, is_secret: bool) -> Result<Zeroizing<Vec<u8>>, Unusable> {
        let read = || -> io::Result<Zeroizing<Vec<u8>>> {
            // A FIFO in place of the file must not block the thread.
            let flags = OFlags::NONBLOCK.bits().cast_signed();
            let file = File::options().read(true).custom_flags(flags).open(self.path)?;
            let found = file.metadata()?;
            if is_secret && found.mode() & 0o007 != 0 {
                let path = self.path.display();
                let why =
                    format!("every user can read or change it; repair it with: chmod o= {path}");
                return Err(io::Error::other(why));
            }
            pem::read(file)
        };
        read().map_err(|error| self.unusable(&error.to_string()))
    }
}
