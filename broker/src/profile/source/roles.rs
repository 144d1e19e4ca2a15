//! Assumes roles with STS, with all settings of the profile or the configuration.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_sts::Client;
use aws_sdk_sts::types::{PolicyDescriptorType, Tag};
use aws_types::SdkConfig;
use zeroize::Zeroizing;

use super::base::{Base, Hop, WebIdentity};
use crate::config::{AGENT_TAG, GuardRails, partition};
use crate::error::{Denial, Reason, with_causes};
use crate::process;
use crate::profile::failure;

/// The longest lifetime in seconds of a role that is assumed with another role's credentials.
const CHAINED: i32 = 3600;

/// Refuses a lifetime that STS doesn't allow. `of_a_role` is set if the first credentials of the
/// chain are a role's.
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

/// Assumes a role with the credentials of the previous step.
pub(super) async fn assume(
    hop: &Hop,
    credentials: Credentials,
    session_name: &str,
    config: &SdkConfig,
) -> Result<Credentials, Denial> {
    let provider = SharedCredentialsProvider::new(credentials.clone());
    let config = config.to_builder().credentials_provider(provider).build();
    let tag = |name: &String| Tag::builder().key(AGENT_TAG).value(name).build();
    let tags = hop.agent_tag.iter().map(tag).collect::<Result<Vec<_>, _>>();
    let tags = tags.map_err(|error| Denial::new(Reason::Internal, with_causes(&error)))?;
    let answer = Client::new(&config)
        .assume_role()
        .role_arn(&hop.role_arn)
        .role_session_name(hop.session_name.as_deref().unwrap_or(session_name))
        .set_external_id(hop.external_id.clone())
        .set_source_identity(hop.source_identity.clone())
        .set_tags(Some(tags).filter(|tags| !tags.is_empty()))
        .set_duration_seconds(hop.duration)
        .set_policy(hop.policy.clone())
        .set_policy_arns(managed(&hop.policy_arns))
        .send()
        .await
        .map_err(|error| {
            let token = credentials.session_token().unwrap_or_default();
            let secrets = [credentials.access_key_id(), credentials.secret_access_key(), token];
            let denial = failure::of_sts(&error, "AssumeRole", &secrets);
            explained(denial, &hop.role_arn)
        })?;
    taken(answer.credentials, &hop.role_arn)
}

/// Adds the action that a role's trust policy must allow besides `sts:AssumeRole`, if AWS reports
/// that it doesn't.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_session-tags.html>
fn explained(denial: Denial, role: &str) -> Denial {
    let refused = |action: &&str| {
        let words = format!("not authorized to perform: {action}");
        denial.aws().is_some_and(|aws| aws.message().contains(&words))
    };
    match ["sts:TagSession", "sts:SetSourceIdentity"].into_iter().find(refused) {
        Some(action) => denial.of_action(action, role),
        None => denial,
    }
}

/// Assumes a role with the current token in the file.
pub(super) async fn assume_with_web_identity(
    role: &WebIdentity,
    session_name: &str,
    limits: Option<&GuardRails>,
    config: &SdkConfig,
) -> Result<Credentials, Denial> {
    let limits = limits.map(|limits| limits.policies(partition(&role.role_arn)));
    let (policy, arns) = limits.map(|limits| (limits.policy, limits.arns)).unwrap_or_default();
    let token = tokio::fs::read_to_string(&role.token_file).await.map_err(|error| {
        // The token may be written later: kubelet writes it after the container has started.
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
        .set_policy(policy)
        .set_policy_arns(managed(&arns))
        .send()
        .await
        .map_err(|error| failure::of_web_identity(&error, &token))?;
    taken(answer.credentials, &role.role_arn)
}

/// Sets the limits on the last assumed role: the others only lead to it.
///
/// # Errors
/// The broker assumes no role, so the limits can't be set.
pub(super) fn limit(
    hops: &mut [Hop],
    base: Option<&Base>,
    limits: &GuardRails,
) -> Result<(), Denial> {
    let Some(hop) = hops.last_mut() else {
        return match base {
            // The web identity's role is assumed with the limits.
            Some(Base::WebIdentity(_)) => Ok(()),
            _ => {
                let detail = "access and only_via_mcp are session policies of a role that the broker assumes, and the \
                              profile's credentials don't come from one: add role_arn to the [[profile]]";
                Err(Denial::new(Reason::UnsupportedProfileSetting, detail))
            }
        };
    };
    let policies = limits.policies(partition(&hop.role_arn));
    hop.policy = policies.policy.or(hop.policy.take());
    hop.policy_arns.extend(policies.arns);
    Ok(())
}

fn managed(arns: &[String]) -> Option<Vec<PolicyDescriptorType>> {
    let arns = arns.iter().map(|arn| PolicyDescriptorType::builder().arn(arn).build());
    Some(arns.collect::<Vec<_>>()).filter(|arns| !arns.is_empty())
}

/// The credentials of a role, with the account of the role.
fn taken(
    answer: Option<aws_sdk_sts::types::Credentials>,
    role_arn: &str,
) -> Result<Credentials, Denial> {
    let unreadable = || Denial::new(Reason::CredentialsUnavailable, "STS gave no credentials");
    let answer = answer.ok_or_else(unreadable)?;
    let expiry = SystemTime::try_from(answer.expiration).map_err(|_| unreadable())?;
    let (id, secret, token) =
        (answer.access_key_id, answer.secret_access_key, answer.session_token);
    let keys = Credentials::builder().access_key_id(id).secret_access_key(secret);
    let mut keys = keys.session_token(token).expiry(expiry).provider_name("sts");
    keys.set_account_id(role_arn.split(':').nth(4).map(Into::into));
    Ok(keys.build())
}
