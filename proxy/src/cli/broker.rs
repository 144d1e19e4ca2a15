//! Which broker is asked, and how each knows the other over TLS.

use std::path::{Path, PathBuf};

use clap::Args;
use sigward_proto::certificate::dns_name;
use sigward_proto::spiffe::SpiffeId;
use url::{Host, Url};

use crate::config::{BrokerName, TlsBroker};

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
    #[arg(long, value_name = "NAME", value_parser = name)]
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
        if let Some(Address::Https { host, port }) = broker {
            let needed = |option: &str, file: Option<PathBuf>| {
                file.ok_or_else(|| {
                    format!(
                        "--broker https://… needs {option} FILE: a broker over TLS and its callers know \
                         each other by certificates (--broker-cert, --broker-key, --broker-ca)"
                    )
                })
            };
            return Ok(BrokerChoice::Tls(TlsBroker {
                cert: needed("--broker-cert", broker_cert)?,
                key: needed("--broker-key", broker_key)?,
                ca: needed("--broker-ca", broker_ca)?,
                name: broker_name.unwrap_or_else(|| BrokerName::Host(host.clone())),
                host,
                port,
            }));
        }
        let without_effect = [
            ("--broker-cert", broker_cert.is_some()),
            ("--broker-key", broker_key.is_some()),
            ("--broker-ca", broker_ca.is_some()),
            ("--broker-name", broker_name.is_some()),
        ];
        if let Some((option, _)) = without_effect.iter().find(|(_, given)| *given) {
            return Err(format!(
                "{option} is for a broker over TLS: add --broker https://HOST:PORT"
            ));
        }
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
    if text.starts_with("https:") {
        return https(text).ok_or_else(|| {
            "must be https://HOST:PORT, as in https://broker.example.org:7443".to_owned()
        });
    }
    match text.strip_prefix("unix:").map(Path::new) {
        Some(path) if path.is_absolute() => Ok(Address::Unix(path.into())),
        Some(_) => {
            Err("must name an absolute path, as in unix:/run/sigward/broker.sock".to_owned())
        }
        None if text.starts_with("http:") => {
            Err("must be https://HOST:PORT: a broker is never asked in clear text".to_owned())
        }
        None => Err("must be unix:PATH, https://HOST:PORT or private".to_owned()),
    }
}

/// Nothing but a host and a port.
fn https(text: &str) -> Option<Address> {
    let url = Url::parse(text).ok()?;
    let host = match url.host()? {
        Host::Domain(name) => dns_name(name)?,
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    };
    let port = url.port_or_known_default()?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.path() == "/";
    let is_plain = is_plain && url.query().is_none() && url.fragment().is_none();
    is_plain.then_some(Address::Https { host, port })
}

fn name(text: &str) -> Result<BrokerName, String> {
    if text.starts_with("spiffe:") {
        return SpiffeId::parse(text).map(BrokerName::SpiffeId).map_err(|why| why.to_string());
    }
    let is_address = text.parse::<std::net::IpAddr>().is_ok();
    let name = if is_address { Some(text.to_owned()) } else { dns_name(text) };
    name.map(BrokerName::Host).ok_or_else(|| "must be a SPIFFE id or a DNS name".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_over_tls_has_a_host_and_a_port_alone() {
        let of = |text: &str| match address(text) {
            Ok(Address::Https { host, port }) => Some((host, port)),
            _ => None,
        };
        let found = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(of("https://Broker.example.org:7443"), found("broker.example.org", 7443));
        assert_eq!(of("https://127.0.0.1:1/"), found("127.0.0.1", 1));
        assert_eq!(of("https://[::1]:7443"), found("::1", 7443));
        assert_eq!(of("https://b.example"), found("b.example", 443));
        for text in [
            "https://",
            "https:",
            "https://b/path",
            "https://me@b:1",
            "https://me:x@b:1",
            "https://b:1?x",
            "https://b:1#x",
            "https://b:0x",
            "http://b:7443",
            "b:7443",
            "tcp://b:7443",
            "https://*.b:1",
        ] {
            assert!(of(text).is_none(), "{text}");
        }
        assert!(address("http://b:1").unwrap_err().contains("clear text"));
    }

    #[test]
    fn a_name_is_an_id_or_a_host() {
        let id = SpiffeId::parse("spiffe://example.org/broker").unwrap();
        assert_eq!(name("spiffe://example.org/broker"), Ok(BrokerName::SpiffeId(id)));
        assert_eq!(name("B.example"), Ok(BrokerName::Host("b.example".to_owned())));
        assert_eq!(name("::1"), Ok(BrokerName::Host("::1".to_owned())));
        for text in ["", "spiffe://example.org", "spiffe://example.org/*", "*.example.org", "a b"] {
            assert!(name(text).is_err(), "{text}");
        }
    }
}
