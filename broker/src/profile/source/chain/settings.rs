//! The settings beside those that say how credentials are had: which ones decide, and which are refused.
//!
//! The SDK reads over what it doesn't know, and over values that it can't read: the profile would then sign as
//! somebody else, or its token go to another server, than what stands there says.

use aws_config::profile::{Profile, ProfileSet};
use aws_runtime::env_config::property::PropertiesKey;
use sigward_proto::v1::Reason;
use url::Url;
use zeroize::Zeroizing;

use super::wrong;
use crate::error::Denial;

/// What decides about credentials: a change of any of these is another profile.
const DECIDING: [&str; 29] = [
    "aws_access_key_id",
    "aws_account_id",
    "aws_secret_access_key",
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

/// What is called for credentials, as the SDK names it in a `services` section.
const SERVICES: [&str; 4] = ["sts", "sso", "sso-oidc", "signin"];

/// The profile's settings that decide, as text.
pub(super) fn deciding(profile: &Profile) -> Zeroizing<String> {
    let mut text = Zeroizing::new(profile.name().to_owned());
    for key in DECIDING {
        if let Some(value) = profile.get(key) {
            for part in ["\0", key, "\0", value] {
                text.push_str(part);
            }
        }
    }
    text
}

/// The same of its `services` section.
pub(super) fn of_services(sections: &ProfileSet, profile: &Profile) -> String {
    let urls = SERVICES.map(|service| endpoint_url(sections, profile, service).unwrap_or_default());
    urls.join("\0")
}

fn endpoint_url<'s>(sections: &'s ProfileSet, profile: &Profile, service: &str) -> Option<&'s str> {
    let key = PropertiesKey::builder()
        .section_key("services")
        .section_name(profile.get("services")?)
        .property_name(service)
        .sub_property_name("endpoint_url");
    sections.other_sections().get(&key.build().ok()?).map(String::as_str)
}

/// Where the machine's metadata service is.
pub(super) fn metadata(profile: Option<&Profile>) -> String {
    let get = |key| profile.and_then(|profile| profile.get(key));
    let mode = get("ec2_metadata_service_endpoint_mode").unwrap_or_default();
    let usual = if mode.eq_ignore_ascii_case("ipv6") {
        "http://[fd00:ec2::254]"
    } else {
        "http://169.254.169.254"
    };
    get("ec2_metadata_service_endpoint").unwrap_or(usual).to_owned()
}

/// Refuses what can't be done about roles.
pub(super) fn of_roles(profile: &Profile) -> Result<(), Denial> {
    // What aws-vault reads, and what people expect here since our own configuration has it: all of it makes the role
    // narrower.
    let narrowing =
        ["session_tags", "transitive_session_tags", "session_policy", "session_policy_arns"];
    if let Some(key) = narrowing.into_iter().find(|key| profile.get(key).is_some()) {
        let why =
            "isn't a setting of the AWS files; the broker's configuration has session policies";
        return Err(unsupported(profile, key, why));
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
    match useless.iter().find(|key| profile.get(key).is_some()) {
        Some(key) => Err(unsupported(profile, key, why)),
        None => Ok(()),
    }
}

/// Refuses what can't be done about the servers that are asked for credentials. Only the settings of the profile that
/// is named count there, not those of its source.
pub(super) fn of_calls(sections: &ProfileSet, profile: &Profile) -> Result<(), Denial> {
    let switches =
        ["ignore_configured_endpoint_urls", "use_dualstack_endpoint", "use_fips_endpoint"];
    for key in switches {
        let known = |value: &str| ["true", "false"].iter().any(|it| value.eq_ignore_ascii_case(it));
        if profile.get(key).is_some_and(|value| !known(value)) {
            return Err(wrong(profile, &format!("{key} must be true or false")));
        }
    }
    let mode = profile.get("ec2_metadata_service_endpoint_mode");
    if mode.is_some_and(|mode| !["ipv4", "ipv6"].iter().any(|it| mode.eq_ignore_ascii_case(it))) {
        return Err(wrong(profile, "ec2_metadata_service_endpoint_mode must be IPv4 or IPv6"));
    }
    let own = ["endpoint_url", "ec2_metadata_service_endpoint"].map(|key| profile.get(key));
    let of_services = SERVICES.map(|service| endpoint_url(sections, profile, service));
    for url in of_services.into_iter().chain(own).flatten() {
        let url = Url::parse(url).ok();
        if !url.is_some_and(|url| ["http", "https"].contains(&url.scheme()) && url.has_host()) {
            let what = "endpoint_url and ec2_metadata_service_endpoint must be URLs: https://…";
            return Err(wrong(profile, what));
        }
    }
    // The name that AWS documents, which the SDK doesn't know.
    if endpoint_url(sections, profile, "sso_oidc").is_some() {
        return Err(unsupported(profile, "services", "its sso_oidc can't be honoured here"));
    }
    let legacy = |value: &str| !value.eq_ignore_ascii_case("regional");
    if profile.get("role_arn").is_some()
        && profile.get("sts_regional_endpoints").is_some_and(legacy)
    {
        let why = "STS is asked in the profile's region here: take it out";
        return Err(unsupported(profile, "sts_regional_endpoints", why));
    }
    Ok(())
}

/// Refuses to renew a session of `aws login` at another server than the profile says: the SDK takes the environment's
/// word alone for that.
pub(super) fn of_sign_ins(sections: &ProfileSet, profile: &Profile) -> Result<(), Denial> {
    let own = profile.get("endpoint_url").map(|_| "endpoint_url");
    let of_service = endpoint_url(sections, profile, "signin").map(|_| "services");
    let why = "with a login_session, only AWS_ENDPOINT_URL_SIGNIN says where it is renewed";
    own.or(of_service).map_or(Ok(()), |key| Err(unsupported(profile, key, why)))
}

/// Refuses a profile that has both: the SDKs don't agree on which one comes first.
pub(super) fn only_one_of(profile: &Profile, keys: [&str; 2]) -> Result<(), Denial> {
    match keys.iter().all(|key| profile.get(key).is_some()) {
        true => Err(wrong(profile, &format!("has {} and {}: keep one", keys[0], keys[1]))),
        false => Ok(()),
    }
}

fn unsupported(profile: &Profile, key: &str, why: &str) -> Denial {
    let detail = format!("{key} in the profile {}: {why}", profile.name());
    Denial::new(Reason::UnsupportedProfileSetting, detail)
}
