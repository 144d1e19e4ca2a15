//! The calls in progress: who may make one, and the list of callers for operators.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sigward_proto::v1;

use super::counts::{Count, Place};
use crate::clock;
use crate::error::{Denial, Reason};
use crate::peer::{Peer, PeerId};
use crate::service::{Callers, Current};

/// The advised wait until a place may be free.
const ROOM: Duration = Duration::from_secs(1);
/// The most callers in an operator's list, and the longest name in characters: a certificate may
/// have many names. Together they are smaller than the largest gRPC message.
const NAMED: usize = 200;
const LONGEST_NAME: usize = 300;

/// The calls in progress, by peer.
pub(crate) struct Calls {
    current: Arc<Current>,
    calls: Arc<Count>,
    /// Over Unix sockets, and over TLS.
    connections: [Arc<Count>; 2],
}

impl Calls {
    pub(super) fn new(
        current: Arc<Current>,
        calls: Arc<Count>,
        connections: [Arc<Count>; 2],
    ) -> Arc<Self> {
        Arc::new(Self { current, calls, connections })
    }

    pub(super) fn current(&self) -> &Arc<Current> {
        &self.current
    }

    /// Whether a peer may make a call: health checks are open to all, overviews to operators, and
    /// everything else to peers that a rule matches.
    pub(super) fn identify(&self, peer: Option<&Peer>, needs_rule: bool) -> Result<(), Denial> {
        if needs_rule {
            let unknown = "the connection has no peer credentials";
            let peer = peer.ok_or_else(|| Denial::new(Reason::PeerUnknown, unknown))?;
            peer.check(clock::now())?;
            self.current.state().policy.admit(peer)?;
            if self.current.is_draining() {
                return Err(Current::ending());
            }
        }
        Ok(())
    }

    /// Takes a place for a call, if there is one.
    pub(super) fn enter(&self, peer: Option<&Peer>) -> Result<Place, Denial> {
        self.calls.enter(peer.map(Peer::id)).ok_or_else(|| {
            self.current.metrics().refused("call");
            Denial::new(Reason::TooMuchInFlight, "too many calls in progress").retry_after(ROOM)
        })
    }

    /// Waits until the calls in progress have ended.
    pub(super) async fn idle(&self) {
        self.calls.empty().await;
    }

    /// The callers with connections or calls in progress, the busiest first, without strangers.
    pub(super) fn callers(&self) -> Callers {
        let mut callers: HashMap<PeerId, [usize; 2]> = HashMap::new();
        let [over_unix, over_tls] = &self.connections;
        for (count, which) in [(over_unix, 0), (over_tls, 0), (&self.calls, 1)] {
            for (peer, of_peer) in count.each() {
                callers.entry(peer).or_default()[which] += of_peer;
            }
        }
        let has_connections = |(_, [connections, _]): &(PeerId, [usize; 2])| *connections > 0;
        let mut callers: Vec<_> = callers.into_iter().filter(has_connections).collect();
        callers.sort_by(|(peer, [connections, calls]), (other, [of_other, calls_of_other])| {
            (calls_of_other, of_other).cmp(&(calls, connections)).then_with(|| peer.cmp(other))
        });
        let others = callers.len().saturating_sub(NAMED);
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let named =
            callers.into_iter().take(NAMED).map(|(peer, [connections, calls])| v1::Caller {
                name: short(&peer.to_string()),
                connections: number(connections),
                calls: number(calls),
            });
        Callers { named: named.collect(), others: number(others) }
    }
}

fn short(name: &str) -> String {
    match name.char_indices().nth(LONGEST_NAME) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}
