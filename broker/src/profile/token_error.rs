//! What an OAuth token endpoint refused, by its code.
//!
//! There are three of them: the device flow's and the renewal's in IAM Identity Center, and that of `aws login`. RFC 6749
//! (5.2) and RFC 8628 (3.5) put the code into the body, as `error`; AWS adds a type of its own in the header
//! `x-amzn-ErrorType` or in the body, which is all that the SDK reads. Either alone is understood here.
//!
//! Invariant: English words decide nothing, and nothing of a body but a known code gets out of here.

use aws_sdk_ssooidc::error::{ProvideErrorMetadata, SdkError};
use serde::Deserialize;

use crate::error::{AwsError, Denial, Reason, in_words, shown};

/// Why a token endpoint gave no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenError {
    AuthorizationPending,
    SlowDown,
    /// The person declined, or the token's owner lacks a permission.
    AccessDenied,
    /// The device code or the refresh token.
    ExpiredToken,
    InvalidClient,
    InvalidGrant,
    InvalidRequest,
    InvalidScope,
    UnauthorizedClient,
    UnsupportedGrantType,
    /// `aws login`: the person has changed their password.
    UserCredentialsChanged,
    /// `aws login`: the person may not call `signin:CreateOAuth2Token`.
    InsufficientPermissions,
    /// Throttling, or trouble on the server's side.
    Unavailable,
    /// A client error with a code that isn't known here.
    Refused,
    /// A client error that names no code: a proxy's page, or a server that is no token endpoint.
    NoTokenEndpoint,
    /// No answer.
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
        // Whatever code a server in trouble names, it isn't a refusal.
        if !response.status().is_client_error() {
            return Unavailable;
        }
        // The body comes first: to `aws login`, AccessDeniedException alone may mean four things.
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

    /// What it means that a refresh token was answered so.
    pub(super) fn of_renewal(self) -> Reason {
        match self {
            // Not the token's fault, as far as anyone can tell.
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

    /// What to tell the user beside the server's message.
    fn advice(self) -> &'static str {
        match self {
            ExpiredToken | InvalidGrant => "the sign-in has ended: ",
            UserCredentialsChanged => "the password was changed since the sign-in: ",
            InsufficientPermissions => "the permission signin:CreateOAuth2Token is missing: ",
            NoTokenEndpoint => "no answer of a token endpoint: ",
            _ => "",
        }
    }
}

/// A token wasn't renewed, though the operation was called with `secrets`.
pub(super) fn not_renewed<E>(error: &SdkError<E>, operation: &str, secrets: &[&str]) -> Denial
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let what = TokenError::of(error);
    refused(what.of_renewal(), &format!("{}{operation}", what.advice()), error, secrets)
}

/// A token endpoint refused an operation that was called with `secrets`.
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
        let words = shown(&in_words(error), secrets);
        return Denial::new(reason, format!("{operation}: {words}"));
    };
    // A code that isn't known could be anything.
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

/// `error` of the body: RFC 6749, RFC 8628, and the `OAuth2ErrorCode` of AWS Sign-In.
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

/// The type that AWS gives an error.
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
