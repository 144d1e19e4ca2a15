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
