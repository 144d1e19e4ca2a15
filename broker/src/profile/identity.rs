//! Whose credentials they are, by asking AWS. A signature doesn't need it: `check` asks, and the broker
//! where its configuration says so.

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_types::SdkConfig;

use super::failure;
use crate::error::Denial;

/// Who AWS says that the credentials belong to.
#[derive(Debug)]
pub struct Identity {
    /// The account's number.
    pub account: String,
    /// The user's or the role session's ARN.
    pub arn: String,
}

/// Asks with the credentials that it is about.
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
    arn.split(':').nth(4).filter(|account| !account.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_names_its_account() {
        let account = account_of("arn:aws:sts::123456789012:assumed-role/Reader/me");
        assert_eq!(account.as_deref(), Some("123456789012"));
        for other in ["", "arn:aws:s3:::bucket", "123456789012"] {
            assert_eq!(account_of(other), None, "{other}");
        }
    }
}
