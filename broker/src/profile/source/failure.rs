//! What a failed load means to the caller: sign in, fix the profile, or try again.

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sts::error::ProvideErrorMetadata;
use aws_sdk_sts::error::SdkError;
use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError;
use sigward_proto::v1::Reason;

use super::chain::Kind;
use crate::error::{Denial, causes, in_words};

/// Turns the SDK's error into a denial.
pub(super) fn classify(error: &CredentialsError, kind: Option<Kind>) -> Denial {
    // Its text holds what the child wrote to standard error: that may be a key.
    let detail = match kind {
        Some(Kind::CredentialProcess) if refusal(error).is_none() => {
            "the credential process failed, or its output can't be read".to_owned()
        }
        _ => in_words(error),
    };
    Denial::new(reason(error, kind, &detail), detail)
}

fn reason(error: &CredentialsError, kind: Option<Kind>, text: &str) -> Reason {
    if kind == Some(Kind::Sso) && refusal(error).is_none() && needs_login(text) {
        return Reason::LoginRequired;
    }
    // The portal knows the token, and has no such account or role for it.
    let no_role = ["ForbiddenException", "ResourceNotFoundException"];
    if kind == Some(Kind::Sso) && no_role.iter().any(|sign| text.contains(sign)) {
        return Reason::ProfileMisconfigured;
    }
    match error {
        CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => {
            Reason::ProfileMisconfigured
        }
        CredentialsError::ProviderError(_) if refusal(error) == Some(Refusal::ForGood) => {
            Reason::ProfileMisconfigured
        }
        // A non-exhaustive type of another crate: what it doesn't know may pass.
        _ => Reason::CredentialsUnavailable,
    }
}

/// The SDK's types for a missing or dead token are private, so their texts have to do.
fn needs_login(text: &str) -> bool {
    [
        "token has expired",
        "failed to load the cached SSO token",
        "failed to read `",
        "UnauthorizedException",
    ]
    .iter()
    .any(|sign| text.contains(sign))
}

/// How STS refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// The same request will be refused again: no permission, no such role, a dead key.
    ForGood,
    /// Throttled, or in trouble.
    ForNow,
}

/// STS's refusal, if it is one: anywhere among the causes.
fn refusal(error: &CredentialsError) -> Option<Refusal> {
    causes(error).find_map(|error| {
        let assume = error.downcast_ref::<SdkError<AssumeRoleError>>();
        let web = error.downcast_ref::<SdkError<AssumeRoleWithWebIdentityError>>();
        assume.and_then(of_service).or_else(|| web.and_then(of_service))
    })
}

fn of_service<E: ProvideErrorMetadata>(error: &SdkError<E>) -> Option<Refusal> {
    let SdkError::ServiceError(context) = error else { return None };
    let passing = [
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "IDPCommunicationError",
        // A web identity token that its issuer is about to rotate.
        "ExpiredTokenException",
    ];
    let refused = context.raw().status().is_client_error();
    let passes = context.err().code().is_some_and(|code| passing.contains(&code));
    Some(if refused && !passes { Refusal::ForGood } else { Refusal::ForNow })
}
