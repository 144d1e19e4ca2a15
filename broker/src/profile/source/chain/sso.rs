//! Roles of IAM Identity Center, with an `sso-session` or with settings of the profile itself.

use super::settings;
use crate::error::Denial;
use crate::profile::aws_files::{Other, Profile, Setting, misconfigured};
use crate::profile::source::base::SsoRole;
use crate::profile::token::Session;

/// The section of the config file that a profile's `sso_session` names.
pub(super) fn section<'f>(profile: &Profile<'f>, named: Setting<'f>) -> Result<Other<'f>, Denial> {
    let name = settings::text(named)?;
    let section = profile.files().sso_session(name).ok_or_else(|| {
        let missing = || {
            let what = format!("names {name:?}: there is no sso-session {name} in the config file");
            named.wrong(what)
        };
        misconfigured(&profile.files().doubt(name).unwrap_or_else(missing))
    })?;
    if let Some(error) = section.error() {
        return Err(misconfigured(&error));
    }
    for key in ["sso_start_url", "sso_region"] {
        if section.get(key).is_none() {
            return Err(misconfigured(&section.wrong(format!("the sso-session has no {key}"))));
        }
    }
    Ok(section)
}

/// The sign-in whose token the profile uses.
pub(super) fn session(profile: &Profile<'_>) -> Result<Session, Denial> {
    match profile.get("sso_session") {
        None => session_of_profile(profile),
        Some(named) => session_of_section(profile, named),
    }
}

fn session_of_profile(profile: &Profile<'_>) -> Result<Session, Denial> {
    let needed = ["sso_start_url", "sso_region", "sso_account_id", "sso_role_name"];
    let lacks = needed.into_iter().filter(|key| profile.get(key).is_none());
    let lacks: Vec<&str> = lacks.collect();
    if !lacks.is_empty() {
        return Err(settings::wrong(profile, &format!("has no {}", lacks.join(", no "))));
    }
    Ok(Session {
        name: None,
        start_url: required(profile, profile.get("sso_start_url"), "sso_start_url")?,
        region: region(profile, profile.get("sso_region"))?,
        scopes: Vec::new(),
    })
}

fn session_of_section<'f>(profile: &Profile<'f>, named: Setting<'f>) -> Result<Session, Denial> {
    let section = section(profile, named)?;
    // Contradictory values.
    let other = section.keys().filter_map(|key| profile.get(key).zip(section.get(key)));
    if let Some((own, _)) = other.into_iter().find(|(own, it)| own.lines() != it.lines()) {
        return Err(misconfigured(&own.wrong("isn't that of its sso_session: take it out")));
    }
    let scopes = match section.get("sso_registration_scopes") {
        Some(scopes) => settings::text(scopes)?,
        None => "sso:account:access",
    };
    Ok(Session {
        name: Some(settings::text(named)?.to_owned()),
        start_url: required(profile, section.get("sso_start_url"), "sso_start_url")?,
        region: region(profile, section.get("sso_region"))?,
        scopes: scopes.split(',').map(|scope| scope.trim().to_owned()).collect(),
    })
}

/// The role of the profile in the session.
pub(super) fn role(profile: &Profile<'_>, session: Session) -> Result<SsoRole, Denial> {
    // The section may contain settings that all of its profiles share.
    let shared = session.name.as_deref().and_then(|name| profile.files().sso_session(name));
    let either = |key| profile.get(key).or_else(|| shared.and_then(|section| section.get(key)));
    let account = required(profile, either("sso_account_id"), "sso_account_id")?;
    let role = required(profile, either("sso_role_name"), "sso_role_name")?;
    Ok(SsoRole { session, account, role })
}

fn required(
    profile: &Profile<'_>,
    setting: Option<Setting<'_>>,
    key: &str,
) -> Result<String, Denial> {
    match setting {
        Some(setting) => settings::text(setting).map(str::to_owned),
        None => Err(settings::wrong(profile, &format!("has no {key}"))),
    }
}

fn region(profile: &Profile<'_>, setting: Option<Setting<'_>>) -> Result<String, Denial> {
    let region = required(profile, setting, "sso_region")?;
    Ok(settings::without_comment(&region).to_owned())
}
