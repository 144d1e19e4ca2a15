//! Checks the form of values in the AWS files and in the environment.

use url::Url;

/// Whether AWS can be called at this URL: a path is appended, so it must not have a query or a
/// fragment.
pub(super) fn is_url(text: &str) -> bool {
    let Ok(url) = Url::parse(text) else { return false };
    let ends_in_a_path = url.query().is_none() && url.fragment().is_none();
    ["http", "https"].contains(&url.scheme()) && url.has_host() && ends_in_a_path
}

/// Whether botocore accepts a region (`utils.validate_region_name`).
pub(super) fn is_region(text: &str) -> bool {
    text.len() <= 63
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && text.chars().any(|c| !c.is_ascii_digit())
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Parses `true` or `false`, in upper or lower case.
pub(super) fn switch(text: &str) -> Option<bool> {
    [("true", true), ("false", false)]
        .into_iter()
        .find_map(|(name, value)| text.eq_ignore_ascii_case(name).then_some(value))
}
