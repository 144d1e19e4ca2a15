//! Roles that a profile assumes: with the credentials of another source, or with a token from a file.

use super::settings;
use crate::error::{Denial, Reason};
use crate::profile::aws_files::{Profile, Setting, misconfigured};
use crate::profile::source::base::{Hop, WebIdentity};

/// The source of the credentials for assuming a role.
pub(super) enum AssumedWith<'f> {
    /// `source_profile`.
    Profile(Setting<'f>),
    /// `credential_source`.
    Named(Setting<'f>),
}

/// Whether the profile assumes a role with other credentials.
pub(super) fn assumes(profile: &Profile<'_>) -> bool {
    profile.get("role_arn").is_some() && profile.get("web_identity_token_file").is_none()
}

/// The role `role_arn` of a profile that `assumes` it.
pub(super) fn hop(profile: &Profile<'_>, role_arn: Setting<'_>) -> Result<Hop, Denial> {
    if let Some(mfa) = profile.get("mfa_serial") {
        let why = "the code can't be entered here; use a profile of IAM Identity Center, or one whose \
                   credential_process asks for the code";
        let detail = mfa.wrong(format!("in the profile {}: {why}", profile.name)).to_string();
        return Err(Denial::new(Reason::MfaRequired, detail));
    }
    Ok(Hop {
        role_arn: settings::arn(role_arn)?.to_owned(),
        session_name: text(profile.get("role_session_name"))?,
        external_id: text(profile.get("external_id"))?,
        source_identity: text(profile.get("source_identity"))?,
        duration: duration(profile)?,
        ..Hop::default()
    })
}

/// The source of the credentials for assuming the role.
pub(super) fn assumed_with<'f>(profile: &Profile<'f>) -> Result<AssumedWith<'f>, Denial> {
    let keys = ["source_profile", "credential_source"];
    settings::only_one_of(profile, keys)?;
    match keys.map(|key| profile.get(key)) {
        [Some(source), _] => Ok(AssumedWith::Profile(source)),
        [None, Some(named)] => Ok(AssumedWith::Named(named)),
        [None, None] => {
            Err(settings::wrong(profile, "has role_arn, and no source_profile to assume it"))
        }
    }
}

/// A role that is assumed with the token in `token_file`.
pub(super) fn web_identity(
    profile: &Profile<'_>,
    token_file: Setting<'_>,
) -> Result<WebIdentity, Denial> {
    let missing = || settings::wrong(profile, "has web_identity_token_file, and no role_arn");
    let role_arn = profile.get("role_arn").ok_or_else(missing)?;
    Ok(WebIdentity {
        token_file: settings::text(token_file)?.into(),
        role_arn: settings::arn(role_arn)?.to_owned(),
        session_name: text(profile.get("role_session_name"))?,
        duration: duration(profile)?,
    })
}

fn text(setting: Option<Setting<'_>>) -> Result<Option<String>, Denial> {
    setting.map(|setting| settings::text(setting).map(str::to_owned)).transpose()
}

/// Parses `duration_seconds` in the range that STS allows.
fn duration(profile: &Profile<'_>) -> Result<Option<i32>, Denial> {
    let Some(setting) = profile.get("duration_seconds") else { return Ok(None) };
    let seconds = settings::text(setting)?.parse().ok();
    let seconds = seconds.filter(|seconds| (900..=43_200).contains(seconds));
    let wrong = || misconfigured(&setting.wrong("must be a number from 900 to 43200"));
    seconds.map(Some).ok_or_else(wrong)
}
