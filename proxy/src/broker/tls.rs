//! The way to a broker over TLS ([`sigward_proto::remote`]), which is watched.
//!
//! Invariant: when the files have changed, calls that begin later get another connection, and those in flight end on
//! theirs.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rustix::net::sockopt;
use sigward_proto::STREAMS_OVER_TLS;
use sigward_proto::remote::{Marks, TlsBroker};
use tokio::net::TcpStream;

use super::socket::{Connected, Socket};

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
        let secured = self.0.connect(watch_over).await?;
        let outdated = Arc::clone(&self).outdated(secured.marks().clone()).boxed();
        let socket = Socket::Tls(Box::new(secured));
        Ok(Connected { socket, streams: Some(STREAMS_OVER_TLS), outdated })
    }

    /// Ends when the files have changed and can be used. Those that can't are told of once, and change nothing.
    async fn outdated(self: Arc<Self>, mut marks: Marks) {
        loop {
            tokio::time::sleep(LOOK).await;
            let (broker, held) = (self.0.clone(), marks.clone());
            let look = move || broker.changed_since(&held);
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
}

/// Has the kernel notice that the broker's machine is gone. Where it can't, the calls have deadlines of their own.
fn watch_over(stream: &TcpStream) {
    sockopt::set_socket_keepalive(stream, true).ok();
    sockopt::set_tcp_keepidle(stream, IDLE).ok();
    sockopt::set_tcp_keepintvl(stream, PROBE).ok();
    sockopt::set_tcp_keepcnt(stream, PROBES).ok();
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(stream, UNANSWERED).ok();
}
