//! What a failed load means to the caller: sign in, fix the profile, or try again.

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use sigward_proto::v1::Reason;

use crate::error::{Denial, in_words};

/// What passes by itself, though the status says that the client is at fault.
const PASSING: [&str; 6] = [
    "IDPCommunicationError",
    "RequestLimitExceeded",
    "SlowDownException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
];

/// Whether the same request will be refused again: no permission, no such role, a dead key.
fn for_good<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    let SdkError::ServiceError(context) = error else { return false };
    let passes = context.err().code().is_some_and(|code| PASSING.contains(&code));
    context.raw().status().is_client_error() && !passes
}

/// STS didn't give a role's credentials.
pub(super) fn of_sts<E>(error: &SdkError<E>, action: &str) -> Denial
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    // A web identity's token, which its issuer is about to rotate.
    let rotated = error.code() == Some("ExpiredTokenException");
    let reason = match for_good(error) && !rotated {
        true => Reason::ProfileMisconfigured,
        false => Reason::CredentialsUnavailable,
    };
    Denial::new(reason, format!("sts:{action}: {}", in_words(error)))
}

/// The portal of IAM Identity Center didn't give a role's credentials.
pub(super) fn of_portal<E>(error: &SdkError<E>) -> Denial
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    let reason = match status {
        // The token is dead: expired, revoked, signed out.
        Some(401) => Reason::LoginRequired,
        // It lives, and has no such account or role.
        _ if for_good(error) => Reason::ProfileMisconfigured,
        _ => Reason::CredentialsUnavailable,
    };
    Denial::new(reason, format!("sso:GetRoleCredentials: {}", in_words(error)))
}

/// The token of IAM Identity Center wasn't renewed.
pub(super) fn of_renewal<E>(error: &SdkError<E>) -> Denial
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let reason = match for_good(error) {
        true => Reason::LoginRequired,
        false => Reason::CredentialsUnavailable,
    };
    Denial::new(reason, format!("sso-oidc:CreateToken: {}", in_words(error)))
}

/// One of the SDK's own providers failed: metadata services, the environment.
pub(super) fn of_provider(error: &CredentialsError) -> Denial {
    let reason = match error {
        CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => {
            Reason::ProfileMisconfigured
        }
        // A non-exhaustive type of another crate: what it doesn't know may pass.
        _ => Reason::CredentialsUnavailable,
    };
    Denial::new(reason, in_words(error))
}

/// The session of `aws login` gave no credentials. The SDK's types for a missing or dead one are
/// private, so their texts have to do.
pub(super) fn of_login_session(error: &CredentialsError) -> Denial {
    let text = in_words(error);
    let dead = ["expired", "reauthenticate", "failed to load", "failed to read"];
    if dead.iter().any(|sign| text.contains(sign)) {
        return Denial::new(Reason::LoginRequired, text);
    }
    of_provider(error)
}
