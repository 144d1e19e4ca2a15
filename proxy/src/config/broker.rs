//! The broker that the proxy asks.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use sigward_proto::spiffe::SpiffeId;

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

/// A broker over TLS, and how each knows the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsBroker {
    /// Its host: a name, or an address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Our certificate and its chain, in PEM.
    pub cert: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// The authorities that may vouch for the broker, in PEM.
    pub ca: PathBuf,
    /// Who the broker's certificate must be issued to.
    pub name: BrokerName,
}

/// Who a broker's certificate is issued to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerName {
    /// A DNS name, or an IP address.
    Host(String),
    /// A workload.
    SpiffeId(SpiffeId),
}

impl TlsBroker {
    /// Where it is.
    #[must_use]
    pub fn address(&self) -> BrokerAddress {
        let Self { host, port, .. } = self;
        let is_v6 = host.contains(':');
        let host = if is_v6 { format!("[{host}]") } else { host.clone() };
        BrokerAddress::Tls(format!("https://{host}:{port}").into())
    }
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

impl fmt::Display for BrokerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => f.write_str(host),
            Self::SpiffeId(id) => id.fmt(f),
        }
    }
}
