//! Maps failed loads to the reasons for callers, which tell what to do: sign in, repair the
//! profile, or try again.

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};

use crate::error::{AwsError, Denial, Reason, shown, with_causes};

/// Temporary errors, although their status is a client error.
const PASSING: [&str; 7] = [
    "IDPCommunicationError",
    "RequestLimitExceeded",
    "SlowDownException",
    "Throttling",
    "ThrottledException",
    "ThrottlingException",
    "TooManyRequestsException",
];

/// The codes of AWS's services for the same error: the query protocol and the JSON protocols use
/// different ones.
/// <https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html>
const MEANINGS: [(Reason, &[&str]); 4] = [
    (
        Reason::AccessDenied,
        &[
            "AccessDenied",
            "AccessDeniedException",
            "IDPRejectedClaim",
            "NotAuthorized",
            "UnauthorizedOperation",
        ],
    ),
    (Reason::ClockSkew, &["RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"]),
    (
        Reason::KeysRejected,
        &[
            "AuthFailure",
            "ExpiredToken",
            "ExpiredTokenException",
            "IncompleteSignature",
            "InvalidAccessKeyId",
            "InvalidClientTokenId",
            "InvalidSignatureException",
            "MissingAuthenticationToken",
            "SignatureDoesNotMatch",
            "UnrecognizedClientException",
        ],
    ),
    (Reason::RegionDisabled, &["OptInRequired", "RegionDisabledException"]),
];

/// The error of AWS, if there is one.
fn words<E: ProvideErrorMetadata>(error: &SdkError<E>, secrets: &[&str]) -> Option<AwsError> {
    let SdkError::ServiceError(context) = error else { return None };
    let error = context.err();
    Some(AwsError::new(error.code(), error.message(), secrets))
}

/// Whether the same request would be refused again: missing permission, unknown role, invalid key.
fn is_permanent<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    let SdkError::ServiceError(context) = error else { return false };
    let passes = context.err().code().is_some_and(|code| PASSING.contains(&code));
    let status = context.raw().status();
    status.is_client_error() && status.as_u16() != 429 && !passes
}

/// Whether AWS reports that the time of the request differs too much from its own. Only the message
/// of a signature's error tells that.
fn is_clock<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    let of_signature = ["InvalidSignatureException", "SignatureDoesNotMatch"];
    let messages = ["Signature expired", "Signature not yet current"];
    error.code().is_some_and(|code| of_signature.contains(&code))
        && error.message().is_some_and(|message| messages.iter().any(|it| message.contains(it)))
}

/// A denial with the error of AWS, or of the network.
fn denial<E>(reason: Reason, operation: &str, error: &SdkError<E>, secrets: &[&str]) -> Denial
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match words(error, secrets) {
        Some(words) => Denial::by_aws(reason, operation, words),
        None => {
            Denial::new(reason, format!("{operation}: {}", shown(&with_causes(error), secrets)))
        }
    }
}

/// STS refused a call that was signed with the keys in `secrets`.
pub(super) fn of_sts<E>(error: &SdkError<E>, action: &str, secrets: &[&str]) -> Denial
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let code = error.code().unwrap_or_default();
    let meaning = MEANINGS.iter().find(|(_, codes)| codes.contains(&code));
    let reason = match meaning {
        _ if !is_permanent(error) => Reason::CredentialsUnavailable,
        _ if is_clock(error) => Reason::ClockSkew,
        Some((reason, _)) => *reason,
        None => Reason::ProfileMisconfigured,
    };
    denial(reason, &format!("sts:{action}"), error, secrets)
}

/// STS refused a web identity's token.
pub(super) fn of_web_identity<E>(error: &SdkError<E>, token: &str) -> Denial
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let operation = "AssumeRoleWithWebIdentity";
    // The token's issuer rotates it.
    if error.code() == Some("ExpiredTokenException") {
        let operation = format!("sts:{operation}");
        return denial(Reason::CredentialsUnavailable, &operation, error, &[token]);
    }
    of_sts(error, operation, &[token])
}

/// The portal of IAM Identity Center refused a role's credentials.
pub(super) fn of_portal<E>(error: &SdkError<E>, token: &str) -> Denial
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    let reason = match (status, error.code()) {
        // The token has expired, was revoked, or the person signed out.
        (Some(401), _) => Reason::LoginRequired,
        _ if !is_permanent(error) => Reason::CredentialsUnavailable,
        // The token is valid, but has no access to the account or role.
        (Some(403), _) | (_, Some("ForbiddenException" | "ResourceNotFoundException")) => {
            Reason::NoAccountAccess
        }
        _ => Reason::ProfileMisconfigured,
    };
    denial(reason, "sso:GetRoleCredentials", error, &[token])
}

/// A provider of the SDK failed: a metadata service, which was called with `secrets`. `nothing` is
/// the reason if there is no source of credentials.
pub(super) fn of_provider(error: &CredentialsError, nothing: Reason, secrets: &[&str]) -> Denial {
    let reason = match error {
        CredentialsError::CredentialsNotLoaded(_) => nothing,
        CredentialsError::InvalidConfiguration(_) => Reason::ProfileMisconfigured,
        // A non-exhaustive type of another crate: unknown errors count as temporary.
        _ => Reason::CredentialsUnavailable,
    };
    Denial::new(reason, shown(&with_causes(error), secrets))
}
