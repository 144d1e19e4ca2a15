//! The TLS connection to a broker ([`sigward_proto::remote`]), which follows changes of its
//! certificate files.
//!
//! Invariant: when the files have changed, later calls use a new connection, and calls in flight finish on the old one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rustix::net::sockopt;
use sigward_proto::STREAMS_OVER_TLS;
use sigward_proto::remote::{Marks, TlsBroker};
use tokio::net::TcpStream;

use super::socket::{Connected, Socket};

/// How often the files are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A broker whose machine is gone sends nothing: TCP keepalive probes begin after this idle time.
const IDLE: Duration = Duration::from_secs(30);
const PROBE: Duration = Duration::from_secs(5);
const PROBES: u32 = 4;
/// How long sent data may stay unacknowledged by TCP, in milliseconds.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: u32 = 20_000;

/// Connects to one broker.
#[derive(Debug)]
pub(super) struct Connector(TlsBroker);

impl Connector {
    pub(super) fn new(broker: TlsBroker) -> Arc<Self> {
        Arc::new(Self(broker))
    }

    /// Opens a connection to the expected broker.
    pub(super) async fn connect(self: Arc<Self>) -> io::Result<Connected> {
        let secured = self.0.connect(enable_keepalive).await?;
        let outdated = Arc::clone(&self).outdated(secured.marks().clone()).boxed();
        let socket = Socket::Tls(Box::new(secured));
        Ok(Connected { socket, streams: Some(STREAMS_OVER_TLS), outdated })
    }

    /// Ends when the files have changed and are valid. Invalid files are reported once, and change nothing.
    async fn outdated(self: Arc<Self>, mut marks: Marks) {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let (broker, held) = (self.0.clone(), marks.clone());
            let check = move || broker.changed_since(&held);
            // It fails only at the end of the runtime.
            let Ok(changed) = tokio::task::spawn_blocking(check).await else { return };
            match changed {
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
}

/// Lets the kernel detect that the broker's machine is gone. Where this fails, the time limits of the calls apply.
fn enable_keepalive(stream: &TcpStream) {
    sockopt::set_socket_keepalive(stream, true).ok();
    sockopt::set_tcp_keepidle(stream, IDLE).ok();
    sockopt::set_tcp_keepintvl(stream, PROBE).ok();
    sockopt::set_tcp_keepcnt(stream, PROBES).ok();
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED).ok();
}
