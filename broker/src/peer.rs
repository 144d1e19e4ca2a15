//! The identity of a connection's other end: a process, as the kernel reports it, or the holder of
//! a certificate, as an authority has signed it.
//!
//! Invariant: a pattern for one kind of peer never matches the other kind. A connection whose other
//! end isn't known has no peer, and is denied.

mod unix;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use sigward_proto::certificate::Name;
use sigward_proto::spiffe::SpiffePattern;

pub use self::unix::{UnixPattern, UnixPeer, is_unmapped_gid, is_unmapped_uid};
use crate::error::Denial;

/// The peer that opened a connection.
#[derive(Debug, Clone)]
pub enum Peer {
    /// A process of this machine, as it was when it connected.
    Unix(UnixPeer),
    /// The holder of a certificate.
    Tls(TlsPeer),
}

/// The holder of a certificate that a configured authority has signed.
#[derive(Debug, Clone)]
pub struct TlsPeer {
    /// The name in the certificate.
    pub name: Name,
    /// Tells whether the certificate is still valid.
    pub standing: Arc<dyn Standing>,
}

/// Tells whether a certificate that was valid when the connection was opened is still valid.
pub trait Standing: fmt::Debug + Send + Sync {
    /// Checks the certificate.
    ///
    /// # Errors
    /// PEER_UNKNOWN: it has expired, or is no longer trusted.
    fn check(&self, now: SystemTime) -> Result<(), Denial>;
}

/// The identity that limits are counted for, over all its connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerId {
    /// A user of this machine.
    Uid(u32),
    /// The holder of a certificate.
    Name(Name),
}

/// The caller of an RPC; without a peer if the other end isn't known.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The peer.
    pub peer: Option<Arc<Peer>>,
    /// The connection of the call.
    pub connection: ConnectionId,
}

/// The id of a connection, unique in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub(crate) u64);

impl ConnectionId {
    /// A new id.
    #[must_use]
    pub fn next() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        Self(COUNT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The peer of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerPattern {
    /// Processes of this machine.
    Unix(UnixPattern),
    /// Workloads of a trust domain.
    SpiffeId(SpiffePattern),
    /// Holders of certificates with this DNS name, in lower case, and without a SPIFFE id.
    Dns(String),
}

impl Peer {
    /// The identity that limits are counted for.
    #[must_use]
    pub fn id(&self) -> PeerId {
        match self {
            Self::Unix(peer) => PeerId::Uid(peer.uid),
            Self::Tls(peer) => PeerId::Name(peer.name.clone()),
        }
    }

    /// Whether it is the user that the broker runs as, who could read the broker's AWS files itself.
    pub(crate) fn is_own_user(&self) -> bool {
        match self {
            Self::Unix(peer) => peer.is_own_user(),
            Self::Tls(_) => false,
        }
    }

    /// Whether it is the user that the broker runs as, or root: both can find out anything about
    /// the broker.
    pub(crate) fn is_operator(&self) -> bool {
        match self {
            Self::Unix(peer) => peer.is_own_user() || peer.uid == 0,
            Self::Tls(_) => false,
        }
    }

    /// Checks whether the identity from the start of the connection is still valid.
    ///
    /// The attack: certificates are short-lived so that a stolen key soon becomes useless; on a
    /// connection that was opened before, it would stay useful for ever.
    ///
    /// # Errors
    /// PEER_UNKNOWN.
    pub fn check(&self, now: SystemTime) -> Result<(), Denial> {
        match self {
            Self::Unix(_) => Ok(()),
            Self::Tls(peer) => peer.standing.check(now),
        }
    }
}

impl PeerPattern {
    /// Whether the pattern matches the peer.
    #[must_use]
    pub fn matches(&self, peer: &Peer) -> bool {
        match (self, peer) {
            (Self::Unix(pattern), Peer::Unix(peer)) => pattern.matches(peer),
            (Self::SpiffeId(pattern), Peer::Tls(TlsPeer { name: Name::SpiffeId(id), .. })) => {
                pattern.matches(id)
            }
            (Self::Dns(name), Peer::Tls(TlsPeer { name: Name::Dns(names), .. })) => {
                names.contains(name)
            }
            (Self::Unix(_) | Self::SpiffeId(_) | Self::Dns(_), _) => false,
        }
    }

    /// Whether one peer may match both patterns, except a process with two groups, or a certificate
    /// with two names.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix(pattern), Self::Unix(other)) => pattern.overlaps(other),
            (Self::SpiffeId(pattern), Self::SpiffeId(other)) => pattern.overlaps(other),
            (Self::Dns(name), Self::Dns(other)) => name == other,
            (Self::Unix(_) | Self::SpiffeId(_) | Self::Dns(_), _) => false,
        }
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "uid:{uid}"),
            Self::Name(name) => name.fmt(f),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use sigward_proto::spiffe::SpiffeId;

    use super::*;

    /// A certificate that is always valid.
    #[derive(Debug)]
    struct AlwaysValid;

    impl Standing for AlwaysValid {
        fn check(&self, _: SystemTime) -> Result<(), Denial> {
            Ok(())
        }
    }

    /// A process of this user.
    pub(crate) fn process(uid: u32) -> Peer {
        Peer::Unix(UnixPeer { uid, gid: 100, groups: Vec::new(), pid: Some(7), exe: None })
    }

    /// The holder of a certificate with this SPIFFE id.
    pub(crate) fn workload(id: &str) -> Peer {
        tls(Name::SpiffeId(SpiffeId::parse(id).expect("an id")))
    }

    /// The holder of a certificate with this DNS name.
    pub(crate) fn machine(name: &str) -> Peer {
        tls(Name::Dns([name.to_owned()].into()))
    }

    fn tls(name: Name) -> Peer {
        Peer::Tls(TlsPeer { name, standing: Arc::new(AlwaysValid) })
    }

    #[test]
    fn a_pattern_matches_its_own_kind_of_peer() {
        let agent = workload("spiffe://example.org/agent");
        let machine = machine("agent.example.org");
        let process = process(1000);
        let unix = PeerPattern::Unix(UnixPattern { uid: Some(1000), ..UnixPattern::default() });
        let id = SpiffePattern::parse("spiffe://example.org/*").expect("a pattern");
        let id = PeerPattern::SpiffeId(id);
        let dns = |name: &str| PeerPattern::Dns(name.to_owned());
        let matched =
            |pattern: &PeerPattern| [&process, &agent, &machine].map(|peer| pattern.matches(peer));
        assert_eq!(matched(&unix), [true, false, false]);
        assert_eq!(matched(&id), [false, true, false]);
        assert_eq!(matched(&dns("agent.example.org")), [false, false, true]);
        for name in ["example.org", "other.example.org", "spiffe://example.org/agent"] {
            assert_eq!(matched(&dns(name)), [false; 3]);
        }
        assert_eq!(matched(&PeerPattern::Unix(UnixPattern::default())), [false; 3]);
        let ids = [&process, &agent, &machine].map(|peer| peer.id().to_string());
        assert_eq!(ids, ["uid:1000", "spiffe://example.org/agent", "dns:agent.example.org"]);
        assert!(!agent.is_own_user() && !machine.is_own_user());
    }
}
