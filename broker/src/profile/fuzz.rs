//! The parsers of files and output of AWS's programs, for the fuzz targets ([`crate::fuzz`]). They
//! return no secret.

use std::path::Path;
use std::time::SystemTime;

use super::aws_files::AwsFiles;
use super::{login_token, source, time, token};

/// These settings of these profiles, one profile after the other, or the error of the files or of a
/// setting.
pub(crate) fn settings(
    config: &str,
    credentials: &str,
    profiles: &[&str],
    keys: &[&str],
) -> Vec<Result<Option<String>, String>> {
    let (config, credentials) = ((Path::new("config"), config), (Path::new("keys"), credentials));
    let files = match AwsFiles::read(config, credentials) {
        Ok(files) => files,
        Err(error) => return vec![Err(error.to_string())],
    };
    let mut found = Vec::new();
    for profile in profiles.iter().map(|name| files.profile(name)) {
        for key in keys {
            let setting = profile.as_ref().and_then(|profile| profile.get(key));
            let text = setting.map(|setting| setting.text().map(str::to_owned));
            found.push(text.transpose().map_err(|error| error.to_string()));
        }
    }
    found
}

/// The expiry of an IAM Identity Center token.
pub(crate) fn sso_token(json: &[u8]) -> Option<SystemTime> {
    token::parse(json).map(|token| token.expiry)
}

/// The expiry of an `aws login` session.
pub(crate) fn login_token(json: &[u8]) -> Result<SystemTime, String> {
    login_token::parse(json).map(|token| token.expiry)
}

/// The key id and the expiry in the output of a `credential_process`.
pub(crate) fn process_output(text: &str) -> Result<(String, Option<SystemTime>), &'static str> {
    source::child::parse(text).map(|keys| (keys.access_key_id().to_owned(), keys.expiry()))
}

/// A point in time.
pub(crate) fn point_in_time(text: &str) -> Option<SystemTime> {
    time::parse(text)
}
