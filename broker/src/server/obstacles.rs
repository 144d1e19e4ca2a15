//! Finds what would prevent a broker from starting with a configuration, while a broker may be
//! running with it.
//!
//! Invariant: nothing is created, opened for writing or taken over. A socket or a port that is in
//! use by a running broker isn't an obstacle: that may be the broker of this configuration.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::audit::Audit;
use crate::config::Config;
use crate::error::Error;
use crate::intake::{tls, unix};

/// The timeout for identifying the process that uses a port.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The bytes of its answer that are read.
const ANSWER: u64 = 4 << 10;
/// The metrics of every broker start with this.
const METRICS_START: &str = "# HELP sigward_";

/// The errors that starting would return.
#[derive(Debug, Default)]
pub struct Obstacles {
    /// The errors, as they would be reported.
    pub certain: Vec<Error>,
    /// Errors that don't occur if another process is the broker of this configuration, or if the
    /// service manager passes a socket.
    pub possible: Vec<Error>,
}

/// Finds the obstacles. `default_socket` is used if the configuration names no socket.
pub async fn obstacles(config: &Config, default_socket: &Path) -> Obstacles {
    let listen = &config.listen;
    let mut found = Obstacles::default();
    match &listen.unix {
        Some(path) => found.certain.extend(unix::Socket::check(path, listen).err()),
        None => found.possible.extend(unix::Socket::check(default_socket, listen).err()),
    }
    found.certain.extend(tls::check(listen).err());
    found.certain.extend(Audit::check(&config.audit).err());
    if let Some(tcp) = &listen.tcp
        && let Err(source) = bind(tcp.address)
    {
        // The TLS port can't be identified without a certificate.
        let is_taken = source.kind() == io::ErrorKind::AddrInUse;
        let of_kind = if is_taken { &mut found.possible } else { &mut found.certain };
        of_kind.push(unbound(tcp.address, "the address can't be bound", source));
    }
    if let Some(address) = config.metrics
        && let Err(source) = bind(address)
        && !(source.kind() == io::ErrorKind::AddrInUse && is_of_a_broker(address).await)
    {
        found.certain.push(unbound(address, "metrics can't be served there", source));
    }
    found
}

/// Binds the address without `listen`, so that other processes can still bind it.
fn bind(address: SocketAddr) -> io::Result<()> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)
}

fn unbound(address: SocketAddr, why: &str, source: io::Error) -> Error {
    Error::Listen { socket: address.to_string(), why: why.to_owned(), source: Some(source) }
}

/// Whether a broker serves its metrics at the address.
async fn is_of_a_broker(address: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.take(ANSWER).read_to_string(&mut answer).await?;
        io::Result::Ok(answer.contains(METRICS_START))
    };
    matches!(tokio::time::timeout(TIMEOUT, ask).await, Ok(Ok(true)))
}
