//! How the endpoint is reached: HTTP proxies and certificate authorities.

use std::path::PathBuf;

/// How the endpoint is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The certificate authorities for it.
    pub authorities: Authorities,
    /// Whether the proxies of the environment are bypassed.
    pub is_direct: bool,
}

/// The certificate authorities for the endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorities {
    /// Only those in one file.
    Bundle {
        /// The option or the variable that names the file.
        origin: &'static str,
        /// The file, in PEM.
        path: PathBuf,
    },
    /// Those of this machine.
    Machine {
        /// The value of `SSL_CERT_FILE`.
        file: Option<PathBuf>,
        /// The value of `SSL_CERT_DIR`: directories separated by colons.
        directories: Option<PathBuf>,
    },
}
