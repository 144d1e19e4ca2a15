//! The settings for traces in the environment: the collector's address, and TLS files.
//!
//! Invariant: without an endpoint, traces are off; errors contain no value and no text of a file.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;

use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use url::{Host, Url};
use zeroize::Zeroizing;

use crate::pem;

/// The export that the environment configures. Its files have been read already, because a process may restrict its
/// file access later.
pub struct Settings {
    pub(super) endpoint: Url,
    /// Only for `https`.
    pub(super) tls: Option<ClientTlsConfig>,
    /// The service name of the process.
    pub(super) name: Option<String>,
}

/// A variable that can't be used, and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The address isn't valid for a collector.
    #[error("{variable} can't be used: {why}")]
    Endpoint {
        /// The variable.
        variable: &'static str,
        /// What is wrong, and what to write.
        why: &'static str,
    },
    /// The protocol isn't supported.
    #[error(
        "{variable} is {protocol:?}, and traces are sent by grpc alone; set OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc and \
         OTEL_EXPORTER_OTLP_TRACES_ENDPOINT (port 4317 of most collectors), or OTEL_TRACES_EXPORTER=none"
    )]
    Protocol {
        /// The variable.
        variable: &'static str,
        /// Its value.
        protocol: String,
    },
    /// A TLS file can't be used.
    #[error("{variable} {path}: {why}")]
    File {
        /// The variable that names the file.
        variable: &'static str,
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate without its key, or a key without its certificate.
    #[error("{given} needs {missing} beside it: one is of no use without the other")]
    HalfAnIdentity {
        /// The variable that is set.
        given: &'static str,
        /// The one that isn't.
        missing: &'static str,
    },
}

/// A variable for traces, and one for all exports; the first one that is set counts.
type Variables = [&'static str; 2];

const ENDPOINT: Variables = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOL: Variables = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const CERTIFICATE: Variables =
    ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
const CLIENT_CERTIFICATE: Variables =
    ["OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"];
const CLIENT_KEY: Variables =
    ["OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY"];

impl Settings {
    /// The settings of the environment; `None` if it names no endpoint or turns traces off.
    ///
    /// # Errors
    /// Names the variable that can't be used.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, SettingsError> {
        let environment = Environment(variable);
        let Some(endpoint) = environment.endpoint()? else { return Ok(None) };
        let tls = (endpoint.scheme() == "https").then(|| environment.tls()).transpose()?;
        Ok(Some(Self { endpoint, tls, name: environment.set("OTEL_SERVICE_NAME") }))
    }
}

impl fmt::Debug for Settings {
    /// Omits the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Settings")
    }
}

struct Environment<V>(V);

impl<V: Fn(&str) -> Option<String>> Environment<V> {
    /// The value of a variable. By the specification, an empty one counts as unset.
    fn set(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    fn first(&self, names: Variables) -> Option<(&'static str, String)> {
        names.into_iter().find_map(|name| Some((name, self.set(name)?)))
    }

    fn is_off(&self) -> bool {
        let is_disabled =
            self.set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let elsewhere = |list: String| list.split(',').all(|exporter| exporter.trim() != "otlp");
        is_disabled || self.set("OTEL_TRACES_EXPORTER").is_some_and(elsewhere)
    }

    fn endpoint(&self) -> Result<Option<Url>, SettingsError> {
        let Some((variable, text)) = self.first(ENDPOINT) else { return Ok(None) };
        if self.is_off() {
            return Ok(None);
        }
        if let Some((variable, protocol)) = self.first(PROTOCOL).filter(|(_, it)| it != "grpc") {
            return Err(SettingsError::Protocol { variable, protocol });
        }
        let unusable = |why| SettingsError::Endpoint { variable, why };
        // The text isn't repeated, because it may contain a password.
        let url = Url::parse(&text);
        let url =
            url.map_err(|_| unusable("it isn't a URL; an example is http://127.0.0.1:4317"))?;
        if !url.username().is_empty() || url.password().is_some() {
            let why = "it has a user or a password; those go into OTEL_EXPORTER_OTLP_HEADERS";
            return Err(unusable(why));
        }
        match (url.scheme(), is_loopback(&url)) {
            ("https", _) | ("http", true) => Ok(Some(url)),
            // The attack: on a network, anyone could read profiles, rules and tools, or a token in a header.
            ("http", false) => Err(unusable("http:// is for this machine alone; write https://")),
            _ => Err(unusable("it has to begin with https://, or with http:// for this machine")),
        }
    }

    /// The configured certificate authorities or those of the machine, and the client certificate if one is configured.
    fn tls(&self) -> Result<ClientTlsConfig, SettingsError> {
        let tls = ClientTlsConfig::new();
        let mut tls = match self.first(CERTIFICATE) {
            Some(named) => tls.ca_certificate(Certificate::from_pem(certificates(&named)?)),
            None => tls.with_native_roots(),
        };
        match (self.first(CLIENT_CERTIFICATE), self.first(CLIENT_KEY)) {
            (None, None) => {}
            (Some(certificate), Some(key)) => {
                let key = file(&key, true)?;
                tls = tls.identity(Identity::from_pem(certificates(&certificate)?, &*key));
            }
            (Some((given, _)), None) => {
                return Err(SettingsError::HalfAnIdentity { given, missing: CLIENT_KEY[1] });
            }
            (None, Some((given, _))) => {
                let missing = CLIENT_CERTIFICATE[1];
                return Err(SettingsError::HalfAnIdentity { given, missing });
            }
        }
        Ok(tls)
    }
}

/// The text of a file with certificates.
fn certificates(named: &(&'static str, String)) -> Result<Zeroizing<Vec<u8>>, SettingsError> {
    let text = file(named, false)?;
    pem::certificates(&text).map_err(|why| unusable(named, why.to_owned()))?;
    Ok(text)
}

/// The text of a file. A key that every user can read isn't used.
fn file(
    named: &(&'static str, String),
    is_secret: bool,
) -> Result<Zeroizing<Vec<u8>>, SettingsError> {
    let read = || {
        let file = File::open(&named.1)?;
        if is_secret && file.metadata()?.mode() & 0o007 != 0 {
            let why = "every user can read or change it; repair it with: chmod o= FILE";
            return Err(io::Error::other(why));
        }
        pem::read(file)
    };
    read().map_err(|error| unusable(named, error.to_string()))
}

fn unusable((variable, path): &(&'static str, String), why: String) -> SettingsError {
    SettingsError::File { variable, path: path.clone(), why }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Settings>, SettingsError> {
        Settings::read(|name| {
            let found = variables.iter().find(|(found, _)| *found == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const GENERAL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

    #[test]
    fn traces_are_off_without_an_endpoint_or_when_switched_off() {
        let on = (GENERAL, "http://127.0.0.1:4317");
        for variables in [
            &[][..],
            &[("OTEL_SERVICE_NAME", "x"), ("OTEL_TRACES_EXPORTER", "otlp")],
            &[(GENERAL, "")],
            &[on, ("OTEL_SDK_DISABLED", "TRUE")],
            &[on, ("OTEL_TRACES_EXPORTER", "none")],
            &[on, ("OTEL_TRACES_EXPORTER", "console,zipkin")],
        ] {
            assert!(read(variables).unwrap().is_none(), "{variables:?}");
        }
        for exporters in ["otlp", "console, otlp"] {
            assert!(read(&[on, ("OTEL_TRACES_EXPORTER", exporters)]).unwrap().is_some());
        }
    }

    #[test]
    fn the_endpoint_of_traces_comes_first() {
        let url = "https://collector.example:4317/";
        let found = read(&[(GENERAL, "http://localhost:1"), (TRACES, url)]).unwrap().unwrap();
        assert_eq!(found.endpoint.as_str(), url);
        for url in ["http://localhost:4317", "http://127.0.0.9:1", "http://[::1]:1", "https://h"] {
            assert!(read(&[(GENERAL, url)]).unwrap().is_some(), "{url}");
        }
    }

    #[test]
    fn an_endpoint_that_cannot_be_used_is_named_and_not_repeated() {
        for url in [
            "http://collector.example:4317",
            "http://10.0.0.1:4317",
            "http://localhost.example",
            "127.0.0.1:4317",
            "unix:/run/collector.sock",
            "https://user:secret@collector.example",
            "secret",
        ] {
            let error = read(&[(TRACES, url)]).unwrap_err().to_string();
            assert!(error.contains(TRACES) && !error.contains("secret"), "{url}: {error}");
        }
        let other =
            [(GENERAL, "http://localhost:4318"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")];
        let error = read(&other).unwrap_err().to_string();
        assert!(error.contains("http/json") && error.contains("OTEL_EXPORTER_OTLP_PROTOCOL"));
    }

    #[test]
    fn files_of_tls_that_cannot_be_used_are_named() {
        let authority =
            rcgen::generate_simple_self_signed(["collector.example".to_owned()]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str, mode: u32| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            path.display().to_string()
        };
        let certificate = write("cert", &authority.cert.pem(), 0o644);
        let secret = authority.signing_key.serialize_pem();
        let (key, open) = (write("key", &secret, 0o600), write("open", &secret, 0o604));
        let (empty, absent) = (write("empty", "", 0o644), "/nonexistent/ca.pem".to_owned());
        let of = |ca: Option<&String>, certificate: Option<&String>, key: Option<&String>| {
            let files = [(CERTIFICATE[1], ca), (CLIENT_CERTIFICATE[0], certificate)];
            let files = files.into_iter().chain([(CLIENT_KEY[1], key)]);
            let mut variables = vec![(GENERAL, "https://collector.example:4317")];
            variables.extend(files.filter_map(|(name, path)| Some((name, path?.as_str()))));
            read(&variables).map(|read| read.unwrap()).map_err(|error| error.to_string())
        };
        of(Some(&certificate), Some(&certificate), Some(&key)).unwrap();
        of(None, None, None).unwrap();
        for (read, names) in [
            (of(Some(&absent), None, None), [CERTIFICATE[1], &absent]),
            (of(Some(&empty), None, None), [CERTIFICATE[1], "no certificate"]),
            (of(None, Some(&empty), Some(&key)), [CLIENT_CERTIFICATE[0], "no certificate"]),
            (of(None, Some(&certificate), None), [CLIENT_CERTIFICATE[0], CLIENT_KEY[1]]),
            (of(None, None, Some(&key)), [CLIENT_KEY[1], CLIENT_CERTIFICATE[1]]),
            (of(None, Some(&certificate), Some(&open)), [CLIENT_KEY[1], "chmod o="]),
        ] {
            let error = read.unwrap_err();
            assert!(names.iter().all(|name| error.contains(name)), "{error}");
            assert!(!error.contains(secret.lines().nth(1).unwrap()), "{error}");
        }
        // Without TLS they have no effect.
        assert!(read(&[(GENERAL, "http://[::1]:1"), (CERTIFICATE[1], &absent)]).unwrap().is_some());
    }
}
