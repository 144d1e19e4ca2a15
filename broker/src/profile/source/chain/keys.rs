//! Keys that stand in one of the files.

use aws_credential_types::Credentials;

use super::settings;
use crate::error::Denial;
use crate::profile::aws_files::{Profile, Setting, misconfigured};

/// Keys of one of the files, whose settings `get` gives: botocore makes none of two halves.
pub(super) fn keys<'f>(
    profile: &Profile<'f>,
    get: impl Fn(&str) -> Option<Setting<'f>>,
) -> Result<Credentials, Denial> {
    let needed = |key: &str| match get(key) {
        Some(setting) => settings::key(setting),
        None => Err(settings::wrong(profile, &format!("has no {key}"))),
    };
    let (id, secret) = (needed("aws_access_key_id")?, needed("aws_secret_access_key")?);
    // botocore takes the older name first; where the names disagree, nobody can say what was meant.
    let token = |key| match get(key) {
        Some(setting) if setting.text() == Ok("") => Ok(Some((setting, ""))),
        Some(setting) => settings::key(setting).map(|text| Some((setting, text))),
        None => Ok(None),
    };
    let (older, token) = (token("aws_security_token")?, token("aws_session_token")?);
    if let (Some((setting, older)), Some((_, token))) = (&older, &token)
        && older != token
    {
        let what = "and aws_session_token differ: keep aws_session_token, or take both out";
        return Err(misconfigured(&setting.wrong(what)));
    }
    let token = older.or(token).map(|(_, text)| text).filter(|text| !text.is_empty());
    Ok(Credentials::new(id, secret, token.map(str::to_owned), None, "profile"))
}
