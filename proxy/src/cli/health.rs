//! Parses `sigward-proxy health ADDRESS`. It comes before the endpoint, with which it can't be
//! confused.

use std::ffi::OsString;

use clap::{CommandFactory, Parser};

use super::listen;
use crate::config::ListenAddress;

/// Report by the exit code whether a proxy accepts requests: 0 if it does, for container probes.
#[derive(Debug, Parser)]
#[command(name = "sigward-proxy health")]
struct Options {
    /// Address on which the proxy listens, in the form of --listen: HOST:PORT, PORT or unix:PATH
    #[arg(value_parser = listen::address)]
    address: ListenAddress,
}

/// The command, for man pages and completions.
pub(super) fn command() -> clap::Command {
    Options::command().name("health")
}

/// The address of the proxy to check; `None` if the command line is for something else.
pub fn health(
    arguments: impl IntoIterator<Item = OsString>,
) -> Option<Result<ListenAddress, clap::Error>> {
    let mut arguments = arguments.into_iter().skip(1);
    // An endpoint has a scheme.
    let is_health = arguments.next().is_some_and(|word| word == "health");
    let name = OsString::from("sigward-proxy health");
    let all = std::iter::once(name).chain(arguments);
    is_health.then(|| Options::try_parse_from(all).map(|options| options.address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(arguments: &[&str]) -> Option<Result<ListenAddress, clap::Error>> {
        health(["sigward-proxy"].iter().chain(arguments).map(OsString::from))
    }

    #[test]
    fn an_address_has_the_form_of_listen() {
        for (text, address) in
            [("8080", "127.0.0.1:8080"), ("[::1]:80", "[::1]:80"), ("unix:/run/x", "unix:/run/x")]
        {
            let asked = asked(&["health", text]).expect("the health").expect("an address");
            assert_eq!(asked.to_string(), address);
        }
        for wrong in [&["health"][..], &["health", "example.com:80"], &["health", "80", "81"]] {
            assert!(asked(wrong).expect("the health").is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn health_must_be_the_first_word() {
        let url = "https://aws-mcp.us-east-1.api.aws/mcp";
        for other in [&[][..], &[url], &["--profile", "health", url], &["healthy", "80"]] {
            assert!(asked(other).is_none(), "{other:?}");
        }
    }
}
