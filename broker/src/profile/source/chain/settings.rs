//! The other settings: which ones determine the credentials, which are refused, and the required
//! form of their values.
//!
//! The attack, or the mistake: a setting that is ignored, or a value that is read differently,
//! makes the profile sign as another identity, or sends its token to another server.

use zeroize::Zeroizing;

use crate::error::{Denial, Reason};
use crate::profile::aws_files::{Profile, Setting, misconfigured};
use crate::profile::source::base::{Endpoints, Named};
use crate::profile::values;

/// The settings that determine credentials: a change of any of these makes it another profile.
const DECIDING: [&str; 30] = [
    "aws_access_key_id",
    "aws_account_id",
    "aws_secret_access_key",
    "aws_security_token",
    "aws_session_token",
    "ca_bundle",
    "credential_process",
    "credential_source",
    "duration_seconds",
    "ec2_metadata_service_endpoint",
    "ec2_metadata_service_endpoint_mode",
    "endpoint_url",
    "external_id",
    "ignore_configured_endpoint_urls",
    "login_session",
    "mfa_serial",
    "region",
    "role_arn",
    "role_session_name",
    "services",
    "source_identity",
    "source_profile",
    "sso_account_id",
    "sso_region",
    "sso_role_name",
    "sso_session",
    "sso_start_url",
    "use_dualstack_endpoint",
    "use_fips_endpoint",
    "web_identity_token_file",
];

/// Those that may be empty, which counts as missing.
const MAY_BE_EMPTY: [&str; 4] = ["aws_security_token", "aws_session_token", "ca_bundle", "region"];

/// An error of the profile as a whole.
pub(super) fn wrong(profile: &Profile<'_>, what: &str) -> Denial {
    misconfigured(&profile.wrong(format!("the profile {} {what}", profile.name)))
}

fn unsupported(setting: Setting<'_>, why: &str) -> Denial {
    Denial::new(Reason::UnsupportedProfileSetting, setting.wrong(why).to_string())
}

/// A value that must not be empty.
pub(super) fn text(setting: Setting<'_>) -> Result<&str, Denial> {
    match setting.text() {
        Ok("") => Err(misconfigured(&setting.wrong("is empty"))),
        Ok(text) => Ok(text),
        Err(error) => Err(misconfigured(&error)),
    }
}

/// A key or a token: one word, without quotation marks, which the AWS CLI would read as a part of it.
pub(super) fn key(setting: Setting<'_>) -> Result<&str, Denial> {
    let key = text(setting)?;
    if key.starts_with(['"', '\'']) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        let what = "contains characters that keys don't have: quotation marks, white space, or a character beyond ASCII; a comment \
                    behind a value is a part of it for the AWS CLI";
        return Err(misconfigured(&setting.wrong(what)));
    }
    Ok(key)
}

/// The ARN of a role.
pub(super) fn arn(setting: Setting<'_>) -> Result<&str, Denial> {
    let arn = text(setting)?;
    if !arn.starts_with("arn:") || arn.contains(char::is_whitespace) {
        let what = "isn't the ARN of a role (arn:aws:iam::ACCOUNT:role/NAME, without quotation marks, and without a \
                    comment behind it)";
        return Err(misconfigured(&setting.wrong(what)));
    }
    Ok(arn)
}

/// A value for display, or for code that reports errors itself; `None` if it is empty.
pub(super) fn value<'f>(profile: Option<&Profile<'f>>, key: &str) -> Option<&'f str> {
    let text = profile?.get(key)?.text().ok()?;
    Some(text).filter(|text| !text.is_empty())
}

/// A region without a comment behind it. The AWS CLI reads the comment as a part of the value,
/// which isn't a valid region, so that the intention is clear.
pub(super) fn without_comment(region: &str) -> &str {
    let comment = |(at, _): &(usize, &str)| region[..*at].ends_with([' ', '\t']);
    let mut marks = region.match_indices(['#', ';']);
    marks.find(comment).map_or(region, |(at, _)| region[..at].trim_end())
}

/// Refuses values that can't be valid in any setting: empty ones, and those that continue on
/// further lines.
pub(super) fn check_values(profile: &Profile<'_>) -> Result<(), Denial> {
    for key in DECIDING {
        let Some(setting) = profile.get(key) else { continue };
        // A command may have several lines.
        if key == "credential_process" {
            continue;
        }
        match setting.text() {
            Ok("") if MAY_BE_EMPTY.contains(&key) => {}
            _ => drop(text(setting)?),
        }
    }
    Ok(())
}

/// Refuses an invalid region. The region of a source profile isn't used.
pub(super) fn of_region(profile: &Profile<'_>) -> Result<(), Denial> {
    let Some(setting) = profile.get("region") else { return Ok(()) };
    let region = match setting.text() {
        Ok(region) => without_comment(region),
        // The value has several lines.
        Err(_) => return text(setting).map(drop),
    };
    if region.is_empty() || values::is_region(region) {
        return Ok(());
    }
    Err(misconfigured(&setting.wrong("isn't a region: it may have letters, digits and '-'")))
}

/// The profile's settings that determine the credentials, as text.
pub(super) fn deciding(profile: &Profile<'_>) -> Zeroizing<String> {
    let mut text = Zeroizing::new(profile.name.to_owned());
    for key in DECIDING {
        // The file that contains the keys matters too.
        for setting in [profile.in_config(key), profile.in_credentials(key)] {
            text.push('\0');
            if let Some(setting) = setting {
                for part in [key, "\0", setting.lines()] {
                    text.push_str(part);
                }
            }
        }
    }
    text
}

/// The URL of the machine's metadata service.
pub(super) fn metadata(profile: Option<&Profile<'_>>) -> String {
    let get = |key| value(profile, key);
    let mode = get("ec2_metadata_service_endpoint_mode").unwrap_or_default();
    let usual = if mode.eq_ignore_ascii_case("ipv6") {
        "http://[fd00:ec2::254]"
    } else {
        "http://169.254.169.254"
    };
    get("ec2_metadata_service_endpoint").unwrap_or(usual).to_owned()
}

/// Parses `credential_source`.
pub(super) fn named(setting: Setting<'_>) -> Result<Named, Denial> {
    match text(setting)? {
        "Environment" => Ok(Named::Environment),
        "Ec2InstanceMetadata" => Ok(Named::InstanceMetadata),
        "EcsContainer" => Ok(Named::Container),
        _ => {
            let what = "must be Environment, Ec2InstanceMetadata or EcsContainer";
            Err(misconfigured(&setting.wrong(what)))
        }
    }
}

/// Refuses unsupported settings about roles.
pub(super) fn of_roles(profile: &Profile<'_>) -> Result<(), Denial> {
    // Settings of aws-vault, and settings that people may expect here because they are in the
    // broker's own configuration: all of them restrict the role.
    let narrowing =
        ["session_tags", "transitive_session_tags", "session_policy", "session_policy_arns"];
    if let Some(setting) = narrowing.into_iter().find_map(|key| profile.get(key)) {
        let why =
            "isn't a setting of the AWS files; the broker's configuration has session policies";
        return Err(unsupported(setting, why));
    }
    let (useless, why): (&[&str], _) = if profile.get("role_arn").is_none() {
        let of_a_role =
            &["duration_seconds", "external_id", "role_session_name", "source_identity"];
        (of_a_role, "is about a role, and the profile assumes none")
    } else if profile.get("web_identity_token_file").is_some() {
        // A source identity comes from the token's own claims.
        (&["external_id", "source_identity"], "can't be set with a web identity")
    } else {
        return Ok(());
    };
    match useless.iter().find_map(|key| profile.get(key)) {
        Some(setting) => Err(unsupported(setting, why)),
        None => Ok(()),
    }
}

/// The profile's settings about the endpoints of services that return credentials. Only the
/// settings of the named profile count, not those of its source.
///
/// # Errors
/// Unsupported settings.
pub(super) fn of_calls(profile: &Profile<'_>) -> Result<Endpoints, Denial> {
    let switch = |key| {
        let Some(setting) = profile.get(key) else { return Ok(None) };
        let wrong = || misconfigured(&setting.wrong("must be true or false"));
        values::switch(text(setting)?).map(Some).ok_or_else(wrong)
    };
    if let Some(setting) = profile.get("ec2_metadata_service_endpoint_mode")
        && !["ipv4", "ipv6"]
            .iter()
            .any(|it| text(setting).is_ok_and(|mode| mode.eq_ignore_ascii_case(it)))
    {
        return Err(misconfigured(&setting.wrong("must be IPv4 or IPv6")));
    }
    let url = |setting: Setting<'_>, url: &str, what: &str| {
        let wrong = || misconfigured(&setting.wrong(format!("{what}must be a URL: https://…")));
        values::is_url(url).then(|| url.to_owned()).ok_or_else(wrong)
    };
    let own = |key| {
        let Some(setting) = profile.get(key) else { return Ok(None) };
        url(setting, text(setting)?, "").map(Some)
    };
    own("ec2_metadata_service_endpoint")?;
    let for_all = own("endpoint_url")?;
    let of_service = |service: &str| {
        let Some(setting) = service_of(profile, service)? else { return Ok(for_all.clone()) };
        let nested = setting.nested("endpoint_url").map_err(|error| misconfigured(&error))?;
        let url = |found| url(setting, found, "has an endpoint_url, which ").map(Some);
        nested.map_or(Ok(for_all.clone()), url)
    };
    // The name in other SDKs: the AWS CLI would call another server.
    if let Some(setting) = service_of(profile, "sso-oidc")? {
        return Err(unsupported(setting, "isn't read by the AWS CLI, which calls it sso_oidc"));
    }
    let legacy = |setting: &Setting<'_>| {
        !text(*setting).is_ok_and(|value| value.eq_ignore_ascii_case("regional"))
    };
    if let Some(setting) = profile.get("sts_regional_endpoints").filter(legacy)
        && profile.get("role_arn").is_some()
    {
        return Err(unsupported(
            setting,
            "is refused: STS is asked in the profile's region here, so take it out",
        ));
    }
    Ok(Endpoints {
        sts: of_service("sts")?,
        sso: of_service("sso")?,
        sso_oidc: of_service("sso_oidc")?,
        ignore: switch("ignore_configured_endpoint_urls")?,
        use_fips: switch("use_fips_endpoint")?,
        use_dual_stack: switch("use_dualstack_endpoint")?,
    })
}

/// The settings for a service in the profile's `services` section.
fn service_of<'f>(profile: &Profile<'f>, service: &str) -> Result<Option<Setting<'f>>, Denial> {
    let Some(setting) = profile.get("services") else { return Ok(None) };
    let name = text(setting)?;
    let section = profile.files().services(name).ok_or_else(|| {
        let what =
            format!("names {name:?}: there is no services section {name} in the config file");
        misconfigured(&setting.wrong(what))
    })?;
    match section.error() {
        Some(error) => Err(misconfigured(&error)),
        None => Ok(section.get(service)),
    }
}

/// Refuses endpoints for renewing a session of `aws login`, because only the environment can set one.
pub(super) fn of_sign_ins(profile: &Profile<'_>) -> Result<(), Denial> {
    let own = profile.get("endpoint_url");
    let of_service = service_of(profile, "signin")?.and_then(|_| profile.get("services"));
    let why =
        "is refused with a login_session: only AWS_ENDPOINT_URL_SIGNIN sets where that is renewed";
    own.or(of_service).map_or(Ok(()), |setting| Err(unsupported(setting, why)))
}

/// Refuses a profile that has both: the SDKs disagree about the priority.
pub(super) fn only_one_of(profile: &Profile<'_>, keys: [&str; 2]) -> Result<(), Denial> {
    match keys.map(|key| profile.get(key)) {
        [Some(first), Some(_)] => {
            let what =
                format!("and {} both stand in the profile {}: keep one", keys[1], profile.name);
            Err(misconfigured(&first.wrong(what)))
        }
        _ => Ok(()),
    }
}
