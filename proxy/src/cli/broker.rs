//! Which broker is asked, and how each knows the other over TLS.

use std::path::PathBuf;

use clap::Args;
use sigward_proto::remote::{Address, Given, TlsBroker};

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

/// The options that choose a broker.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Options {
    /// Broker to ask: unix:PATH, https://HOST:PORT, or private for one that the proxy starts for itself
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
    /// What they say together.
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
