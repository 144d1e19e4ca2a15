//! The options of both programs for the address of a broker and for mutual TLS.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use url::{Host, Url};

use crate::certificate::dns_name;
use crate::spiffe::SpiffeId;

/// The address of a TLS broker, and the files to authenticate with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsBroker {
    /// Its host: a name, or an address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The client's certificate and its chain, in PEM.
    pub cert: PathBuf,
    /// The private key of the certificate, in PEM.
    pub key: PathBuf,
    /// The certificate authorities for the broker, in PEM.
    pub ca: PathBuf,
    /// The name that the broker's certificate must have.
    pub name: BrokerName,
}

/// The name in a broker's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerName {
    /// A DNS name, or an IP address.
    Host(String),
    /// The SPIFFE id of a workload.
    SpiffeId(SpiffeId),
}

/// The options for a TLS broker: `--broker-cert`, `--broker-key`, `--broker-ca` and `--broker-name`.
#[derive(Debug, Clone, Default, Args)]
#[group(skip)]
pub struct Given {
    /// PEM file of the client certificate for a TLS broker, with its chain
    #[arg(id = "broker_cert", long = "broker-cert", value_name = "FILE")]
    pub cert: Option<PathBuf>,

    /// PEM file of the private key of --broker-cert
    #[arg(id = "broker_key", long = "broker-key", value_name = "FILE")]
    pub key: Option<PathBuf>,

    /// PEM file of the certificate authorities for a TLS broker
    #[arg(id = "broker_ca", long = "broker-ca", value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// SPIFFE id or DNS name that the broker's certificate must have [default: its host]
    #[arg(id = "broker_name", long = "broker-name", value_name = "NAME", value_parser = BrokerName::parse)]
    pub name: Option<BrokerName>,
}

/// The address of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket on this machine, by an absolute path.
    Unix(PathBuf),
    /// A TCP address with TLS.
    Https {
        /// A name, or an address without brackets.
        host: String,
        /// Its port.
        port: u16,
    },
}

impl Address {
    /// Parses `unix:PATH` or `https://HOST:PORT`; `None` if the text begins differently. A path must be absolute,
    /// because the program may have another working directory than the person who wrote the path.
    ///
    /// # Errors
    /// Describes what to write.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        if text.starts_with("https:") || text.starts_with("http:") {
            return address(text).map(|(host, port)| Some(Self::Https { host, port }));
        }
        match text.strip_prefix("unix:").map(Path::new) {
            Some(path) if path.is_absolute() => Ok(Some(Self::Unix(path.into()))),
            Some(_) => {
                Err("must name an absolute path, as in unix:/run/sigward/broker.sock".to_owned())
            }
            None => Ok(None),
        }
    }
}

impl Given {
    /// The TLS broker at this address, with these files.
    ///
    /// # Errors
    /// Names the missing option.
    pub fn broker_at(self, host: String, port: u16) -> Result<TlsBroker, String> {
        let needed = |option: &str, file: Option<PathBuf>| {
            file.ok_or_else(|| {
                format!(
                    "--broker https://… needs {option} FILE: a broker over TLS and its callers know each other by \
                     certificates (--broker-cert, --broker-key, --broker-ca)"
                )
            })
        };
        Ok(TlsBroker {
            cert: needed("--broker-cert", self.cert)?,
            key: needed("--broker-key", self.key)?,
            ca: needed("--broker-ca", self.ca)?,
            name: self.name.unwrap_or_else(|| BrokerName::Host(host.clone())),
            host,
            port,
        })
    }

    /// Checks that no option is given, for a broker without TLS.
    ///
    /// # Errors
    /// Names the option without effect.
    pub fn check_unused(&self) -> Result<(), String> {
        let given = [
            ("--broker-cert", self.cert.is_some()),
            ("--broker-key", self.key.is_some()),
            ("--broker-ca", self.ca.is_some()),
            ("--broker-name", self.name.is_some()),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            None => Ok(()),
            Some((option, _)) => {
                Err(format!("{option} is for a broker over TLS: add --broker https://HOST:PORT"))
            }
        }
    }
}

impl TlsBroker {
    /// The address: `https://HOST:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') {
            format!("https://[{host}]:{port}")
        } else {
            format!("https://{host}:{port}")
        }
    }
}

/// The host and port of `https://HOST:PORT`, if the URL has no other parts.
fn address(text: &str) -> Result<(String, u16), String> {
    if text.starts_with("http:") {
        let why = "must be https://HOST:PORT: a broker is never asked in clear text";
        return Err(why.to_owned());
    }
    let why = "must be https://HOST:PORT, as in https://broker.example.org:7443";
    host_and_port(text).ok_or_else(|| why.to_owned())
}

fn host_and_port(text: &str) -> Option<(String, u16)> {
    let url = Url::parse(text).ok().filter(|url| url.scheme() == "https")?;
    let host = match url.host()? {
        Host::Domain(name) => dns_name(name)?,
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    };
    let port = url.port_or_known_default()?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.path() == "/";
    let is_plain = is_plain && url.query().is_none() && url.fragment().is_none();
    is_plain.then_some((host, port))
}

impl BrokerName {
    /// Parses a SPIFFE id, a DNS name or an IP address.
    ///
    /// # Errors
    /// It is none of these.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("spiffe:") {
            return SpiffeId::parse(text).map(Self::SpiffeId).map_err(|why| why.to_string());
        }
        let is_address = text.parse::<IpAddr>().is_ok();
        let name = if is_address { Some(text.to_owned()) } else { dns_name(text) };
        name.map(Self::Host).ok_or_else(|| "must be a SPIFFE id or a DNS name".to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tls_broker_has_only_a_host_and_a_port() {
        let found = |host: &str, port| Ok((host.to_owned(), port));
        assert_eq!(address("https://Broker.example.org:7443"), found("broker.example.org", 7443));
        assert_eq!(address("https://127.0.0.1:1/"), found("127.0.0.1", 1));
        assert_eq!(address("https://[::1]:7443"), found("::1", 7443));
        assert_eq!(address("https://b.example"), found("b.example", 443));
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
            assert!(address(text).is_err(), "{text}");
        }
        assert!(address("http://b:1").unwrap_err().contains("clear text"));
    }

    #[test]
    fn a_broker_is_named_by_an_absolute_path_or_over_tls() {
        let address = Address::parse;
        assert_eq!(address("unix:/run/x"), Ok(Some(Address::Unix("/run/x".into()))));
        let https = Address::Https { host: "b".to_owned(), port: 7443 };
        assert_eq!(address("https://b:7443"), Ok(Some(https)));
        for other in ["", "/run/x", "private", "tcp:1"] {
            assert_eq!(address(other), Ok(None), "{other}");
        }
        for wrong in ["unix:", "unix:relative", "http://b:7443", "https://b/x"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_is_an_id_or_a_host() {
        let name = BrokerName::parse;
        let id = SpiffeId::parse("spiffe://example.org/broker").unwrap();
        assert_eq!(name("spiffe://example.org/broker"), Ok(BrokerName::SpiffeId(id)));
        assert_eq!(name("B.example"), Ok(BrokerName::Host("b.example".to_owned())));
        assert_eq!(name("::1"), Ok(BrokerName::Host("::1".to_owned())));
        for text in ["", "spiffe://example.org", "spiffe://example.org/*", "*.example.org", "a b"] {
            assert!(name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_files_need_an_address_and_the_address_needs_files() {
        let all = Given {
            cert: Some("c".into()),
            key: Some("k".into()),
            ca: Some("a".into()),
            name: None,
        };
        assert_eq!(Given::default().check_unused(), Ok(()));
        assert!(all.check_unused().unwrap_err().contains("--broker-cert is for a broker over TLS"));
        let broker = all.clone().broker_at("::1".to_owned(), 7443).unwrap();
        assert_eq!(broker.url(), "https://[::1]:7443");
        assert_eq!(broker.name, BrokerName::Host("::1".to_owned()));
        for (option, given) in [
            ("--broker-cert", Given { cert: None, ..all.clone() }),
            ("--broker-key", Given { key: None, ..all.clone() }),
            ("--broker-ca", Given { ca: None, ..all.clone() }),
        ] {
            let why = given.broker_at("b".to_owned(), 1).unwrap_err();
            assert!(why.contains(&format!("needs {option} FILE")), "{why}");
        }
    }
}
