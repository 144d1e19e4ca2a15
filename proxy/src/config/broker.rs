//! The broker that the proxy asks.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where the broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerAddress {
    /// A process of our own, allowing exactly our endpoint and profiles.
    Private,
    /// A socket that somebody's broker listens on.
    Unix(PathBuf),
    /// A broker over TLS: `https://HOST:PORT`. Shared, so that the errors that it is in stay small.
    Tls(Arc<str>),
}

impl BrokerAddress {
    /// As `--broker` takes it, for a broker that others share.
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
