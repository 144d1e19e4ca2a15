//! Roles by STS, with all that a profile or the configuration may ask for.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_sts::Client;
use aws_sdk_sts::types::PolicyDescriptorType;
use aws_types::SdkConfig;
use zeroize::Zeroizing;

use super::base::{Hop, WebIdentity};
use crate::error::{Denial, Reason};
use crate::process;
use crate::profile::failure;

/// What STS allows a role that is assumed with another role's credentials.
const CHAINED: i32 = 3600;

/// Refuses a life that STS won't give. `of_a_role` says what the credentials are that the chain begins with.
pub(super) fn check<'h>(
    hops: impl Iterator<Item = &'h Hop>,
    of_a_role: bool,
) -> Result<(), Denial> {
    let mut of_a_role = of_a_role;
    for hop in hops {
        if of_a_role && hop.duration.is_some_and(|seconds| seconds > CHAINED) {
            let detail = format!(
                "the role {}: assumed with another role's credentials, it can't live for more than an \
                 hour: ask for {CHAINED} seconds at most",
                hop.role_arn
            );
            return Err(Denial::new(Reason::ProfileMisconfigured, detail));
        }
        of_a_role = true;
    }
    Ok(())
}

/// Assumes a role with the credentials of the step before.
pub(super) async fn assume(
    hop: &Hop,
    credentials: Credentials,
    session_name: &str,
    config: &SdkConfig,
) -> Result<Credentials, Denial> {
    let provider = SharedCredentialsProvider::new(credentials.clone());
    let config = config.to_builder().credentials_provider(provider).build();
    let policy_arns = hop.policy_arns.iter();
    let policy_arns: Vec<PolicyDescriptorType> =
        policy_arns.map(|arn| PolicyDescriptorType::builder().arn(arn).build()).collect();
    let answer = Client::new(&config)
        .assume_role()
        .role_arn(&hop.role_arn)
        .role_session_name(hop.session_name.as_deref().unwrap_or(session_name))
        .set_external_id(hop.external_id.clone())
        .set_source_identity(hop.source_identity.clone())
        .set_duration_seconds(hop.duration)
        .set_policy(hop.policy.clone())
        .set_policy_arns(Some(policy_arns).filter(|arns| !arns.is_empty()))
        .send()
        .await
        .map_err(|error| {
            let token = credentials.session_token().unwrap_or_default();
            let secrets = [credentials.access_key_id(), credentials.secret_access_key(), token];
            failure::of_sts(&error, "AssumeRole", &secrets)
        })?;
    taken(answer.credentials)
}

/// Assumes a role with the token that is in the file now.
pub(super) async fn assume_with_web_identity(
    role: &WebIdentity,
    session_name: &str,
    config: &SdkConfig,
) -> Result<Credentials, Denial> {
    let token = tokio::fs::read_to_string(&role.token_file).await.map_err(|error| {
        // It may come yet: kubelet writes it after the container has started.
        let (error, file) = (process::explained(error), role.token_file.display());
        let detail = format!("the web identity token {file} can't be read: {error}");
        Denial::new(Reason::CredentialsUnavailable, detail)
    })?;
    let token = Zeroizing::new(token);
    let answer = Client::new(config)
        .assume_role_with_web_identity()
        .role_arn(&role.role_arn)
        .role_session_name(role.session_name.as_deref().unwrap_or(session_name))
        .web_identity_token(token.as_str())
        .set_duration_seconds(role.duration)
        .send()
        .await
        .map_err(|error| failure::of_web_identity(&error, &token))?;
    taken(answer.credentials)
}

fn taken(answer: Option<aws_sdk_sts::types::Credentials>) -> Result<Credentials, Denial> {
    let unreadable = || Denial::new(Reason::CredentialsUnavailable, "STS gave no credentials");
    let answer = answer.ok_or_else(unreadable)?;
    let expiry = SystemTime::try_from(answer.expiration).map_err(|_| unreadable())?;
    let (id, secret, token) =
        (answer.access_key_id, answer.secret_access_key, answer.session_token);
    Ok(Credentials::new(id, secret, Some(token), Some(expiry), "sts"))
}
