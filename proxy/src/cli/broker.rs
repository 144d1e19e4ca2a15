//! Which broker is asked, and how each knows the other over TLS.

use std::path::{Path, PathBuf};

use clap::Args;
use sigward_proto::remote::{self, BrokerName, Given, TlsBroker};

/// Which broker the user wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerChoice {
    /// The one that listens on a usual socket, else a private one.
    Any,
    /// The one behind this socket.
    Unix(PathBuf),
    /// The one at this address.
    Tls(TlsBroker),
    /// One of our own.
    Private,
}

/// The options that say so.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Options {
    /// The broker to ask: unix:PATH, https://HOST:PORT, or private for one of our own
    #[arg(long, value_name = "ADDRESS", env = "SIGWARD_BROKER", value_parser = address)]
    broker: Option<Address>,

    /// PEM file of the certificate to show to a broker over TLS, with its chain
    #[arg(long, value_name = "FILE")]
    broker_cert: Option<PathBuf>,

    /// PEM file of the private key of --broker-cert
    #[arg(long, value_name = "FILE")]
    broker_key: Option<PathBuf>,

    /// PEM file of the certificate authorities for a broker over TLS
    #[arg(long, value_name = "FILE")]
    broker_ca: Option<PathBuf>,

    /// SPIFFE id or DNS name that the broker's certificate must have [default: its host]
    #[arg(long, value_name = "NAME", value_parser = BrokerName::parse)]
    broker_name: Option<BrokerName>,
}

#[derive(Debug, Clone)]
enum Address {
    Unix(PathBuf),
    Https { host: String, port: u16 },
    Private,
}

impl Options {
    /// What they say together.
    pub(super) fn choice(self) -> Result<BrokerChoice, String> {
        let Self { broker, broker_cert, broker_key, broker_ca, broker_name } = self;
        let given = Given { cert: broker_cert, key: broker_key, ca: broker_ca, name: broker_name };
        if let Some(Address::Https { host, port }) = broker {
            return given.broker_at(host, port).map(BrokerChoice::Tls);
        }
        given.check_unused()?;
        Ok(match broker {
            Some(Address::Unix(path)) => BrokerChoice::Unix(path),
            Some(Address::Private) => BrokerChoice::Private,
            Some(Address::Https { .. }) | None => BrokerChoice::Any,
        })
    }
}

fn address(text: &str) -> Result<Address, String> {
    if text == "private" {
        return Ok(Address::Private);
    }
    if text.starts_with("https:") || text.starts_with("http:") {
        return remote::address(text).map(|(host, port)| Address::Https { host, port });
    }
    match text.strip_prefix("unix:").map(Path::new) {
        Some(path) if path.is_absolute() => Ok(Address::Unix(path.into())),
        Some(_) => {
            Err("must name an absolute path, as in unix:/run/sigward/broker.sock".to_owned())
        }
        None => Err("must be unix:PATH, https://HOST:PORT or private".to_owned()),
    }
}
