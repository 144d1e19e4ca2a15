//! How the endpoint is reached: HTTP proxies and certificate authorities.

use std::path::PathBuf;

/// How the endpoint is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Who vouches for it.
    pub authorities: Authorities,
    /// Past every proxy of the environment.
    pub is_direct: bool,
}

/// Where the certificate authorities are that may vouch for the endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorities {
    /// In one file, and nowhere else.
    Bundle {
        /// The option or the variable that names it.
        origin: &'static str,
        /// The file, in PEM.
        path: PathBuf,
    },
    /// Where this machine has them.
    Machine {
        /// What `SSL_CERT_FILE` names.
        file: Option<PathBuf>,
        /// What `SSL_CERT_DIR` names: directories with colons between them.
        directories: Option<PathBuf>,
    },
}
