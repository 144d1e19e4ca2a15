//! Keys in the files.

use aws_credential_types::Credentials;

use super::settings;
use crate::error::Denial;
use crate::profile::aws_files::{Profile, Setting, misconfigured};

/// The keys of one file, whose settings `get` returns: like botocore, keys aren't combined from
/// both files.
pub(super) fn keys<'f>(
    profile: &Profile<'f>,
    get: impl Fn(&str) -> Option<Setting<'f>>,
) -> Result<Credentials, Denial> {
    let needed = |key: &str| match get(key) {
        Some(setting) => settings::key(setting),
        None => Err(settings::wrong(profile, &format!("has no {key}"))),
    };
    let (id, secret) = (needed("aws_access_key_id")?, needed("aws_secret_access_key")?);
    // botocore prefers the older name; if the values differ, the intention isn't clear.
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
