//! `[listen]`: the Unix socket, and the address for TLS.

use std::net::SocketAddr;

use super::model::{Group, Listen, Tcp, TlsFiles};
use super::reader::{Table, absolute};

const NO_TLS: &str = "needs tls: without client certificates callers couldn't be identified. Write \
     tls = { cert = \"/…\", key = \"/…\", client_ca = \"/…\" }, PEM files, or leave tcp out and share the Unix socket";
const NO_TCP: &str = "needs tcp: say where TLS is served, \"0.0.0.0:7443\"";

pub(super) fn listen(table: Table<'_>) -> Listen {
    let unix = table.text("unix").and_then(absolute);
    let mode = table.text("mode").and_then(|text| text.parse(mode)).map(|mode| mode.value);
    let group = table.text("group").and_then(|text| text.parse(group)).map(|group| group.value);
    let address = table.text("tcp").and_then(|text| text.parse(address));
    let tls = table.table("tls").and_then(tls);
    if table.has("tcp") && !table.has("tls") {
        table.fault("tcp", NO_TLS);
    }
    if table.has("tls") && !table.has("tcp") {
        table.fault("tls", NO_TCP);
    }
    table.done();
    let tcp = address.zip(tls).map(|(address, tls)| Tcp { address: address.value, tls });
    Listen { unix, mode, group, tcp }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "must be an address and a port, as in \"0.0.0.0:7443\"".to_owned())
}

fn tls(table: Table<'_>) -> Option<TlsFiles> {
    let file = |key, why: &str| {
        if !table.has(key) {
            table.missing(key, why);
        }
        table.text(key).and_then(absolute)
    };
    let cert = file("cert", "is missing: the PEM file of the broker's certificate and its chain");
    let key = file("key", "is missing: the PEM file of the certificate's private key");
    let client_ca = file(
        "client_ca",
        "is missing: the PEM file of the authorities that may sign callers' certificates; without it \
         all callers would be accepted",
    );
    table.done();
    Some(TlsFiles { cert: cert?, key: key?, client_ca: client_ca? })
}

/// Parses a socket's permissions in octal. Permissions for all users are refused: on a machine with
/// other users anyone could fill the connection table, and the peer's uid would be the only
/// remaining check.
fn mode(text: &str) -> Result<u32, String> {
    let number = u32::from_str_radix(text, 8).ok().filter(|_| (3..=4).contains(&text.len()));
    match number {
        Some(mode) if mode & !0o777 == 0 && mode & 0o600 == 0o600 && mode & 0o007 == 0 => Ok(mode),
        Some(mode) if mode & 0o007 != 0 => {
            Err("opens the socket to every user: write \"0660\" and name a group".to_owned())
        }
        _ => Err("must be permissions in octal, like \"0600\" or \"0660\"".to_owned()),
    }
}

/// Parses a group, by number or by its name in /etc/group.
fn group(text: &str) -> Result<Group, String> {
    if let Ok(gid) = text.parse() {
        return Ok(Group(gid));
    }
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let gid = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == text).then(|| fields.nth(1)?.parse().ok())?
    });
    gid.map(Group).ok_or_else(|| {
        "is not a group of /etc/group: create it (groupadd), or write its number".to_owned()
    })
}
