//! Queries AWS for the identity of credentials. Signatures don't need it: `check` queries it, and
//! the broker if its configuration asks for it.

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_types::SdkConfig;

use super::failure;
use crate::error::Denial;

/// The account and the role in an ARN of a role, or of its session; empty parts are unknown. A user
/// has no role.
pub(super) fn account_and_role(arn: &str) -> (&str, &str) {
    let mut parts = arn.splitn(6, ':').skip(4);
    let (account, resource) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let role = match resource.split_once('/') {
        Some(("role", path)) => path.rsplit('/').next().unwrap_or_default(),
        Some(("assumed-role", session)) => session.split('/').next().unwrap_or_default(),
        _ => "",
    };
    (account, role)
}

/// The identity of credentials, as reported by AWS.
#[derive(Debug)]
pub struct Identity {
    /// The account id.
    pub account: String,
    /// The user's or the role session's ARN.
    pub arn: String,
}

/// Queries the identity with the credentials themselves.
pub(super) async fn ask(config: SdkConfig, keys: Credentials) -> Result<Identity, Denial> {
    let provider = SharedCredentialsProvider::new(keys.clone());
    let config = config.to_builder().credentials_provider(provider).build();
    let answer = aws_sdk_sts::Client::new(&config).get_caller_identity().send().await;
    let answer = answer.map_err(|error| {
        let secrets =
            [keys.access_key_id(), keys.secret_access_key(), keys.session_token().unwrap_or("")];
        failure::of_sts(&error, "GetCallerIdentity", &secrets)
    })?;
    let text = |text: Option<String>| text.unwrap_or_default();
    Ok(Identity { account: text(answer.account), arn: text(answer.arn) })
}

/// The account in an ARN.
pub(super) fn account_of(arn: &str) -> Option<String> {
    let (account, _) = account_and_role(arn);
    (!account.is_empty()).then(|| account.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{account_and_role, account_of};

    #[test]
    fn arns_contain_an_account_and_maybe_a_role() {
        for (arn, account, role) in [
            ("arn:aws:iam::123456789012:role/Reader", "123456789012", "Reader"),
            ("arn:aws:iam::123456789012:role/team/a/Reader", "123456789012", "Reader"),
            ("arn:aws:sts::123456789012:assumed-role/Reader/me", "123456789012", "Reader"),
            ("arn:aws:iam::123456789012:user/x", "123456789012", ""),
            ("arn:aws:iam::123456789012:root", "123456789012", ""),
            ("arn:aws:s3:::bucket", "", ""),
            ("123456789012", "", ""),
            ("", "", ""),
            ("role", "", ""),
        ] {
            assert_eq!(account_and_role(arn), (account, role), "{arn}");
            assert_eq!(account_of(arn).as_deref().unwrap_or_default(), account, "{arn}");
        }
    }
}
