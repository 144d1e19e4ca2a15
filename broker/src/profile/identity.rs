//! Whose credentials they are, by asking AWS. A signature doesn't need it: `check` asks, and the broker
//! where its configuration says so.

use aws_types::SdkConfig;
use sigward_proto::v1::Reason;

use crate::error::{Denial, in_words};

/// Who AWS says that the credentials belong to.
#[derive(Debug)]
pub struct Identity {
    /// The account's number.
    pub account: String,
    /// The user's or the role session's ARN.
    pub arn: String,
}

/// Asks with a configuration that has the credentials.
pub(super) async fn ask(config: SdkConfig) -> Result<Identity, Denial> {
    let client = aws_sdk_sts::Client::new(&config);
    // It has all that stands in the AWS files, and the answer may take a while.
    drop(config);
    let answer = client.get_caller_identity().send().await;
    let answer = answer.map_err(|error| {
        let detail = format!("sts:GetCallerIdentity: {}", in_words(&error));
        Denial::new(Reason::CredentialsUnavailable, detail)
    })?;
    let text = |text: Option<String>| text.unwrap_or_default();
    Ok(Identity { account: text(answer.account), arn: text(answer.arn) })
}
