//! The TLS files, and the server configuration that is built from them.
//!
//! Invariant: the three files are used only if the key belongs to the certificate, only root and
//! the broker's own user can change them, and no other user can read the key ([`crate::trusted`]).
//! No error contains text of a file.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::OFlags;
use sigward_proto::{certificate, pem};
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use zeroize::Zeroizing;

use super::verifier::PeerVerifier;
use crate::config::{Tcp, TlsFiles};
use crate::error::Error;
use crate::process;
use crate::trusted::Trusted;

const READABLE_BY_ALL: u32 = 0o004;

/// The contents of the files.
#[derive(PartialEq, Eq)]
pub(super) struct Contents {
    cert: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    client_ca: Vec<u8>,
}

/// The server configuration built from the files.
pub(crate) struct Material {
    pub(super) config: Arc<ServerConfig>,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// The number of changes so far.
    pub(super) generation: u64,
    /// When the broker's own certificate expires.
    pub(super) expiry: SystemTime,
    pub(super) contents: Contents,
}

/// The file that can't be used, and why.
#[derive(Debug, thiserror::Error)]
pub(crate) struct Unusable {
    key: &'static str,
    path: PathBuf,
    why: String,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listen.tls.{} {}: {}", self.key, self.path.display(), self.why)
    }
}

impl Unusable {
    fn new(key: &'static str, path: &Path, why: impl Into<String>) -> Self {
        Self { key, path: path.to_owned(), why: why.into() }
    }

    /// The error while the runtime shuts down.
    pub(super) fn shutting_down() -> Self {
        Self::new("cert", Path::new(""), "it wasn't read")
    }

    pub(super) fn of(self, tcp: &Tcp) -> Error {
        Error::Listen { socket: tcp.address.to_string(), why: self.to_string(), source: None }
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Contents {
    /// Reads the files. It blocks.
    pub(super) fn read(files: &TlsFiles) -> Result<Self, Unusable> {
        let read = |key, path: &Path| {
            read(path, key == "key")
                .map_err(|error| Unusable::new(key, path, process::explained(error).to_string()))
        };
        Ok(Self {
            cert: std::mem::take(&mut *read("cert", &files.cert)?),
            key: read("key", &files.key)?,
            client_ca: std::mem::take(&mut *read("client_ca", &files.client_ca)?),
        })
    }
}

fn read(path: &Path, is_secret: bool) -> io::Result<Zeroizing<Vec<u8>>> {
    // A pipe in place of the file must not block the thread.
    let file = Trusted::existing(path)?.open(File::options().read(true), OFlags::NONBLOCK)?;
    let found = file.metadata()?;
    if is_secret && found.mode() & READABLE_BY_ALL != 0 {
        let why = format!(
            "every user can read it; repair it with: chmod o-r {} (in a volume of Kubernetes: defaultMode: 0440)",
            path.display()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    pem::read(file)
}

impl Material {
    /// Parses the contents; `files` is for the errors.
    pub(super) fn new(
        contents: Contents,
        files: &TlsFiles,
        generation: u64,
    ) -> Result<Self, Unusable> {
        let of_cert = |why: &str| Unusable::new("cert", &files.cert, why);
        let of_key = |why: &str| Unusable::new("key", &files.key, why);
        let chain = pem::certificates(&contents.cert).map_err(of_cert)?;
        let expiry = chain.first().and_then(|leaf| certificate::not_after(leaf));
        let expiry = expiry.ok_or_else(|| of_cert("its first certificate can't be read"))?;
        let verifier = verifier(&contents.client_ca)
            .map_err(|why| Unusable::new("client_ca", &files.client_ca, why))?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|_| of_key("it contains no private key in PEM"))?;
        let provider = Arc::new(default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| of_cert(&error.to_string()))?
            .with_client_cert_verifier(Arc::new(PeerVerifier::new(Arc::clone(&verifier))))
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    of_key("it isn't the key of the certificate in listen.tls.cert")
                }
                other => of_key(&other.to_string()),
            })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // The attack: a resumed session has an identity that was checked at another time, against
        // other authorities.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), verifier, generation, expiry, contents })
    }
}

/// The verifier of callers' certificates, for these authorities.
fn verifier(authorities: &[u8]) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for (index, authority) in pem::certificates(authorities)?.into_iter().enumerate() {
        let unusable = |_| format!("its certificate number {} isn't an authority's", index + 1);
        roots.add(authority).map_err(unusable)?;
    }
    let provider = Arc::new(default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        // Strangers don't need to know the trusted authorities.
        .clear_root_hint_subjects()
        .build()
        .map_err(|error| error.to_string())
}
