//! Who looks after the session of a client's default profile.

/// Who looks after the default profile's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// The proxy, for a client that knows nothing of sessions: the proxy renews it.
    Proxy,
    /// The same, for a client that speaks HTTP: its server answered no handshake, and gave it no session.
    Hosted,
    /// The client, which speaks HTTP itself: it opens, renews and ends the session.
    Client,
    /// Nobody: neither the server nor this protocol version has sessions. All clients are one, so
    /// nothing that the server sends on its own account can be passed on.
    Nobody,
}

impl Ownership {
    /// Whether the proxy opens and renews the default profile's session.
    #[must_use]
    pub fn is_proxy(self) -> bool {
        match self {
            Self::Proxy | Self::Hosted => true,
            Self::Client | Self::Nobody => false,
        }
    }
}
