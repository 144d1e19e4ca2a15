//! The gRPC contract between `sigward-proxy` and `sigward-broker`, and code that both sides share: the generated types
//! of `sigward.broker.v1`; the reader of a message's request ([`call`]) and of an object's members ([`members`]); the
//! list of headers that a caller may not set ([`headers`]); the scope of signatures by an AWS host name ([`host`]); the
//! names in certificates ([`certificate`], [`spiffe`]) and PEM files ([`pem`]); the default sockets of a broker
//! ([`sockets`]), I/O on them ([`local`], [`room`]), and the TLS connection to a broker ([`remote`]); the compatibility
//! of versions ([`version`]); and the export of traces ([`traces`]).
//!
//! This crate is the leaf of the workspace: it depends on neither side.

pub mod call;
pub mod certificate;
pub mod headers;
pub mod host;
pub mod local;
pub mod members;
pub mod pem;
pub mod remote;
pub mod room;
pub mod sockets;
pub mod spiffe;
pub mod traces;
pub mod version;

mod json;

use self::v1::Reason;

/// The generated messages, client and server of the package `sigward.broker.v1`.
#[allow(
    missing_docs,
    reason = "generated; the comments of the proto are carried over where there are any"
)]
#[allow(unreachable_pub, clippy::unwrap_used, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("sigward.broker.v1");
}

/// The domain of every `google.rpc.ErrorInfo` that the broker sends.
pub const ERROR_DOMAIN: &str = "sigward";

/// The largest message of the broker's gRPC service, in bytes: a request body and its envelope.
pub const MAX_MESSAGE_BYTES: usize = 72 << 20;

/// The gRPC header of a `Sign` call whose caller reports the end of the exchange if [`v1::Pacing`] asks for it.
pub const REPORTS_ENDS: &str = "sigward-reports-ends";

/// The most concurrent calls on one TLS connection. A client doesn't send more even before it has read the settings.
pub const STREAMS_OVER_TLS: u32 = 32;

impl Reason {
    /// The reason's name in an `ErrorInfo`: `PROFILE_NOT_ALLOWED`, without the enum's prefix.
    #[must_use]
    pub fn name(self) -> &'static str {
        let name = self.as_str_name();
        name.strip_prefix("REASON_").unwrap_or(name)
    }

    /// The reason with this name in an `ErrorInfo`, if this version knows it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::from_str_name(&format!("REASON_{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::v1::Reason;

    #[test]
    fn names_round_trip() {
        for reason in [Reason::PeerNotAllowed, Reason::AmbiguousJson, Reason::PeerUnknown] {
            assert_eq!(Reason::from_name(reason.name()), Some(reason));
        }
        assert_eq!(Reason::ProfileNotAllowed.name(), "PROFILE_NOT_ALLOWED");
        assert_eq!(Reason::from_name("NO_SUCH"), None);
    }
}
