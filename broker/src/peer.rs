//! Who is at the other end of a connection: a process, as the kernel reports it, or the holder of a certificate, by the
//! word of an authority.
//!
//! Invariant: what names one kind of peer never matches the other. A connection whose other end isn't known has no peer,
//! and no peer is denied.

mod unix;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use sigward_proto::certificate::Name;
use sigward_proto::spiffe::SpiffePattern;

pub use self::unix::{UnixPattern, UnixPeer, is_unmapped_gid, is_unmapped_uid};
use crate::error::Denial;

/// Who opened a connection.
#[derive(Debug, Clone)]
pub enum Peer {
    /// A process of this machine, as it was then.
    Unix(UnixPeer),
    /// The holder of a certificate.
    Tls(TlsPeer),
}

/// The holder of a certificate that an authority of the configuration vouches for.
#[derive(Debug, Clone)]
pub struct TlsPeer {
    /// Who that is.
    pub name: Name,
    /// Whether it still is.
    pub standing: Arc<dyn Standing>,
}

/// Whether a certificate that was good when the connection began is good now.
pub trait Standing: fmt::Debug + Send + Sync {
    /// # Errors
    /// PEER_UNKNOWN: it has expired, or nobody vouches for it any more.
    fn check(&self, now: SystemTime) -> Result<(), Denial>;
}

/// A peer whose limits are its own, whatever number of connections it has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerId {
    /// A user of this machine.
    Uid(u32),
    /// The holder of a certificate.
    Name(Name),
}

/// Who is at the other end of a connection, as its calls see it; nobody, where that isn't known.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The peer.
    pub peer: Option<Arc<Peer>>,
    /// Over which connection.
    pub connection: ConnectionId,
}

/// One connection of this process's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub(crate) u64);

impl ConnectionId {
    /// One that no other connection has.
    #[must_use]
    pub fn next() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        Self(COUNT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a rule says about peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerPattern {
    /// Processes of this machine.
    Unix(UnixPattern),
    /// Workloads of a trust domain.
    SpiffeId(SpiffePattern),
    /// Whoever has this DNS name, in lower case, and no SPIFFE id.
    Dns(String),
}

impl Peer {
    /// Whose limits count for it.
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

    /// Whether it is the user that the broker runs as, or root: what either is told of the broker, it could find out.
    pub(crate) fn is_operator(&self) -> bool {
        match self {
            Self::Unix(peer) => peer.is_own_user() || peer.uid == 0,
            Self::Tls(_) => false,
        }
    }

    /// Whether it still is who it was when it connected.
    ///
    /// The attack: a certificate is short-lived so that a stolen key is soon worth nothing; a connection that was opened
    /// before would be worth something for ever.
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
    /// Whether the peer is one of those meant.
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

    /// Whether one peer may be meant by both. That one process has two groups, or one certificate two names, is left out.
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

    /// A certificate that never stops being good.
    #[derive(Debug)]
    struct Good;

    impl Standing for Good {
        fn check(&self, _: SystemTime) -> Result<(), Denial> {
            Ok(())
        }
    }

    /// A process of this user.
    pub(crate) fn process(uid: u32) -> Peer {
        Peer::Unix(UnixPeer { uid, gid: 100, groups: Vec::new(), pid: Some(7), exe: None })
    }

    /// The holder of a certificate.
    pub(crate) fn workload(id: &str) -> Peer {
        tls(Name::SpiffeId(SpiffeId::parse(id).expect("an id")))
    }

    /// The same, by a DNS name.
    pub(crate) fn machine(name: &str) -> Peer {
        tls(Name::Dns([name.to_owned()].into()))
    }

    fn tls(name: Name) -> Peer {
        Peer::Tls(TlsPeer { name, standing: Arc::new(Good) })
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
