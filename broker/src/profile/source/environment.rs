//! Reads keys from the environment of this process, like botocore's `EnvProvider`.
//!
//! They are read for each load and not stored; so is the token for the container's endpoint.

use aws_credential_types::Credentials;

use crate::error::{Denial, Reason};
use crate::profile::time;

/// The keys in the environment, if there are any.
///
/// # Errors
/// The keys are incomplete.
pub(super) fn keys() -> Result<Option<Credentials>, Denial> {
    #[expect(
        clippy::disallowed_methods,
        reason = "keys aren't passed on: they are read where they are used"
    )]
    keys_of(|name| std::env::var(name).ok())
}

/// The SDK's authorization token for the container's endpoint; empty if there is none. An error of
/// the endpoint may quote it.
pub(super) async fn container_token() -> String {
    #[expect(
        clippy::disallowed_methods,
        reason = "a token isn't passed on: it is read where it is used"
    )]
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    // The file has priority, like in the SDK.
    match variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        file if !file.is_empty() => tokio::fs::read_to_string(file).await.unwrap_or_default(),
        _ => variable("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
    }
}

fn keys_of(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Credentials>, Denial> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let wrong = |what: &'static str| Denial::new(Reason::ProfileMisconfigured, what);
    let Some(id) = variable("AWS_ACCESS_KEY_ID") else { return Ok(None) };
    let secret = variable("AWS_SECRET_ACCESS_KEY");
    let secret =
        secret.ok_or_else(|| wrong("AWS_ACCESS_KEY_ID is set, and AWS_SECRET_ACCESS_KEY isn't"))?;
    // botocore prefers the older name; if the values differ, the intention isn't clear.
    let (older, token) = (variable("AWS_SECURITY_TOKEN"), variable("AWS_SESSION_TOKEN"));
    if older.is_some() && token.is_some() && older != token {
        return Err(wrong("AWS_SECURITY_TOKEN and AWS_SESSION_TOKEN differ: unset the first"));
    }
    let expiry = variable("AWS_CREDENTIAL_EXPIRATION").map(|text| {
        time::parse(&text)
            .ok_or_else(|| wrong("AWS_CREDENTIAL_EXPIRATION is no ISO 8601 time with a zone"))
    });
    Ok(Some(Credentials::new(id, secret, older.or(token), expiry.transpose()?, "environment")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(variables: &[(&str, &str)]) -> Result<Option<Credentials>, Denial> {
        keys_of(|name| {
            let found = variables.iter().find(|(found, _)| *found == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn half_of_a_key_is_reported() {
        let (id, secret) = (("AWS_ACCESS_KEY_ID", "A"), ("AWS_SECRET_ACCESS_KEY", "canary"));
        assert!(keys(&[]).expect("none").is_none());
        assert!(keys(&[secret]).expect("none").is_none());
        assert!(keys(&[("AWS_ACCESS_KEY_ID", ""), secret]).expect("none").is_none());
        for more in [&[][..], &[("AWS_SECRET_ACCESS_KEY", "")]] {
            let denial = keys(&[&[id], more].concat()).expect_err("half");
            assert!(denial.detail().contains("AWS_SECRET_ACCESS_KEY"), "{denial}");
        }
        for (more, token) in [
            (&[][..], None),
            (&[("AWS_SESSION_TOKEN", "")], None),
            (&[("AWS_SESSION_TOKEN", "t")], Some("t")),
            (&[("AWS_SECURITY_TOKEN", "t")], Some("t")),
            (&[("AWS_SECURITY_TOKEN", ""), ("AWS_SESSION_TOKEN", "t")], Some("t")),
            (&[("AWS_SECURITY_TOKEN", "t"), ("AWS_SESSION_TOKEN", "t")], Some("t")),
        ] {
            let found = keys(&[&[id, secret], more].concat()).expect("keys").expect("keys");
            assert_eq!((found.access_key_id(), found.session_token()), ("A", token), "{more:?}");
        }
        for wrong in [
            &[("AWS_SECURITY_TOKEN", "t"), ("AWS_SESSION_TOKEN", "u")][..],
            &[("AWS_CREDENTIAL_EXPIRATION", "soon")],
        ] {
            let denial = keys(&[&[id, secret], wrong].concat()).expect_err("wrong");
            assert!(
                denial.detail().contains(wrong[0].0) && !denial.detail().contains("canary"),
                "{denial}"
            );
        }
        let ends = ("AWS_CREDENTIAL_EXPIRATION", "2099-01-01T00:00:00+0000");
        assert!(keys(&[id, secret, ends]).expect("keys").expect("keys").expiry().is_some());
    }
}
