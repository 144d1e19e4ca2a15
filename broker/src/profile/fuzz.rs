//! The parsers of what AWS's programs write, for the fuzz targets ([`crate::fuzz`]). No secret gets out of here.

use std::path::Path;
use std::time::SystemTime;

use super::aws_files::AwsFiles;
use super::{login_token, source, time, token};

/// A setting of a profile. The error is what is wrong with the files, or with the setting.
pub(crate) fn setting(
    config: &str,
    credentials: &str,
    profile: &str,
    key: &str,
) -> Result<Option<String>, String> {
    let (config, credentials) = ((Path::new("config"), config), (Path::new("keys"), credentials));
    let files = AwsFiles::read(config, credentials).map_err(|error| error.to_string())?;
    let Some(profile) = files.profile(profile) else { return Ok(None) };
    let setting = profile.get(key).map(|setting| setting.text().map(str::to_owned));
    setting.transpose().map_err(|error| error.to_string())
}

/// The expiry of a token of IAM Identity Center.
pub(crate) fn sso_token(json: &[u8]) -> Option<SystemTime> {
    token::parse(json).map(|token| token.expiry)
}

/// The expiry of a session of `aws login`.
pub(crate) fn login_token(json: &[u8]) -> Result<SystemTime, String> {
    login_token::parse(json).map(|token| token.expiry)
}

/// The key id and the expiry that a `credential_process` printed.
pub(crate) fn process_output(text: &str) -> Result<(String, Option<SystemTime>), &'static str> {
    source::child::parse(text).map(|keys| (keys.access_key_id().to_owned(), keys.expiry()))
}

/// A point in time.
pub(crate) fn point_in_time(text: &str) -> Option<SystemTime> {
    time::parse(text)
}
