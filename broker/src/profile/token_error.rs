//! Classifies the errors of OAuth token endpoints, by their codes.
//!
//! There are three endpoints: those of the device flow and of renewals in IAM Identity Center, and
//! that of `aws login`. RFC 6749 (5.2) and RFC 8628 (3.5) put the code into the body, as `error`;
//! AWS adds a type in the header `x-amzn-ErrorType` or in the body, which is all that the SDK
//! reads. Either alone is sufficient here.
//!
//! Invariant: messages for people decide nothing, and only a known code of a body is passed on.

use aws_sdk_ssooidc::error::{ProvideErrorMetadata, SdkError};
use serde::Deserialize;

use crate::error::{AwsError, Denial, Reason, shown, with_causes};

/// The reason why a token endpoint returned no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenError {
    AuthorizationPending,
    SlowDown,
    /// The person declined, or the token's owner lacks a permission.
    AccessDenied,
    /// The device code or the refresh token has expired.
    ExpiredToken,
    InvalidClient,
    InvalidGrant,
    InvalidRequest,
    InvalidScope,
    UnauthorizedClient,
    UnsupportedGrantType,
    /// `aws login`: the person has changed their password.
    UserCredentialsChanged,
    /// `aws login`: the person lacks the permission `signin:CreateOAuth2Token`.
    InsufficientPermissions,
    /// Throttling, or a server error.
    Unavailable,
    /// A client error with an unknown code.
    Refused,
    /// A client error without a code: a page of a proxy, or of a server that isn't a token endpoint.
    NoTokenEndpoint,
    /// The server didn't answer.
    Unreachable,
}

use TokenError::{
    AccessDenied, AuthorizationPending, ExpiredToken, InsufficientPermissions, InvalidClient,
    InvalidGrant, InvalidRequest, InvalidScope, NoTokenEndpoint, Refused, SlowDown,
    UnauthorizedClient, Unavailable, Unreachable, UnsupportedGrantType, UserCredentialsChanged,
};

impl TokenError {
    pub(super) fn of<E: ProvideErrorMetadata>(error: &SdkError<E>) -> Self {
        let Some(response) = error.raw_response() else { return Unreachable };
        // A server error isn't a refusal, whatever its code.
        if !response.status().is_client_error() {
            return Unavailable;
        }
        // The body has priority: for `aws login`, AccessDeniedException may have four causes.
        let code = response.body().bytes().and_then(code_of_body);
        let code = code.as_deref().filter(|code| !code.is_empty());
        let kind = error.code().filter(|kind| !kind.is_empty());
        if let Some(known) = code.and_then(of_code).or(kind.and_then(of_type)) {
            return known;
        }
        match response.status().as_u16() {
            408 | 429 => Unavailable,
            _ if code.or(kind).is_some() => Refused,
            _ => NoTokenEndpoint,
        }
    }

    /// Whether the same request may succeed later.
    pub(super) fn passes(self) -> bool {
        matches!(self, AuthorizationPending | SlowDown | Unavailable | Unreachable)
    }

    /// The reason of a failed renewal with this error.
    pub(super) fn of_renewal(self) -> Reason {
        match self {
            // The token isn't known to be invalid.
            AuthorizationPending | SlowDown | Unavailable | NoTokenEndpoint | Unreachable => {
                Reason::CredentialsUnavailable
            }
            AccessDenied
            | ExpiredToken
            | InvalidClient
            | InvalidGrant
            | InvalidRequest
            | InvalidScope
            | UnauthorizedClient
            | UnsupportedGrantType
            | UserCredentialsChanged
            | InsufficientPermissions
            | Refused => Reason::LoginRequired,
        }
    }

    /// The advice for the user, in addition to the server's message.
    fn advice(self) -> &'static str {
        match self {
            ExpiredToken | InvalidGrant => "the sign-in has ended: ",
            UserCredentialsChanged => "the password was changed since the sign-in: ",
            InsufficientPermissions => "the permission signin:CreateOAuth2Token is missing: ",
            NoTokenEndpoint => "the answer isn't a token endpoint's: ",
            _ => "",
        }
    }
}

/// The denial for a failed renewal; the operation was called with `secrets`.
pub(super) fn not_renewed<E>(error: &SdkError<E>, operation: &str, secrets: &[&str]) -> Denial
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let what = TokenError::of(error);
    refused(what.of_renewal(), &format!("{}{operation}", what.advice()), error, secrets)
}

/// The denial for a refused operation, which was called with `secrets`.
pub(super) fn refused<E>(
    reason: Reason,
    operation: &str,
    error: &SdkError<E>,
    secrets: &[&str],
) -> Denial
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let SdkError::ServiceError(context) = error else {
        let words = shown(&with_causes(error), secrets);
        return Denial::new(reason, format!("{operation}: {words}"));
    };
    // An unknown code could be any text.
    let code = context.raw().body().bytes().and_then(code_of_body);
    let code = code.as_deref().filter(|code| of_code(code).is_some()).or(error.code());
    let words = AwsError::new(code, error.message(), secrets);
    Denial::by_aws(reason, operation, words)
}

fn code_of_body(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        error: String,
    }
    serde_json::from_slice(body).ok().map(|body: Body| body.error)
}

/// The errors by `error` of the body: RFC 6749, RFC 8628, and the `OAuth2ErrorCode` of AWS Sign-In.
fn of_code(code: &str) -> Option<TokenError> {
    Some(match code {
        "authorization_pending" => AuthorizationPending,
        "slow_down" => SlowDown,
        "access_denied" => AccessDenied,
        "expired_token" | "TOKEN_EXPIRED" | "AUTHCODE_EXPIRED" => ExpiredToken,
        "invalid_client" => InvalidClient,
        "invalid_grant" => InvalidGrant,
        "invalid_request" | "INVALID_REQUEST" => InvalidRequest,
        "invalid_scope" => InvalidScope,
        "unauthorized_client" => UnauthorizedClient,
        "unsupported_grant_type" => UnsupportedGrantType,
        "USER_CREDENTIALS_CHANGED" => UserCredentialsChanged,
        "INSUFFICIENT_PERMISSIONS" => InsufficientPermissions,
        "server_error"
        | "temporarily_unavailable"
        | "service_unavailable"
        | "rate_exceeded"
        | "CONFLICT"
        | "SERVICE_QUOTA_EXCEEDED" => Unavailable,
        _ => return None,
    })
}

/// The errors by AWS's type.
fn of_type(kind: &str) -> Option<TokenError> {
    Some(match kind {
        "AuthorizationPendingException" => AuthorizationPending,
        "SlowDownException" => SlowDown,
        "AccessDeniedException" => AccessDenied,
        "ExpiredTokenException" => ExpiredToken,
        "InvalidClientException" => InvalidClient,
        "InvalidGrantException" => InvalidGrant,
        "InvalidRequestException" | "InvalidRequestRegionException" | "ValidationException" => {
            InvalidRequest
        }
        "InvalidScopeException" => InvalidScope,
        "UnauthorizedClientException" => UnauthorizedClient,
        "UnsupportedGrantTypeException" => UnsupportedGrantType,
        "InternalServerException"
        | "RequestLimitExceeded"
        | "ServiceUnavailableException"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequestsError"
        | "TooManyRequestsException" => Unavailable,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
