//! The narrower role of a profile, checked against the limits of STS: an error here has a line
//! number; an error of STS would only be a profile that doesn't work.

use std::time::Duration;

use super::model::Role;
use super::reader::Table;

/// The narrower role, if there is a `role_arn`.
pub(super) fn role(table: &Table<'_>) -> Option<Role> {
    let arn = table.text("role_arn").and_then(|text| {
        text.parse(|arn| {
            let parts: Vec<&str> = arn.splitn(6, ':').collect();
            matches!(parts.as_slice(), ["arn", _, "iam", "", _, role] if role.starts_with("role/"))
                .then(|| arn.to_owned())
                .ok_or_else(|| "must be a role's ARN: arn:aws:iam::ACCOUNT:role/NAME".to_owned())
        })
    });
    let session_policy = table.text("session_policy").and_then(|text| {
        text.parse(|json| match serde_json::from_str::<serde_json::Map<_, _>>(json) {
            Ok(_) => Ok(json.to_owned()),
            Err(error) => Err(format!("must be a policy in JSON: {error}")),
        })
    });
    let arns = table.texts("session_policy_arns").unwrap_or_default();
    if arns.len() > 10 {
        table.missing("session_policy_arns", "has too many: STS takes ten");
    }
    let arns: Vec<String> =
        arns.into_iter().filter_map(|text| Some(text.parse(policy_arn)?.value)).collect();
    let duration = table.text("duration").and_then(|text| text.parse(duration));
    let external_id = table.text("external_id").and_then(|text| text.parse(external_id));
    let session_name = table.text("session_name").and_then(|text| text.parse(session_name));
    if !table.has("role_arn") {
        for key in
            ["session_policy", "session_policy_arns", "duration", "external_id", "session_name"]
        {
            table.fault(key, "needs role_arn: it is about the role that is assumed on top");
        }
    }
    Some(Role {
        arn: arn?.value,
        session_policy: session_policy.map(|policy| policy.value),
        session_policy_arns: arns,
        duration: duration.map(|duration| duration.value),
        external_id: external_id.map(|id| id.value),
        session_name: session_name.map(|name| name.value),
    })
}

/// Parses times like `"15m"` or `"1h"`, from 15 minutes to 12 hours as STS allows.
fn duration(text: &str) -> Result<Duration, String> {
    let unit = |suffix, seconds: u64| {
        let number: u64 = text.strip_suffix(suffix)?.parse().ok()?;
        number.checked_mul(seconds)
    };
    unit("s", 1)
        .or_else(|| unit("m", 60))
        .or_else(|| unit("h", 3600))
        .filter(|seconds| (900..=43_200).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| "must be a time from \"15m\" to \"12h\"".to_owned())
}

/// Checks the ARN of a managed policy of AWS or of an account.
fn policy_arn(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    matches!(parts.as_slice(), ["arn", _, "iam", "", _, policy] if policy.starts_with("policy/"))
        .then(|| text.to_owned())
        .ok_or_else(|| "must be a policy's ARN: arn:aws:iam::aws:policy/NAME".to_owned())
}

/// Checks the characters that STS allows in an external id.
fn external_id(text: &str) -> Result<String, String> {
    let fits = (2..=1224).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+=,.@:/-".contains(&b));
    fits.then(|| text.to_owned())
        .ok_or_else(|| "must be 2 to 1224 letters, digits or any of _+=,.@:/-".to_owned())
}

/// Checks the characters that STS allows in a role session name.
fn session_name(text: &str) -> Result<String, String> {
    let fits = (2..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b));
    fits.then(|| text.to_owned())
        .ok_or_else(|| "must be 2 to 64 letters, digits or any of _+=,.@-".to_owned())
}
