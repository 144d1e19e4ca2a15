//! Whose credentials they are, by asking AWS. Only `check` does: a signature doesn't need it.

use sigward_proto::v1::Reason;

use super::source::Source;
use crate::error::{Denial, in_words};
use crate::secret::Credentials;

/// Who AWS says that the credentials belong to.
#[derive(Debug)]
pub struct Identity {
    /// The account's number.
    pub account: String,
    /// The user's or the role session's ARN.
    pub arn: String,
}

pub(super) async fn ask(source: &Source, credentials: &Credentials) -> Result<Identity, Denial> {
    let config = source.client(Some(credentials.expose_keys().clone())).await?;
    let answer = aws_sdk_sts::Client::new(&config).get_caller_identity().send().await;
    let answer = answer.map_err(|error| {
        let detail = format!("sts:GetCallerIdentity: {}", in_words(&error));
        Denial::new(Reason::CredentialsUnavailable, detail)
    })?;
    let text = |text: Option<String>| text.unwrap_or_default();
    Ok(Identity { account: text(answer.account), arn: text(answer.arn) })
}
