//! Who manages the session of a client's default profile.

/// Who manages the default profile's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// The proxy, for a client without sessions: the proxy renews it.
    Proxy,
    /// The proxy, for an HTTP client whose server answered no handshake and gave it no session.
    Hosted,
    /// The client, which speaks HTTP: it opens, renews and ends the session.
    Client,
    /// Nobody: the server or the protocol version has no sessions. Clients can't be told apart, so
    /// unsolicited messages of the server can't be forwarded.
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
