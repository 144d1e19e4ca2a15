use aws_sdk_ssooidc::Client;
use serde_json::json;

use super::*;
use crate::profile::fake::{Answer, Fake};

/// The error that the SDK makes of a server's response.
async fn asked(answer: Answer) -> (TokenError, Denial) {
    let server = Fake::start(move |_| answer.clone()).await;
    let config = server.config().await;
    let no_retries = aws_sdk_ssooidc::config::retry::RetryConfig::disabled();
    let config = aws_sdk_ssooidc::config::Builder::from(&config).retry_config(no_retries).build();
    let error = Client::from_conf(config)
        .create_token()
        .client_id("c")
        .client_secret("canary-client")
        .grant_type("refresh_token")
        .refresh_token("canary-refresh")
        .send()
        .await
        .expect_err("an error");
    let secrets = ["canary-client", "canary-refresh"];
    (TokenError::of(&error), not_renewed(&error, "sso-oidc:CreateToken", &secrets))
}

/// Each error, by AWS's type, by the code in the body, and its reason for a renewal.
const KNOWN: [(&str, &str, TokenError, Reason); 20] = [
    (
        "AuthorizationPendingException",
        "authorization_pending",
        AuthorizationPending,
        Reason::CredentialsUnavailable,
    ),
    ("SlowDownException", "slow_down", SlowDown, Reason::CredentialsUnavailable),
    ("AccessDeniedException", "access_denied", AccessDenied, Reason::LoginRequired),
    ("ExpiredTokenException", "expired_token", ExpiredToken, Reason::LoginRequired),
    ("InvalidClientException", "invalid_client", InvalidClient, Reason::LoginRequired),
    ("InvalidGrantException", "invalid_grant", InvalidGrant, Reason::LoginRequired),
    ("InvalidRequestException", "invalid_request", InvalidRequest, Reason::LoginRequired),
    ("InvalidRequestRegionException", "invalid_request", InvalidRequest, Reason::LoginRequired),
    ("ValidationException", "INVALID_REQUEST", InvalidRequest, Reason::LoginRequired),
    ("InvalidScopeException", "invalid_scope", InvalidScope, Reason::LoginRequired),
    (
        "UnauthorizedClientException",
        "unauthorized_client",
        UnauthorizedClient,
        Reason::LoginRequired,
    ),
    (
        "UnsupportedGrantTypeException",
        "unsupported_grant_type",
        UnsupportedGrantType,
        Reason::LoginRequired,
    ),
    ("InternalServerException", "server_error", Unavailable, Reason::CredentialsUnavailable),
    (
        "ServiceUnavailableException",
        "service_unavailable",
        Unavailable,
        Reason::CredentialsUnavailable,
    ),
    ("TooManyRequestsError", "rate_exceeded", Unavailable, Reason::CredentialsUnavailable),
    (
        "TooManyRequestsException",
        "temporarily_unavailable",
        Unavailable,
        Reason::CredentialsUnavailable,
    ),
    ("ThrottlingException", "CONFLICT", Unavailable, Reason::CredentialsUnavailable),
    ("Throttling", "SERVICE_QUOTA_EXCEEDED", Unavailable, Reason::CredentialsUnavailable),
    ("RequestLimitExceeded", "slow_down", Unavailable, Reason::CredentialsUnavailable),
    ("ExpiredTokenException", "AUTHCODE_EXPIRED", ExpiredToken, Reason::LoginRequired),
];

#[tokio::test]
async fn errors_are_recognised_by_type_by_code_and_by_both() {
    for (kind, code, error, reason) in KNOWN {
        let by_code = of_code(code).expect(code);
        let forms = [
            (json!({"__type": kind}), error),
            (json!({"__type": format!("{kind}:http://internal.amazon.com/")}), error),
            (json!({"error": code, "error_description": "words"}), by_code),
            (json!({"__type": kind, "error": code}), by_code),
            // With an unknown code, the type counts, and vice versa.
            (json!({"__type": kind, "error": "x"}), error),
            (json!({"__type": "NewException", "error": code}), by_code),
        ];
        for (body, expected) in forms {
            let (found, denial) = asked((400, body.to_string())).await;
            assert_eq!(found, expected, "{body}");
            assert_eq!(denial.reason(), expected.of_renewal(), "{body}");
        }
        assert_eq!(error.of_renewal(), reason, "{kind}");
    }
}

/// AccessDeniedException is the type of all of these: only the body distinguishes them.
#[tokio::test]
async fn the_codes_of_aws_login() {
    for (code, expected) in [
        ("TOKEN_EXPIRED", ExpiredToken),
        ("USER_CREDENTIALS_CHANGED", UserCredentialsChanged),
        ("INSUFFICIENT_PERMISSIONS", InsufficientPermissions),
    ] {
        for body in
            [json!({"error": code}), json!({"__type": "AccessDeniedException", "error": code})]
        {
            let (found, denial) = asked((403, body.to_string())).await;
            assert_eq!(found, expected, "{body}");
            assert_eq!(denial.reason(), Reason::LoginRequired, "{body}");
        }
    }
}

#[tokio::test]
async fn without_a_known_code_the_status_decides() {
    for (status, body, expected, reason) in [
        (400, r#"{"__type":"NewException"}"#, Refused, Reason::LoginRequired),
        (401, r#"{"error":"new_code"}"#, Refused, Reason::LoginRequired),
        (403, "<html>Blocked</html>", NoTokenEndpoint, Reason::CredentialsUnavailable),
        (404, "{}", NoTokenEndpoint, Reason::CredentialsUnavailable),
        (400, r#"{"error":["invalid_grant"]}"#, NoTokenEndpoint, Reason::CredentialsUnavailable),
        (408, "", Unavailable, Reason::CredentialsUnavailable),
        (429, r#"{"error":"new_code"}"#, Unavailable, Reason::CredentialsUnavailable),
        (500, "", Unavailable, Reason::CredentialsUnavailable),
        (503, r#"{"__type":"NewException"}"#, Unavailable, Reason::CredentialsUnavailable),
        (500, r#"{"error":"invalid_grant"}"#, Unavailable, Reason::CredentialsUnavailable),
        // A successful status with an unreadable body.
        (200, "<html>Sign in to the network</html>", Unavailable, Reason::CredentialsUnavailable),
    ] {
        let (found, denial) = asked((status, body.to_owned())).await;
        assert_eq!(found, expected, "{status} {body}");
        assert_eq!(denial.reason(), reason, "{status} {body}");
    }
}

#[tokio::test]
async fn a_missing_answer_is_not_a_refusal() {
    let server = Fake::start(|_| (200, String::new())).await;
    let config = server.config().await.to_builder().endpoint_url("http://127.0.0.1:1").build();
    let error = Client::new(&config).create_token().client_id("c").send().await;
    assert_eq!(TokenError::of(&error.expect_err("no server answers")), Unreachable);
}

/// The attack, or a careless server: it repeats what it was sent.
#[tokio::test]
async fn only_a_known_code_of_the_body_is_shown() {
    let canary = "canary-refresh";
    for body in [
        json!({"error": "invalid_grant", "error_description": canary, "refreshToken": canary}),
        json!({"error": canary}),
        json!({"error": "invalid_grant", "message": format!("no such token: {canary}")}),
        json!({"__type": "InvalidGrantException", "message": canary}),
        json!({"error": canary, canary: canary}),
    ] {
        let (_, denial) = asked((400, body.to_string())).await;
        assert!(!denial.to_string().contains("canary"), "{body}: {denial}");
    }
    let (_, denial) = asked((400, json!({"error": "invalid_grant"}).to_string())).await;
    assert_eq!(denial.aws().map(AwsError::code), Some("invalid_grant"));
    assert_eq!(denial.detail(), "the sign-in has ended: sso-oidc:CreateToken: invalid_grant");
}
