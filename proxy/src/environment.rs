//! The environment, read once at the start, and left behind.
//!
//! Variables of AWS may be keys. They are the broker's: a proxy that finds any re-executes itself
//! without them, so that neither its memory nor `/proc/PID/environ` holds one. Settings that are no
//! secret are handed over under another name, for a broker that must be started again.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// In front of the name of a setting that was handed over.
pub const KEPT_PREFIX: &str = "SIGWARD_KEPT_";
/// Says that this process has re-executed itself, and how: see [`Handover`].
pub const HANDOVER: &str = "SIGWARD_HANDOVER";

/// Variables that hold keys or tokens themselves. A broker that had one can't be started again.
const KEYS: [&str; 4] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
];

/// Settings that are names, paths and switches, and never secret.
const SETTINGS: &[&str] = &[
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_DEFAULT_REGION",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
    "AWS_EC2_METADATA_V1_DISABLED",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_SIGNIN",
    "AWS_ENDPOINT_URL_SSO",
    "AWS_ENDPOINT_URL_SSO_OIDC",
    "AWS_ENDPOINT_URL_STS",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_LOGIN_CACHE_DIRECTORY",
    "AWS_MAX_ATTEMPTS",
    "AWS_MCP_PROXY_PROFILES",
    "AWS_METADATA_SERVICE_NUM_ATTEMPTS",
    "AWS_METADATA_SERVICE_TIMEOUT",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_RETRY_MODE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_SDK_LOAD_CONFIG",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_STS_REGIONAL_ENDPOINTS",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
];

/// What a process says to itself across its re-execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// The private broker's process, if one was started.
    pub broker: Option<i32>,
    /// Whether the environment held keys.
    pub keys_are_gone: bool,
}

/// The variables that this program looks at.
#[derive(Debug)]
pub struct Environment {
    all: BTreeMap<OsString, OsString>,
}

impl Environment {
    /// The environment of this process.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn of_process() -> Self {
        Self { all: std::env::vars_os().collect() }
    }

    /// A variable as text; none if it is empty. An AWS setting that was handed over counts.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.os(name).and_then(OsStr::to_str).filter(|value| !value.is_empty())
    }

    /// A variable as a path.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// A variable.
    #[must_use]
    pub fn os(&self, name: &str) -> Option<&OsStr> {
        let kept = || self.all.get(OsStr::new(&format!("{KEPT_PREFIX}{name}")));
        self.all.get(OsStr::new(name)).or_else(kept).map(OsString::as_os_str)
    }

    /// The names of all variables of AWS: what this process mustn't keep.
    #[must_use]
    pub fn aws_names(&self) -> Vec<&OsStr> {
        let names = self.all.keys().map(OsString::as_os_str);
        names.filter(|name| name.as_encoded_bytes().starts_with(b"AWS_")).collect()
    }

    /// The AWS settings that are no secret, by their own names.
    #[must_use]
    pub fn settings(&self) -> BTreeMap<String, OsString> {
        let found = SETTINGS
            .iter()
            .filter_map(|&name| self.os(name).map(|value| (name.to_owned(), value.to_owned())));
        found.collect()
    }

    /// Whether the environment holds keys.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        KEYS.iter().any(|name| self.all.contains_key(OsStr::new(name)))
    }

    /// What this process said to itself, if it has re-executed.
    #[must_use]
    pub fn handover(&self) -> Option<Handover> {
        Handover::read(self.all.get(OsStr::new(HANDOVER))?.to_str()?)
    }

    /// The names that a broker started later must not inherit.
    #[must_use]
    pub fn handover_names(&self) -> Vec<String> {
        let kept = self.all.keys().filter_map(|name| name.to_str());
        let kept = kept.filter(|name| name.starts_with(KEPT_PREFIX)).map(str::to_owned);
        kept.chain([HANDOVER.to_owned()]).collect()
    }
}

impl Handover {
    /// As the value of [`HANDOVER`].
    #[must_use]
    pub fn to_value(&self) -> String {
        let broker = self.broker.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        format!("{broker} {}", if self.keys_are_gone { "keys" } else { "-" })
    }

    fn read(value: &str) -> Option<Self> {
        let (broker, keys) = value.split_once(' ')?;
        Some(Self { broker: broker.parse().ok(), keys_are_gone: keys == "keys" })
    }
}

#[cfg(test)]
impl Environment {
    /// An environment of these variables.
    pub fn with(variables: &[(&str, &str)]) -> Self {
        Self { all: variables.iter().map(|(name, value)| (name.into(), value.into())).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_never_among_the_settings_that_are_kept() {
        let environment = Environment::with(&[
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_PROFILE", "dev"),
            ("AWS_BEARER_TOKEN_BEDROCK", "secret"),
            ("AWS_SOMETHING_NEW", "secret?"),
            ("PATH", "/bin"),
        ]);
        assert!(environment.has_keys());
        assert_eq!(environment.aws_names().len(), 4);
        let settings = environment.settings();
        assert_eq!(settings.keys().collect::<Vec<_>>(), ["AWS_PROFILE"]);
        assert!(KEYS.iter().all(|key| !SETTINGS.contains(key)));
    }

    #[test]
    fn what_was_handed_over_is_read_under_its_own_name() {
        let environment =
            Environment::with(&[("SIGWARD_KEPT_AWS_REGION", "eu-west-1"), (HANDOVER, "17 keys")]);
        assert_eq!(environment.text("AWS_REGION"), Some("eu-west-1"));
        let handover = environment.handover().unwrap();
        assert_eq!(handover, Handover { broker: Some(17), keys_are_gone: true });
        assert_eq!(Handover::read(&handover.to_value()), Some(handover));
        assert!(environment.aws_names().is_empty());
        assert!(Environment::with(&[]).handover().is_none());
    }
}
