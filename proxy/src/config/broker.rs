//! The address of the broker.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// The address of the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerAddress {
    /// A process that this proxy starts, which allows exactly its endpoint and profiles.
    Private,
    /// The socket of a shared broker.
    Unix(PathBuf),
    /// A broker with TLS: `https://HOST:PORT`. Reference-counted to keep the errors that contain it
    /// small.
    Tls(Arc<str>),
}

impl BrokerAddress {
    /// The address in the form of `--broker`, for a shared broker.
    #[must_use]
    pub fn shared(&self) -> Option<String> {
        match self {
            Self::Private => None,
            Self::Unix(path) => Some(format!("unix:{}", path.display())),
            Self::Tls(address) => Some(address.to_string()),
        }
    }
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shared() {
            None => f.write_str("the private broker"),
            Some(address) => write!(f, "the broker at {address}"),
        }
    }
}
