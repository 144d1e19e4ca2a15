//! The way to a broker over TLS: both sides show a certificate.
//!
//! Invariant: TLS 1.3 alone, no sessions are kept, and nothing is asked before the broker's certificate has the name that
//! it must have. The files are read for each connection; when they change, calls that begin later get another one, and
//! those in flight end on theirs.

mod files;
mod verifier;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rustix::net::sockopt;
use sigward_proto::STREAMS_OVER_TLS;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use self::files::{Files, Marks};
use super::socket::{Connected, Secured, Socket};
use crate::config::TlsBroker;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(1);
/// A broker whose machine is gone says nothing: after so long without an answer, it is asked by TCP; and gets so long.
const IDLE: Duration = Duration::from_secs(30);
const PROBE: Duration = Duration::from_secs(5);
const PROBES: u32 = 4;
/// How long what was sent may stay without an answer of TCP.
#[cfg(target_os = "linux")]
const UNANSWERED: u32 = 20_000;

/// Connects to one broker.
#[derive(Debug)]
pub(super) struct Connector(TlsBroker);

impl Connector {
    pub(super) fn new(broker: TlsBroker) -> Arc<Self> {
        Arc::new(Self(broker))
    }

    /// A connection whose other end is the broker that was asked for.
    pub(super) async fn connect(self: Arc<Self>) -> io::Result<Connected> {
        let broker = &self.0;
        let of_read = broker.clone();
        let read = tokio::task::spawn_blocking(move || Files::read(&of_read)).await;
        let files = read.map_err(io::Error::other)?.map_err(io::Error::other)?;
        let stream = TcpStream::connect((broker.host.as_str(), broker.port)).await?;
        watch_over(&stream);
        let name = ServerName::try_from(broker.host.clone()).map_err(io::Error::other)?;
        let connecting = TlsConnector::from(files.config).connect(name, stream);
        let stream = connecting.await.map_err(|error| self.explain(&error))?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::other("it is no broker: it doesn't speak h2 (ALPN)"));
        }
        let outdated = Arc::clone(&self).outdated(files.marks).boxed();
        let socket = Socket::Tls(Box::new(Secured::new(stream, &broker.cert)));
        Ok(Connected { socket, streams: Some(STREAMS_OVER_TLS), outdated })
    }

    /// Ends when the files have changed and can be used. Those that can't are told of once, and change nothing.
    async fn outdated(self: Arc<Self>, mut marks: Marks) {
        loop {
            tokio::time::sleep(LOOK).await;
            let (broker, held) = (self.0.clone(), marks.clone());
            let look = move || {
                let now = Marks::of(&broker);
                (now != held).then(|| (now, Files::read(&broker)))
            };
            // It fails only at the end of the runtime.
            let Ok(looked) = tokio::task::spawn_blocking(look).await else { return };
            match looked {
                None => {}
                Some((_, Ok(_))) => {
                    tracing::info!(
                        "the files for the broker have changed: calls get a new connection"
                    );
                    return;
                }
                Some((now, Err(error))) => {
                    tracing::error!(%error, "the new files for the broker can't be used");
                    marks = now;
                }
            }
        }
    }

    /// Says which option is at fault, as far as that is known.
    fn explain(&self, error: &io::Error) -> io::Error {
        let TlsBroker { ca, name, .. } = &self.0;
        io::Error::other(format!(
            "TLS with it failed: {error}; it must show a certificate for {name} (--broker-name) from an authority in \
             --broker-ca {}",
            ca.display()
        ))
    }
}

/// Has the kernel notice that the broker's machine is gone. Where it can't, the calls have deadlines of their own.
fn watch_over(stream: &TcpStream) {
    stream.set_nodelay(true).ok();
    sockopt::set_socket_keepalive(stream, true).ok();
    sockopt::set_tcp_keepidle(stream, IDLE).ok();
    sockopt::set_tcp_keepintvl(stream, PROBE).ok();
    sockopt::set_tcp_keepcnt(stream, PROBES).ok();
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(stream, UNANSWERED).ok();
}
