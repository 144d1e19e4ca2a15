//! The options that choose the broker, and the TLS files for it.

use std::path::PathBuf;

use clap::Args;
use sigward_proto::remote::{Address, Given, TlsBroker};

/// The broker that the user chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerChoice {
    /// The broker that listens on a default socket, or else a private one.
    Any,
    /// The broker on this socket.
    Unix(PathBuf),
    /// The broker at this address.
    Tls(TlsBroker),
    /// A private broker.
    Private,
}

/// The options that choose a broker.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Options {
    /// Broker to use: unix:PATH, https://HOST:PORT, or private to start one for this proxy only
    #[arg(long, value_name = "ADDRESS", env = "SIGWARD_BROKER", value_parser = named)]
    broker: Option<Named>,

    #[command(flatten)]
    given: Given,
}

#[derive(Debug, Clone)]
enum Named {
    At(Address),
    Private,
}

impl Options {
    /// The broker that the options choose together.
    pub(super) fn choice(self) -> Result<BrokerChoice, String> {
        let Self { broker, given } = self;
        if let Some(Named::At(Address::Https { host, port })) = broker {
            return given.broker_at(host, port).map(BrokerChoice::Tls);
        }
        given.check_unused()?;
        Ok(match broker {
            Some(Named::At(Address::Unix(path))) => BrokerChoice::Unix(path),
            Some(Named::Private) => BrokerChoice::Private,
            Some(Named::At(Address::Https { .. })) | None => BrokerChoice::Any,
        })
    }
}

fn named(text: &str) -> Result<Named, String> {
    if text == "private" {
        return Ok(Named::Private);
    }
    let address = Address::parse(text)?.map(Named::At);
    address.ok_or_else(|| "must be unix:PATH, https://HOST:PORT or private".to_owned())
}
