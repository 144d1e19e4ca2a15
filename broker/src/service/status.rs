//! Maps denials to gRPC statuses: one exhaustive map, with constant texts.

use std::collections::HashMap;
use std::time::Duration;

use sigward_proto::ERROR_DOMAIN;
use sigward_proto::v1;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::{Denial, Reason, shown};

/// The advised wait after UNAVAILABLE: failures are cached for this long, and up to five times as
/// long if they repeat.
const RETRY: Duration = Duration::from_secs(1);

/// The status of a denial, with the id of its record. The detail isn't sent.
pub(super) fn of(denial: &Denial, audit_id: Option<&str>) -> Status {
    with(denial, HashMap::new(), audit_id)
}

/// The status of a denial of credentials. All callers get AWS's code, which tells what to do next.
/// Callers of the broker's own user get the rest too: that user could read the AWS files and ask
/// AWS as well.
pub(super) fn of_credentials(denial: &Denial, own_user: bool, audit_id: Option<&str>) -> Status {
    let mut metadata = HashMap::new();
    if let Some(aws) = denial.aws() {
        metadata.insert("aws_code".to_owned(), aws.code().to_owned());
        if let Some(action) = denial.action() {
            metadata.insert("aws_action".to_owned(), action.to_owned());
        }
        if own_user && !aws.message().is_empty() {
            metadata.insert("aws_message".to_owned(), aws.message().to_owned());
        }
    }
    // Details of policy decisions aren't sent to anyone.
    let of_profile =
        matches!(code_and_text(denial.reason()).0, Code::FailedPrecondition | Code::Unavailable);
    if own_user && of_profile && denial.reason() != Reason::AuditUnavailable {
        metadata.insert("detail".to_owned(), shown(denial.detail(), &[]));
    }
    with(denial, metadata, audit_id)
}

fn with(denial: &Denial, mut metadata: HashMap<String, String>, audit_id: Option<&str>) -> Status {
    let reason = denial.reason();
    let (code, text) = code_and_text(reason);
    if let Some(id) = audit_id {
        metadata.insert("audit_id".to_owned(), id.to_owned());
    }
    let mut details =
        ErrorDetails::with_error_info(on_the_wire(reason).name(), ERROR_DOMAIN, metadata);
    let known = denial.wait();
    if let Some(wait) = known.or_else(|| (code == Code::Unavailable).then_some(RETRY)) {
        details.set_retry_info(Some(wait));
    }
    Status::with_error_details(code, text, details)
}

fn code_and_text(reason: Reason) -> (Code, &'static str) {
    match reason {
        Reason::Internal => (Code::Internal, "internal error"),
        Reason::PeerNotAllowed => (Code::PermissionDenied, "no rule matches this peer"),
        Reason::ProfileNotAllowed => (Code::PermissionDenied, "the profile is not allowed"),
        Reason::EndpointNotAllowed => (Code::PermissionDenied, "the endpoint is not allowed"),
        Reason::MethodNotAllowed => (Code::PermissionDenied, "the method is not allowed"),
        Reason::ToolNotAllowed => (Code::PermissionDenied, "the tool is not allowed"),
        Reason::LoginNotAllowed => (Code::PermissionDenied, "the sign-in is not allowed"),
        Reason::InvalidMethod => (Code::InvalidArgument, "the method is not a token"),
        Reason::InvalidUri => (Code::InvalidArgument, "the URI is not valid"),
        Reason::InvalidHeader => (Code::InvalidArgument, "a header is not valid"),
        Reason::ReservedHeader => (Code::InvalidArgument, "a header is reserved"),
        Reason::NonCanonicalQuery => (Code::InvalidArgument, "the query is not canonical"),
        Reason::AmbiguousJson => (Code::InvalidArgument, "the body is ambiguous"),
        Reason::BodyRequired => (Code::InvalidArgument, "the body is required"),
        Reason::InvalidMessage => (Code::InvalidArgument, "the message is not valid"),
        Reason::InvalidBodyHash => (Code::InvalidArgument, "the body or its hash is not valid"),
        Reason::LoginRequired => {
            (Code::FailedPrecondition, "the profile needs a sign-in (aws sso login, or aws login)")
        }
        Reason::MfaRequired => (Code::FailedPrecondition, "the profile needs a second factor"),
        Reason::ProfileMisconfigured => {
            (Code::FailedPrecondition, "the profile's configuration is wrong")
        }
        Reason::NoCredentials => (Code::FailedPrecondition, "the profile has no credentials"),
        Reason::UnsupportedProfileSetting => {
            (Code::FailedPrecondition, "the profile has a setting that is not supported")
        }
        Reason::NotALoginProfile => {
            (Code::FailedPrecondition, "the profile is not one of IAM Identity Center")
        }
        Reason::LoginDenied => (Code::FailedPrecondition, "the sign-in was declined"),
        Reason::LoginExpired => {
            (Code::FailedPrecondition, "the code expired before anyone signed in")
        }
        Reason::AccessDenied => (Code::FailedPrecondition, "AWS denied access to the role"),
        Reason::ClockSkew => (Code::FailedPrecondition, "the broker's clock is wrong"),
        Reason::KeysRejected => {
            (Code::FailedPrecondition, "AWS doesn't accept the profile's own keys")
        }
        Reason::RegionDisabled => {
            (Code::FailedPrecondition, "the region is not enabled for the account")
        }
        Reason::NoAccountAccess => {
            (Code::FailedPrecondition, "the sign-in has no access to the account or role")
        }
        Reason::CredentialsUnavailable => (Code::Unavailable, "no credentials at the moment"),
        Reason::AuditUnavailable => (Code::Unavailable, "the audit log can't be written"),
        Reason::BrokerEnding => (Code::Unavailable, "the broker is shutting down"),
        Reason::RateLimited => (Code::ResourceExhausted, "rate limit exceeded"),
        Reason::TooMuchInFlight => (Code::ResourceExhausted, "too much in flight"),
        Reason::PeerUnknown => (Code::Unauthenticated, "the peer is unknown"),
    }
}

/// The reason's value in the contract.
fn on_the_wire(reason: Reason) -> v1::Reason {
    match reason {
        Reason::PeerUnknown => v1::Reason::PeerUnknown,
        Reason::PeerNotAllowed => v1::Reason::PeerNotAllowed,
        Reason::ProfileNotAllowed => v1::Reason::ProfileNotAllowed,
        Reason::EndpointNotAllowed => v1::Reason::EndpointNotAllowed,
        Reason::MethodNotAllowed => v1::Reason::MethodNotAllowed,
        Reason::ToolNotAllowed => v1::Reason::ToolNotAllowed,
        Reason::LoginNotAllowed => v1::Reason::LoginNotAllowed,
        Reason::InvalidMessage => v1::Reason::InvalidMessage,
        Reason::InvalidMethod => v1::Reason::InvalidMethod,
        Reason::InvalidUri => v1::Reason::InvalidUri,
        Reason::InvalidHeader => v1::Reason::InvalidHeader,
        Reason::ReservedHeader => v1::Reason::ReservedHeader,
        Reason::NonCanonicalQuery => v1::Reason::NonCanonicalQuery,
        Reason::BodyRequired => v1::Reason::BodyRequired,
        Reason::InvalidBodyHash => v1::Reason::InvalidBodyHash,
        Reason::AmbiguousJson => v1::Reason::AmbiguousJson,
        Reason::LoginRequired => v1::Reason::LoginRequired,
        Reason::MfaRequired => v1::Reason::MfaRequired,
        Reason::ProfileMisconfigured => v1::Reason::ProfileMisconfigured,
        Reason::UnsupportedProfileSetting => v1::Reason::UnsupportedProfileSetting,
        Reason::NotALoginProfile => v1::Reason::NotALoginProfile,
        Reason::LoginDenied => v1::Reason::LoginDenied,
        Reason::LoginExpired => v1::Reason::LoginExpired,
        Reason::AccessDenied => v1::Reason::AccessDenied,
        Reason::ClockSkew => v1::Reason::ClockSkew,
        Reason::KeysRejected => v1::Reason::KeysRejected,
        Reason::RegionDisabled => v1::Reason::RegionDisabled,
        Reason::NoCredentials => v1::Reason::NoCredentials,
        Reason::NoAccountAccess => v1::Reason::NoAccountAccess,
        Reason::CredentialsUnavailable => v1::Reason::CredentialsUnavailable,
        Reason::AuditUnavailable => v1::Reason::AuditUnavailable,
        Reason::BrokerEnding => v1::Reason::BrokerEnding,
        Reason::RateLimited => v1::Reason::RateLimited,
        Reason::TooMuchInFlight => v1::Reason::TooMuchInFlight,
        Reason::Internal => v1::Reason::Unspecified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reason in the audit log is the one that the caller gets, and each reason in the contract
    /// is used.
    #[test]
    fn each_reason_has_its_name_on_the_wire() {
        for reason in Reason::ALL {
            assert_eq!(on_the_wire(*reason).name(), reason.name());
        }
        for reason in (0..1000).filter_map(|number| v1::Reason::try_from(number).ok()) {
            let given = Reason::ALL.iter().any(|it| on_the_wire(*it) == reason);
            assert!(given, "{reason:?}");
        }
    }
}
