//! The errors of one message, as sentences for the user of the client.
//!
//! Each error knows its side and whether sending the message again is safe. None holds a header, a
//! body or a value of a config: all text is written here, except the first line of an upstream's own
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
    /// The broker said no, and why.
    #[error("{0}")]
    Refused(Refusal),
    /// The broker can't be asked.
    #[error("{broker} can't be reached: {detail}")]
    BrokerUnreachable {
        /// Which one.
        broker: BrokerAddress,
        /// Why, and what to do.
        detail: String,
    },
    /// The private broker can't be started, or has ended.
    #[error("the private broker {detail}")]
    PrivateBroker {
        /// What became of it, in its own words, and what to do.
        detail: String,
    },
    /// The broker didn't answer in time.
    #[error("{broker} gave no signature within {}; a slow credential_process or sign-in? (--timeout)", Seconds(*after))]
    BrokerSlow {
        /// Which one.
        broker: BrokerAddress,
        /// The limit.
        after: Duration,
    },
    /// The two programs don't understand each other.
    #[error("{broker} is version {program}, which {misfit}")]
    Outdated {
        /// Which one.
        broker: BrokerAddress,
        /// Its version.
        program: String,
        /// Which of the two is too old, and what to do.
        misfit: &'static str,
    },
    /// What the broker signed isn't what would be sent.
    #[error(
        "the broker signed another path than the one to be sent; nothing was sent. Is the broker older than the proxy?"
    )]
    SignatureMismatch,
    /// No connection to the endpoint: nothing was sent.
    #[error("can't connect to {host}: {detail}")]
    Connect {
        /// Host and port.
        host: String,
        /// The innermost cause.
        detail: String,
    },
    /// The connection broke after something was sent.
    #[error("the connection to {host} broke before the answer was complete: {detail}")]
    Interrupted {
        /// Host and port.
        host: String,
        /// The innermost cause.
        detail: String,
    },
    /// The endpoint went quiet.
    #[error("{host} {what} within {} ({option})", Seconds(*after))]
    Timeout {
        /// Host and port.
        host: String,
        /// "sent nothing", …
        what: &'static str,
        /// The limit.
        after: Duration,
        /// The option that sets it.
        option: &'static str,
    },
    /// A status that isn't success, without a JSON-RPC answer.
    #[error("{host} answered {status}{}", Detail(detail))]
    Status {
        /// Host and port.
        host: String,
        /// The status.
        status: StatusCode,
        /// The first line of the upstream's own message, if it gave one.
        detail: Option<String>,
        /// How long it wants to be left alone (`Retry-After`).
        retry_after: Option<Duration>,
    },
    /// The session is gone, and so was the one made in its place.
    #[error(
        "the server dropped the MCP session of profile {profile:?} again right after it was renewed"
    )]
    SessionLost {
        /// Whose session.
        profile: String,
    },
    /// The session of a client that opens its sessions itself is gone.
    #[error("the server no longer knows the MCP session; initialize again")]
    SessionExpired,
    /// The client of a session has ended: nothing is opened or sent for it any more.
    #[error("the MCP session has ended")]
    SessionEnded,
    /// The server answered, but another request than the one that it was sent.
    #[error("the server's answer belongs to another request (its id differs), and was dropped")]
    ForeignAnswer,
    /// The stream ended and can't be resumed.
    #[error("the server ended the response stream without an answer")]
    NoAnswer,
    /// Success, in an encoding that nobody asked for.
    #[error(
        "{host} sent its answer in the content encoding {encoding}, although the request asks for none; \
         a gateway before the server may add it: switch that off there"
    )]
    Encoded {
        /// Host and port.
        host: String,
        /// What the answer says.
        encoding: String,
    },
    /// Success, but not a message.
    #[error("the server's answer isn't MCP: {0}")]
    NotMessage(&'static str),
    /// An answer beyond the limit.
    #[error("the server's answer is larger than {} MiB", limit >> 20)]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// Opening a profile's session failed with the upstream's own error.
    #[error("the server refused to open a session for profile {profile:?}: {detail}")]
    Handshake {
        /// Whose session.
        profile: String,
        /// The message of its error.
        detail: String,
    },
    /// An error shared by all who waited for one thing.
    #[error("{0}")]
    Shared(std::sync::Arc<Error>),
}

/// Whether a message may be sent once more after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resend {
    /// Nothing of it reached the server.
    Safe,
    /// The server may have acted on it.
    IfReadOnly,
    /// It would fail the same way.
    Pointless,
}

/// How much of a broker's version is shown, in characters.
const MAX_PROGRAM: usize = 80;

impl Error {
    /// The broker and this proxy don't understand each other; `program` is the version that the broker gave itself.
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

    /// Whether the message may be sent once more.
    #[must_use]
    pub fn resend(&self) -> Resend {
        match self {
            Self::Connect { .. } => Resend::Safe,
            Self::Interrupted { .. }
            | Self::NoAnswer
            | Self::ForeignAnswer
            | Self::Timeout { .. } => Resend::IfReadOnly,
            Self::Status { status, .. } => match status.as_u16() {
                // 429 isn't here: whoever sends waits for the server's quota (`exchange::Patience`), and gave up.
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

    /// How long the server wants to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Shared(error) => error.retry_after(),
            _ => None,
        }
    }

    /// Whether standard error has it already, once for all who asked.
    #[must_use]
    pub fn is_logged(&self) -> bool {
        match self {
            Self::PrivateBroker { .. } => true,
            Self::Shared(error) => error.is_logged(),
            _ => false,
        }
    }

    /// The broker's reason, of a refusal.
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

    /// Whether this is why a server has refused a signature: a sign-in that is over, or the clock of the broker's machine.
    #[must_use]
    pub fn explains_a_refusal(&self) -> bool {
        matches!(self.reason(), Some(Reason::LoginRequired | Reason::ClockSkew))
    }

    /// Whether a profile can't sign as things are, whatever the cause: a sign-in that ended, a profile that is wrong.
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

    /// Whether that is over once a person signs in, or brings new keys, or AWS can be reached. A profile that is wrong, or
    /// has none, isn't a reason to send anything unsigned.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        self.passes_by_itself()
            || matches!(self.reason(), Some(Reason::LoginRequired | Reason::KeysRejected))
    }

    /// Whether nobody has to do anything about it: what the credentials come from can't be reached.
    #[must_use]
    pub fn passes_by_itself(&self) -> bool {
        self.reason() == Some(Reason::CredentialsUnavailable)
    }

    /// Whether there are no credentials at all: what `--skip-auth` sends unsigned for. Credentials
    /// that can't be had are something else, as for mcp-proxy-for-aws: a misspelt profile, or a
    /// sign-in that ended, must not turn a call into an anonymous one.
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
    fn only_what_never_left_is_safe_to_send_again() {
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
    fn only_no_credentials_at_all_is_no_credentials() {
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
