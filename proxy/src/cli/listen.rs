//! `--listen` and the options that need it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::config::{Listen, ListenAddress};

/// An address to listen on. A bare port means the loopback address.
pub(super) fn address(text: &str) -> Result<ListenAddress, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path.starts_with('/') {
            true => Ok(ListenAddress::Unix(path.into())),
            false => Err("must name an absolute path, as in unix:/run/sigward/mcp.sock".to_owned()),
        };
    }
    let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse() {
        return Ok(ListenAddress::Tcp(loopback(port)));
    }
    match (text.parse(), text.strip_prefix("localhost:").and_then(|port| port.parse().ok())) {
        (Ok(address), _) => Ok(ListenAddress::Tcp(address)),
        (Err(_), Some(port)) => Ok(ListenAddress::Tcp(loopback(port))),
        // A name may resolve to another address later.
        (Err(_), None) => Err("must be HOST:PORT with an IP address or localhost, such as \
                               127.0.0.1:8080 or [::1]:8080; or PORT, or unix:PATH"
            .to_owned()),
    }
}

/// Permissions in octal digits, as for `chmod`.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "must be octal digits up to 0777, such as 0660".to_owned())
}

/// Refuses an address that is open to the network without a token: anyone who reaches the port
/// could sign with this proxy's profiles.
pub(super) fn checked(
    address: Option<ListenAddress>,
    token_file: Option<PathBuf>,
    mode: u32,
) -> Result<Option<Listen>, String> {
    let Some(address) = address else { return Ok(None) };
    if let ListenAddress::Tcp(tcp) = address
        && !tcp.ip().is_loopback()
        && token_file.is_none()
    {
        return Err(format!(
            "--listen {tcp} is open to other machines, which could use your profiles: add \
             --listen-token-file FILE, or listen on 127.0.0.1 or on unix:PATH"
        ));
    }
    Ok(Some(Listen { address, mode, token_file }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(text: &str) -> ListenAddress {
        ListenAddress::Tcp(text.parse().unwrap())
    }

    #[test]
    fn addresses_are_loopback_by_default() {
        assert_eq!(address("8080"), Ok(tcp("127.0.0.1:8080")));
        assert_eq!(address(":8080"), Ok(tcp("127.0.0.1:8080")));
        assert_eq!(address("localhost:0"), Ok(tcp("127.0.0.1:0")));
        assert_eq!(address("[::1]:8080"), Ok(tcp("[::1]:8080")));
        assert_eq!(address("unix:/run/x"), Ok(ListenAddress::Unix("/run/x".into())));
        for wrong in ["", "example.com:80", "127.0.0.1", "unix:x", "127.0.0.1:99999", "[::1]"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_network_needs_a_token() {
        let open = || Some(tcp("0.0.0.0:8080"));
        assert!(checked(open(), None, 0o600).is_err());
        assert!(checked(open(), Some("/token".into()), 0o600).unwrap().is_some());
        assert!(checked(Some(tcp("127.0.0.1:0")), None, 0o600).unwrap().is_some());
        assert!(checked(None, None, 0o600).unwrap().is_none());
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(mode("0660"), Ok(0o660));
        assert_eq!(mode("777"), Ok(0o777));
        assert!(mode("1777").is_err() && mode("9").is_err() && mode("rw").is_err());
    }
}
