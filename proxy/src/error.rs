//! The errors of one message, as sentences for the user of the client.
//!
//! Each error has a side (client, broker, upstream) and tells whether repeating the message is safe. No error contains
//! a header, a body or a configuration value. All text is written here, except for the first line of an upstream's own
//! error message.

mod refusal;
mod text;

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use sigward_proto::v1::Reason;
use sigward_proto::version::Outdated;

pub use self::refusal::Refusal;
pub use self::text::{innermost, printable};
use crate::config::{BrokerAddress, ProfileName};

/// A failure of one exchange.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker refused, with a reason.
    #[error("{0}")]
    Refused(Refusal),
    /// The broker can't be reached.
    #[error("{broker} can't be reached: {detail}")]
    BrokerUnreachable {
        /// The broker's address.
        broker: BrokerAddress,
        /// The cause, and what to do.
        detail: String,
    },
    /// The private broker can't be started, or has ended.
    #[error("the private broker {detail}")]
    PrivateBroker {
        /// The broker's own message, and what to do.
        detail: String,
    },
    /// The broker didn't answer in time.
    #[error("{broker} gave no signature within {}; a slow credential_process or sign-in? (--timeout)", Seconds(*after))]
    BrokerSlow {
        /// The broker's address.
        broker: BrokerAddress,
        /// The limit.
        after: Duration,
    },
    /// The broker and the proxy have incompatible versions.
    #[error("{broker} is version {program}, which {misfit}")]
    Outdated {
        /// The broker's address.
        broker: BrokerAddress,
        /// Its version.
        program: String,
        /// Which of the two is too old, and what to do.
        misfit: &'static str,
    },
    /// The broker signed something else than what would be sent.
    #[error(
        "the broker signed another path than the one to be sent; nothing was sent. Is the broker older than the proxy?"
    )]
    SignatureMismatch,
    /// The connection to the endpoint failed; nothing was sent.
    #[error("can't connect to {host}: {detail}")]
    Connect {
        /// Host and port.
        host: String,
        /// The innermost cause.
        detail: String,
    },
    /// The connection broke after something had been sent.
    #[error("the connection to {host} broke before the answer was complete: {detail}")]
    Interrupted {
        /// Host and port.
        host: String,
        /// The innermost cause.
        detail: String,
    },
    /// The endpoint didn't respond within a time limit.
    #[error("{host} {what} within {} ({option})", Seconds(*after))]
    Timeout {
        /// Host and port.
        host: String,
        /// What it didn't do, such as "sent nothing".
        what: &'static str,
        /// The limit.
        after: Duration,
        /// The option for the limit.
        option: &'static str,
    },
    /// The answer has an error status, without a JSON-RPC response.
    #[error("{host} answered {status}{}", Detail(detail))]
    Status {
        /// Host and port.
        host: String,
        /// The status.
        status: StatusCode,
        /// The first line of the upstream's own message, if it gave one.
        detail: Option<String>,
        /// How long the server asks the client to wait (`Retry-After`).
        retry_after: Option<Duration>,
    },
    /// The session was lost, and the session that replaced it, too.
    #[error(
        "the server dropped the MCP session of profile {profile:?} again right after it was renewed"
    )]
    SessionLost {
        /// The profile of the session.
        profile: String,
    },
    /// The session of an HTTP client is lost; the client itself must open another.
    #[error("the server no longer knows the MCP session; initialize again")]
    SessionExpired,
    /// The client of the session has closed, so that nothing is opened or sent any more.
    #[error("the MCP session has ended")]
    SessionEnded,
    /// The server answered another request.
    #[error("the server's answer belongs to another request (its id differs), and was dropped")]
    ForeignAnswer,
    /// The stream ended without a response, and can't be resumed.
    #[error("the server ended the response stream without an answer")]
    NoAnswer,
    /// A success with a content encoding that wasn't requested.
    #[error(
        "{host} sent its answer in the content encoding {encoding}, although the request asks for none; \
         a gateway before the server may add it: switch that off there"
    )]
    Encoded {
        /// Host and port.
        host: String,
        /// The encoding in the answer.
        encoding: String,
    },
    /// A success that isn't a valid message.
    #[error("the server's answer isn't MCP: {0}")]
    NotMessage(&'static str),
    /// The answer exceeds the limit.
    #[error("the server's answer is larger than {} MiB", limit >> 20)]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// Opening a profile's session failed with an error of the server.
    #[error("the server refused to open a session for profile {profile:?}: {detail}")]
    Handshake {
        /// The profile of the session.
        profile: String,
        /// The message of its error.
        detail: String,
    },
    /// An error shared by all callers that waited for the same work.
    #[error("{0}")]
    Shared(std::sync::Arc<Error>),
}

/// Whether a message may be repeated after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resend {
    /// The server didn't receive any of it.
    Safe,
    /// The server may have acted on it.
    IfReadOnly,
    /// It would fail again.
    Pointless,
}

/// The longest part of a broker's version that is shown, in characters.
const MAX_PROGRAM: usize = 80;

impl Error {
    /// The error for incompatible versions; `program` is the version that the broker reported.
    #[must_use]
    pub fn outdated(outdated: Outdated, broker: BrokerAddress, program: &str) -> Self {
        let program = match printable(program, MAX_PROGRAM) {
            text if text.is_empty() => "unnamed".to_owned(),
            text => text,
        };
        let misfit = match outdated {
            Outdated::Broker => {
                concat!(
                    "is too old for this proxy (",
                    env!("SIGWARD_VERSION"),
                    "); update sigward-broker, and restart it"
                )
            }
            Outdated::Proxy => {
                concat!(
                    "doesn't work with a proxy as old as this (",
                    env!("SIGWARD_VERSION"),
                    "); update sigward-proxy"
                )
            }
        };
        Self::Outdated { broker, program, misfit }
    }

    /// Whether the message may be repeated.
    #[must_use]
    pub fn resend(&self) -> Resend {
        match self {
            Self::Connect { .. } => Resend::Safe,
            Self::Interrupted { .. }
            | Self::NoAnswer
            | Self::ForeignAnswer
            | Self::Timeout { .. } => Resend::IfReadOnly,
            Self::Status { status, .. } => match status.as_u16() {
                // 429 is missing here: the sender has already waited for the server's quota (`exchange::Patience`).
                500 | 502 | 503 | 504 => Resend::IfReadOnly,
                _ => Resend::Pointless,
            },
            Self::Shared(error) => error.resend(),
            Self::Refused(_)
            | Self::BrokerUnreachable { .. }
            | Self::PrivateBroker { .. }
            | Self::BrokerSlow { .. }
            | Self::Outdated { .. }
            | Self::SignatureMismatch
            | Self::SessionLost { .. }
            | Self::SessionExpired
            | Self::SessionEnded
            | Self::Encoded { .. }
            | Self::NotMessage(_)
            | Self::TooLarge { .. }
            | Self::Handshake { .. } => Resend::Pointless,
        }
    }

    /// How long the server asks the client to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Shared(error) => error.retry_after(),
            _ => None,
        }
    }

    /// Whether the error has already been logged, once for all callers.
    #[must_use]
    pub fn is_logged(&self) -> bool {
        match self {
            Self::PrivateBroker { .. } => true,
            Self::Shared(error) => error.is_logged(),
            _ => false,
        }
    }

    /// The broker's reason, if it is a refusal.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::Shared(error) => error.reason(),
            _ => None,
        }
    }

    /// The profile that needs a sign-in, if that is the cause.
    #[must_use]
    pub fn login_required(&self) -> Option<&ProfileName> {
        match self {
            Self::Refused(refusal) if refusal.reason() == Some(Reason::LoginRequired) => {
                Some(refusal.profile())
            }
            Self::Shared(error) => error.login_required(),
            _ => None,
        }
    }

    /// Whether this explains why a server refused a signature: an expired sign-in, or a wrong clock of the broker's
    /// machine.
    #[must_use]
    pub fn explains_a_refusal(&self) -> bool {
        matches!(self.reason(), Some(Reason::LoginRequired | Reason::ClockSkew))
    }

    /// Whether the profile currently can't sign, whatever the cause: an expired sign-in, or a misconfigured profile.
    #[must_use]
    pub fn cannot_sign(&self) -> bool {
        matches!(
            self.reason(),
            Some(
                Reason::LoginRequired
                    | Reason::MfaRequired
                    | Reason::ProfileMisconfigured
                    | Reason::UnsupportedProfileSetting
                    | Reason::NoCredentials
                    | Reason::CredentialsUnavailable
                    | Reason::KeysRejected
                    | Reason::ClockSkew
                    | Reason::AccessDenied
                    | Reason::NoAccountAccess
                    | Reason::RegionDisabled
            )
        )
    }

    /// Whether the profile can sign again after a sign-in, with new keys, or once AWS can be reached. A profile that is
    /// misconfigured, or has no credentials, isn't a reason to send anything unsigned.
    #[must_use]
    pub fn is_recoverable(&self) -> bool {
        self.recovers_by_itself()
            || matches!(self.reason(), Some(Reason::LoginRequired | Reason::KeysRejected))
    }

    /// Whether no action is needed: the source of the credentials is temporarily unreachable.
    #[must_use]
    pub fn recovers_by_itself(&self) -> bool {
        self.reason() == Some(Reason::CredentialsUnavailable)
    }

    /// Whether there are no credentials at all, so that `--skip-auth` sends unsigned. Unavailable
    /// credentials don't count, as in mcp-proxy-for-aws: a misspelt profile or an expired sign-in
    /// must not turn a call into an anonymous one.
    #[must_use]
    pub fn has_no_credentials(&self) -> bool {
        self.reason() == Some(Reason::NoCredentials)
    }
}

struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0.as_secs_f64())
    }
}

struct Detail<'a>(&'a Option<String>);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unsent_requests_are_safe_to_repeat() {
        let host = || "h".to_owned();
        let detail = || "d".to_owned();
        let status = |code| Error::Status {
            host: host(),
            status: StatusCode::from_u16(code).unwrap(),
            detail: None,
            retry_after: None,
        };
        assert_eq!(Error::Connect { host: host(), detail: detail() }.resend(), Resend::Safe);
        let interrupted = Error::Interrupted { host: host(), detail: detail() };
        assert_eq!(interrupted.resend(), Resend::IfReadOnly);
        assert_eq!(status(503).resend(), Resend::IfReadOnly);
        assert_eq!(status(400).resend(), Resend::Pointless);
        assert_eq!(status(429).resend(), Resend::Pointless);
        assert_eq!(status(307).resend(), Resend::Pointless);
        assert_eq!(Error::SignatureMismatch.resend(), Resend::Pointless);
    }

    #[test]
    fn unavailable_credentials_are_not_missing_credentials() {
        let lacks = |reason| {
            let profile = ProfileName::parse("dev").unwrap();
            let refusal = Refusal::new(reason, profile, BrokerAddress::Private);
            Error::Refused(refusal).has_no_credentials()
        };
        assert!(lacks(Reason::NoCredentials));
        for reason in [
            Reason::ProfileNotAllowed,
            Reason::ToolNotAllowed,
            Reason::LoginRequired,
            Reason::MfaRequired,
            Reason::ProfileMisconfigured,
            Reason::UnsupportedProfileSetting,
            Reason::CredentialsUnavailable,
        ] {
            assert!(!lacks(reason), "{reason:?}");
        }
    }
}
