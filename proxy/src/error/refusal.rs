//! A broker's refusal, as a sentence for the user of the client: the reason, and the next step.
//!
//! A broker reports AWS's message, the file, the line and the setting only to callers with its own user id. Without
//! them, the sentence doesn't guess. Text of the broker is shown on one line and with a limited length: the broker is
//! trusted for signatures, not for text.

use std::fmt;

use sigward_proto::ERROR_DOMAIN;
use sigward_proto::v1::Reason;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::text::printable;
use crate::config::{BrokerAddress, ProfileName, shell_word};

/// The keys of an `ErrorInfo`'s metadata.
const AWS_CODE: &str = "aws_code";
const AWS_ACTION: &str = "aws_action";
const AWS_MESSAGE: &str = "aws_message";
const DETAIL: &str = "detail";

/// The longest part of an AWS code that is shown, in characters.
const MAX_CODE: usize = 80;

/// The longest part of a message or a detail that is shown, in characters.
const MAX_TEXT: usize = 600;

/// A refusal by the broker.
#[derive(Debug)]
// The texts are boxed, because the error is moved with every result.
pub struct Refusal {
    reason: Option<Reason>,
    /// The gRPC code, for reasons that this version doesn't know.
    code: Code,
    profile: ProfileName,
    broker: BrokerAddress,
    /// AWS's error code.
    aws_code: Option<Box<str>>,
    /// The action that the role's trust policy must allow.
    aws_action: Option<Box<str>>,
    /// AWS's message.
    aws_message: Option<Box<str>>,
    /// The broker's own message.
    detail: Option<Box<str>>,
}

impl Refusal {
    /// A refusal that the proxy makes itself.
    #[must_use]
    pub fn new(reason: Reason, profile: ProfileName, broker: BrokerAddress) -> Self {
        let (reason, code) = (Some(reason), Code::Unknown);
        let (aws_code, aws_action, aws_message, detail) = Default::default();
        Self { reason, code, profile, broker, aws_code, aws_action, aws_message, detail }
    }

    /// The refusal in a status of the broker.
    #[must_use]
    pub fn of(status: &Status, profile: ProfileName, broker: BrokerAddress) -> Self {
        let info = status.get_details_error_info().filter(|info| info.domain == ERROR_DOMAIN);
        let text = |key, limit| {
            let value = info.as_ref()?.metadata.get(key)?;
            Some(printable(value, limit).into_boxed_str()).filter(|text| !text.is_empty())
        };
        Self {
            reason: info.as_ref().and_then(|info| Reason::from_name(&info.reason)),
            code: status.code(),
            profile,
            broker,
            aws_code: text(AWS_CODE, MAX_CODE),
            aws_action: text(AWS_ACTION, MAX_CODE),
            aws_message: text(AWS_MESSAGE, MAX_TEXT),
            detail: text(DETAIL, MAX_TEXT),
        }
    }

    /// The broker's reason; `None` if this version doesn't know it.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// The requested profile.
    #[must_use]
    pub fn profile(&self) -> &ProfileName {
        &self.profile
    }

    fn is_private(&self) -> bool {
        self.broker == BrokerAddress::Private
    }

    /// The known cause, as the end of a clause: `: …`, or nothing.
    fn cause(&self) -> String {
        let detail = self.detail.as_deref().map(without_full_stop);
        // The broker's message may already contain AWS's message.
        let is_new = |text: &&str| !detail.is_some_and(|detail| detail.contains(*text));
        let code = self.aws_code.as_deref().filter(is_new);
        let message = self.aws_message.as_deref().map(without_full_stop).filter(is_new);
        let aws = match (code, message) {
            (Some(code), Some(message)) => format!(" (AWS: {code}: {message})"),
            (Some(text), None) | (None, Some(text)) => format!(" (AWS: {text})"),
            (None, None) => String::new(),
        };
        match detail {
            Some(detail) => format!(": {detail}{aws}"),
            None => aws,
        }
    }

    /// Where to find the cause if it isn't reported to this user.
    fn log_hint(&self) -> String {
        match (self.is_private(), self.detail.is_some()) {
            (_, true) => String::new(),
            (true, false) => "; with --log-level INFO, standard error says why".to_owned(),
            (false, false) => format!("; the log of {} says why", self.broker),
        }
    }

    /// The command that signs in through a running broker.
    fn login_command(&self) -> String {
        let broker = match &self.broker {
            // The command finds the default sockets itself.
            BrokerAddress::Unix(path) if !path.ends_with("sigward/broker.sock") => {
                format!("--broker {} ", shell_word(&format!("unix:{}", path.display())))
            }
            BrokerAddress::Tls(address) => format!("--broker {} ", shell_word(address)),
            BrokerAddress::Unix(_) | BrokerAddress::Private => String::new(),
        };
        let command = format!("`sigward-broker login {broker}{}`", self.profile.as_operand());
        match self.broker {
            BrokerAddress::Tls(_) => {
                format!(
                    "{command} with the --broker-cert, --broker-key and --broker-ca of this proxy"
                )
            }
            BrokerAddress::Unix(_) | BrokerAddress::Private => command,
        }
    }
}

/// A sentence without its full stop, for use within another one.
fn without_full_stop(text: &str) -> &str {
    text.trim_end_matches('.')
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { profile, broker, .. } = self;
        let option = profile.as_option("--profile");
        let (cause, log_hint) = (self.cause(), self.log_hint());
        let private = self.is_private();
        let Some(reason) = self.reason else {
            return match self.code {
                Code::Unimplemented => write!(
                    f,
                    "{broker} has another version than this proxy, and doesn't support what it asks \
                     for; update sigward-broker"
                ),
                Code::PermissionDenied | Code::FailedPrecondition | Code::InvalidArgument => {
                    write!(
                        f,
                        "{broker} refused the signature for a reason that this version doesn't know; \
                     update sigward-proxy"
                    )
                }
                code => write!(f, "{broker} failed ({code:?}); its log says why"),
            };
        };
        match reason {
            Reason::PeerNotAllowed if matches!(broker, BrokerAddress::Tls(_)) => write!(
                f,
                "{broker} has no [[rule]] for the certificate in --broker-cert; add one with peer = \
                 {{ spiffe_id = \"…\" }} or {{ dns = \"…\" }} to its config"
            ),
            Reason::PeerNotAllowed => write!(
                f,
                "{broker} has no [[rule]] for this user; add one with peer = {{ uid = … }} to its \
                 config"
            ),
            Reason::ProfileNotAllowed if private => write!(
                f,
                "the private broker wasn't started with the profile \"{profile}\"; restart the MCP \
                 server in your client"
            ),
            Reason::ProfileNotAllowed => write!(
                f,
                "profile \"{profile}\" isn't one that {broker} lets this user sign with; add it to \
                 a [[rule]], or choose another (`sigward-broker status` lists them)"
            ),
            Reason::EndpointNotAllowed if private => write!(
                f,
                "the private broker wasn't started for this endpoint; restart the MCP server in \
                 your client"
            ),
            Reason::EndpointNotAllowed => write!(
                f,
                "{broker} doesn't allow this endpoint for profile \"{profile}\"; add it to the \
                 [[endpoint]]s and the rule of its config"
            ),
            Reason::MethodNotAllowed => write!(
                f,
                "the policy of {broker} doesn't allow this method with profile \"{profile}\""
            ),
            Reason::ToolNotAllowed => write!(
                f,
                "the policy of {broker} doesn't allow this tool with profile \"{profile}\""
            ),
            Reason::InvalidMethod
            | Reason::InvalidUri
            | Reason::InvalidHeader
            | Reason::InvalidBodyHash
            | Reason::InvalidMessage
            | Reason::NonCanonicalQuery => write!(
                f,
                "{broker} can't sign this request as it stands ({}){cause}; check the endpoint URL \
                 and --header",
                reason.name()
            ),
            Reason::ReservedHeader => write!(
                f,
                "a --header is one that the signature sets itself ({}){cause}; remove it",
                reason.name()
            ),
            Reason::AmbiguousJson => f.write_str(
                "the message can be read in two ways (a duplicate key, or a batch), so the broker's \
                 tool rules can't be checked; send it unambiguously",
            ),
            Reason::BodyRequired => write!(
                f,
                "{broker} has tool rules and needs the message itself; update sigward-proxy"
            ),
            Reason::LoginRequired if private => write!(
                f,
                "profile \"{profile}\" needs a sign-in{cause}; run `aws sso login {option}` \
                 (`aws login {option}`, if it has a login_session), then repeat the call"
            ),
            Reason::LoginRequired => write!(
                f,
                "profile \"{profile}\" needs a sign-in{cause}; run {}, then repeat the call",
                self.login_command()
            ),
            Reason::MfaRequired => write!(
                f,
                "profile \"{profile}\" requires an MFA code, which can't be entered here{cause}; use \
                 an IAM Identity Center profile, or a credential_process that asks for the code"
            ),
            Reason::ProfileMisconfigured if self.detail.is_some() => write!(
                f,
                "profile \"{profile}\" can't be used{cause}; correct that, then repeat the call"
            ),
            Reason::ProfileMisconfigured if private => write!(
                f,
                "profile \"{profile}\" can't be used with the AWS files as they are{cause}; `aws configure \
                 list {option}` shows what they hold{log_hint}"
            ),
            Reason::ProfileMisconfigured => write!(
                f,
                "profile \"{profile}\" can't be used with the AWS files of {broker} as they are{cause}; \
                 `sigward-broker check`, run as its user, names file, line and setting"
            ),
            Reason::NoCredentials => write!(
                f,
                "profile \"{profile}\" has no credentials{cause}; give it some (`aws configure sso \
                 {option}`, or `aws configure {option}` for keys), or choose another profile"
            ),
            Reason::UnsupportedProfileSetting if self.detail.is_some() => write!(
                f,
                "profile \"{profile}\" can't be used{cause}; change or remove that setting, then \
                 repeat the call"
            ),
            Reason::UnsupportedProfileSetting => write!(
                f,
                "profile \"{profile}\" has a setting that the broker doesn't support{cause}\
                 {log_hint}"
            ),
            Reason::AccessDenied if self.aws_action.is_some() => write!(
                f,
                "AWS denied profile \"{profile}\" its role{cause}; let the role's trust \
                 policy allow {} beside sts:AssumeRole, then repeat the call",
                self.aws_action.as_deref().unwrap_or_default()
            ),
            Reason::AccessDenied => write!(
                f,
                "AWS denied profile \"{profile}\" its role{cause}; check the role's trust \
                 policy and the permissions of the identity that assumes it"
            ),
            Reason::ClockSkew => write!(
                f,
                "AWS refused the credentials request of profile \"{profile}\" because the clock of \
                 the broker's machine is wrong{cause}; set the clock, then repeat the call"
            ),
            Reason::KeysRejected => write!(
                f,
                "AWS no longer accepts the keys of profile \"{profile}\": they have expired, or \
                 were deleted or disabled{cause}; renew them in the AWS files, then repeat the call"
            ),
            Reason::RegionDisabled => write!(
                f,
                "STS isn't activated in the region of profile \"{profile}\"{cause}; enable the \
                 region for the account, or set another region in the profile"
            ),
            Reason::NoAccountAccess => write!(
                f,
                "the sign-in of profile \"{profile}\" has no access to its account or \
                 role{cause}; check sso_account_id and sso_role_name, or sign in as another user"
            ),
            Reason::CredentialsUnavailable => write!(
                f,
                "there are no credentials for profile \"{profile}\" right now{cause}{log_hint}; \
                 repeat the call in a moment"
            ),
            Reason::LoginNotAllowed => write!(
                f,
                "{broker} doesn't allow signing in from here; run {} as its own user, or add \
                 login = true to the [[rule]]",
                self.login_command()
            ),
            // It is returned only after LOGIN_REQUIRED: the profile needs a sign-in that the broker can't start.
            Reason::NotALoginProfile if private => write!(
                f,
                "profile \"{profile}\" needs a sign-in that only the AWS CLI can do{cause}; run \
                 `aws login {option}`, then repeat the call"
            ),
            Reason::NotALoginProfile => write!(
                f,
                "profile \"{profile}\" needs a sign-in that only the AWS CLI can do{cause}; run \
                 `aws login {option}` as the user of {broker}, then repeat the call"
            ),
            Reason::LoginDenied => write!(
                f,
                "the sign-in for profile \"{profile}\" was declined; repeat the call to try again"
            ),
            Reason::LoginExpired => write!(
                f,
                "the sign-in for profile \"{profile}\" wasn't finished in time; repeat the call \
                 for a new code"
            ),
            Reason::AuditUnavailable => write!(
                f,
                "{broker} can't write its audit log, and signs nothing without it{cause}; check \
                 the disk and [audit] file"
            ),
            Reason::BrokerEnding => write!(
                f,
                "{broker} is shutting down, and no other has taken its place; repeat the call once it runs again"
            ),
            Reason::RateLimited => write!(
                f,
                "too many calls with profile \"{profile}\": the broker's rate limit is reached (`rate` of a rule, \
                 or `pace` of the endpoint); wait a moment"
            ),
            Reason::TooMuchInFlight => write!(
                f,
                "too many calls of this user are in progress at {broker}; wait a moment, then \
                 repeat the call"
            ),
            Reason::PeerUnknown if matches!(broker, BrokerAddress::Tls(_)) => write!(
                f,
                "{broker} doesn't accept the certificate in --broker-cert any more: it has expired, or its \
                 authority is no longer in the broker's [listen] client_ca; renew it"
            ),
            Reason::PeerUnknown => {
                write!(
                    f,
                    "{broker} can't tell which user this process runs as, so it signs nothing"
                )
            }
            Reason::Unspecified => write!(f, "{broker} refused the signature{cause}{log_hint}"),
        }
    }
}

#[cfg(test)]
mod tests;
