//! What can go wrong with one message, said to the person at the other end.
//!
//! Each error knows its side and whether sending the message again is safe. None holds a header, a
//! body or a value of a config: what is shown was written here, but for the first line of an
//! upstream's own error message.

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use sigward_proto::v1::Reason;

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
    /// The broker didn't answer in time.
    #[error("{broker} gave no signature within {}; a slow credential_process or sign-in? (--timeout)", Seconds(*after))]
    BrokerSlow {
        /// Which one.
        broker: BrokerAddress,
        /// The limit.
        after: Duration,
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
    /// The stream ended and can't be resumed.
    #[error("the server ended the response stream without an answer")]
    NoAnswer,
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

impl Error {
    /// Whether the message may be sent once more.
    #[must_use]
    pub fn resend(&self) -> Resend {
        match self {
            Self::Connect { .. } => Resend::Safe,
            Self::Interrupted { .. } | Self::NoAnswer | Self::Timeout { .. } => Resend::IfReadOnly,
            Self::Status { status, .. } => match status.as_u16() {
                429 | 500 | 502 | 503 | 504 => Resend::IfReadOnly,
                _ => Resend::Pointless,
            },
            Self::Shared(error) => error.resend(),
            Self::Refused(_)
            | Self::BrokerUnreachable { .. }
            | Self::BrokerSlow { .. }
            | Self::SignatureMismatch
            | Self::SessionLost { .. }
            | Self::SessionExpired
            | Self::NotMessage(_)
            | Self::TooLarge { .. }
            | Self::Handshake { .. } => Resend::Pointless,
        }
    }

    /// The profile that needs a sign-in, if that is what is wrong.
    #[must_use]
    pub fn login_required(&self) -> Option<&ProfileName> {
        match self {
            Self::Refused(refusal) if refusal.reason == Some(Reason::LoginRequired) => {
                Some(&refusal.profile)
            }
            Self::Shared(error) => error.login_required(),
            _ => None,
        }
    }

    /// Whether the broker has no usable credentials: what `--skip-auth` sends unsigned for. A
    /// refusal by policy is not among these.
    #[must_use]
    pub fn lacks_credentials(&self) -> bool {
        match self {
            Self::Refused(refusal) => matches!(
                refusal.reason,
                Some(
                    Reason::LoginRequired
                        | Reason::MfaRequired
                        | Reason::ProfileMisconfigured
                        | Reason::UnsupportedProfileSetting
                        | Reason::CredentialsUnavailable
                )
            ),
            _ => false,
        }
    }
}

/// A broker's no.
#[derive(Debug)]
pub struct Refusal {
    /// The broker's reason; none if this version doesn't know it.
    pub reason: Option<Reason>,
    /// The profile that was asked for.
    pub profile: ProfileName,
    /// Who said it.
    pub broker: BrokerAddress,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let profile = self.profile.as_str();
        let private = self.broker == BrokerAddress::Private;
        let Some(reason) = self.reason else {
            return write!(
                f,
                "{} refused the signature for a reason that this version doesn't know; update \
                 sigward-proxy",
                self.broker
            );
        };
        match reason {
            Reason::PeerNotAllowed => write!(
                f,
                "{} has no [[rule]] for this user; add one with peer = {{ uid = … }} to its config",
                self.broker
            ),
            Reason::ProfileNotAllowed => write!(
                f,
                "profile {profile:?} isn't one that {} lets this user sign with; add it to a \
                 [[rule]], or choose another (`sigward-broker status` lists them)",
                self.broker
            ),
            Reason::EndpointNotAllowed => write!(
                f,
                "{} doesn't allow this endpoint for profile {profile:?}; add it to the \
                 [[endpoint]]s and the rule of its config",
                self.broker
            ),
            Reason::MethodNotAllowed => {
                write!(f, "{} doesn't sign this HTTP method", self.broker)
            }
            Reason::ToolNotAllowed => write!(
                f,
                "the policy of {} doesn't allow this tool with profile {profile:?}",
                self.broker
            ),
            Reason::InvalidMethod
            | Reason::InvalidUri
            | Reason::InvalidHeader
            | Reason::InvalidBodyHash
            | Reason::NonCanonicalQuery => write!(
                f,
                "{} can't sign this request as it stands ({}); check the endpoint URL and --header",
                self.broker,
                reason.name()
            ),
            Reason::ReservedHeader => write!(
                f,
                "a --header is one that the signature sets itself; remove it ({})",
                reason.name()
            ),
            Reason::AmbiguousJson => f.write_str(
                "the message can be read in two ways (a key twice, or a batch), so the broker's \
                 tool rules can't be checked; send it unambiguously",
            ),
            Reason::BodyRequired => write!(
                f,
                "{} has tool rules and needs the message itself; update sigward-proxy",
                self.broker
            ),
            Reason::LoginRequired if private => write!(
                f,
                "profile {profile:?} needs a sign-in: run `aws sso login --profile {profile}` \
                 (`aws login`, if it has a login_session), then repeat the call"
            ),
            Reason::LoginRequired => write!(
                f,
                "profile {profile:?} needs a sign-in: run `sigward-broker login {profile}`, then \
                 repeat the call"
            ),
            Reason::MfaRequired => write!(
                f,
                "profile {profile:?} asks for an MFA code, which nobody can type here; use an IAM \
                 Identity Center profile, or a credential_process that asks for the code"
            ),
            Reason::ProfileMisconfigured => write!(
                f,
                "profile {profile:?} can't be used: it isn't in the AWS config, or it is \
                 incomplete; `aws configure list --profile {profile}` shows what it holds, the \
                 broker's log why it failed"
            ),
            Reason::UnsupportedProfileSetting => write!(
                f,
                "profile {profile:?} has a setting that the broker doesn't support; its log names \
                 it"
            ),
            Reason::AccessDenied => write!(
                f,
                "AWS doesn't let profile {profile:?} assume its role; check the role's trust \
                 policy and the permissions of the identity that assumes it"
            ),
            Reason::ClockSkew => write!(
                f,
                "AWS refused the credentials request of profile {profile:?} because the clock of \
                 the broker's machine is wrong; set the clock, then repeat the call"
            ),
            Reason::KeysRejected => write!(
                f,
                "AWS no longer accepts the keys of profile {profile:?}: they have expired, or were \
                 deleted or disabled; renew them in the AWS files, then repeat the call"
            ),
            Reason::RegionDisabled => write!(
                f,
                "STS isn't activated in the region of profile {profile:?}; enable the region for \
                 the account, or set another region in the profile"
            ),
            Reason::NoAccountAccess => write!(
                f,
                "the sign-in of profile {profile:?} has no access to its account or role; check \
                 sso_account_id and sso_role_name, or sign in as another user"
            ),
            Reason::CredentialsUnavailable => write!(
                f,
                "no credentials for profile {profile:?} right now: AWS (or the \
                 credential_process) didn't give any; the broker's log says why. Repeat the call \
                 in a moment"
            ),
            Reason::LoginNotAllowed => write!(
                f,
                "{} lets nobody sign in from here; run `sigward-broker login {profile}` as its \
                 own user, or add login = true to the [[rule]]",
                self.broker
            ),
            // Asked for only where LOGIN_REQUIRED was said: a sign-in, but not one that we can start.
            Reason::NotALoginProfile if private => write!(
                f,
                "profile {profile:?} needs a sign-in that only the AWS CLI can do: run `aws login \
                 --profile {profile}`, then repeat the call"
            ),
            Reason::NotALoginProfile => write!(
                f,
                "profile {profile:?} needs a sign-in that only the AWS CLI can do: run `aws login` \
                 as the user of {}, then repeat the call",
                self.broker
            ),
            Reason::LoginDenied => {
                write!(
                    f,
                    "the sign-in for profile {profile:?} was declined; repeat the call to try again"
                )
            }
            Reason::LoginExpired => write!(
                f,
                "nobody finished the sign-in for profile {profile:?} in time; repeat the call for \
                 a new code"
            ),
            Reason::AuditUnavailable => write!(
                f,
                "{} can't write its audit log, and signs nothing without it; check the disk and \
                 [audit] file",
                self.broker
            ),
            Reason::RateLimited => write!(
                f,
                "too many calls with profile {profile:?}: the broker's rate limit is reached; \
                 wait a moment"
            ),
            Reason::PeerUnknown => write!(
                f,
                "{} can't tell which user this process runs as, so it signs nothing",
                self.broker
            ),
            Reason::Unspecified => write!(f, "{} refused the signature", self.broker),
        }
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

/// The innermost cause of an error: "connection refused" rather than the layers around it.
#[must_use]
pub fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_reason_is_a_sentence_of_its_own() {
        let reasons: Vec<Reason> = (0..1000).filter_map(|n| Reason::try_from(n).ok()).collect();
        assert!(reasons.len() >= 20);
        let mut seen = HashSet::new();
        for broker in [BrokerAddress::Private, BrokerAddress::Unix("/run/b.sock".into())] {
            for &reason in &reasons {
                let refusal = Refusal {
                    reason: Some(reason),
                    profile: ProfileName::new("dev"),
                    broker: broker.clone(),
                };
                let text = refusal.to_string();
                assert!(text.len() > 20 && !text.ends_with('.'), "{reason:?}: {text}");
                seen.insert(text);
            }
        }
        assert!(seen.len() > reasons.len());
    }

    #[test]
    fn only_what_never_left_is_safe_to_send_again() {
        let host = || "h".to_owned();
        let detail = || "d".to_owned();
        let status = |code| Error::Status {
            host: host(),
            status: StatusCode::from_u16(code).unwrap(),
            detail: None,
        };
        assert_eq!(Error::Connect { host: host(), detail: detail() }.resend(), Resend::Safe);
        let interrupted = Error::Interrupted { host: host(), detail: detail() };
        assert_eq!(interrupted.resend(), Resend::IfReadOnly);
        assert_eq!(status(503).resend(), Resend::IfReadOnly);
        assert_eq!(status(400).resend(), Resend::Pointless);
        assert_eq!(status(307).resend(), Resend::Pointless);
        assert_eq!(Error::SignatureMismatch.resend(), Resend::Pointless);
    }

    #[test]
    fn policy_is_no_lack_of_credentials() {
        let lacks = |reason| {
            let profile = ProfileName::new("dev");
            let broker = BrokerAddress::Private;
            Error::Refused(Refusal { reason: Some(reason), profile, broker }).lacks_credentials()
        };
        assert!(lacks(Reason::LoginRequired) && lacks(Reason::CredentialsUnavailable));
        for reason in [Reason::ProfileNotAllowed, Reason::ToolNotAllowed, Reason::PeerNotAllowed] {
            assert!(!lacks(reason), "{reason:?}");
        }
    }
}
