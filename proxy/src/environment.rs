//! The environment, read once at the start and then dropped.
//!
//! AWS variables may be keys, which only the broker may have. A proxy that finds any AWS variable
//! re-executes itself without them, so that neither its memory nor `/proc/PID/environ` contains a
//! key. Settings that aren't secret are passed under another name, for a broker that must be
//! restarted.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// The prefix of a passed setting's name.
pub const KEPT_PREFIX: &str = "SIGWARD_KEPT_";
/// The variable that tells that this process has re-executed itself, and how: see [`Handover`].
pub const HANDOVER: &str = "SIGWARD_HANDOVER";

/// The variable by which the AWS CLI recognises keys in the environment.
const ACCESS_KEY: &str = "AWS_ACCESS_KEY_ID";

/// The other variables that contain keys or tokens. A broker that had one can't be restarted.
const KEYS: [&str; 4] = [
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SECURITY_TOKEN",
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
    "AWS_DEFAULT_PROFILE",
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

/// The state that a process passes to itself when it re-executes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// The process id of the private broker, if one was started.
    pub broker: Option<i32>,
    /// The keys that the environment had.
    pub keys: Keys,
    /// Why no private broker could be started, if one was wanted.
    pub failure: Option<String>,
}

/// The keys that an environment has, or had before the re-execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// No keys.
    None,
    /// Only the token of a container's credentials, or an incomplete key.
    Token,
    /// An access key, which the AWS CLI prefers to a profile of the environment.
    AccessKey,
}

/// The variables that this program reads.
#[derive(Debug)]
pub struct Environment {
    all: BTreeMap<OsString, OsString>,
    handover: Option<Handover>,
}

impl Environment {
    /// The environment of this process.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn of_process() -> Self {
        Self::new(std::env::vars_os().collect(), std::process::id())
    }

    /// The environment of the process `pid`. State of another process is ignored; `exec` keeps the
    /// process id.
    fn new(all: BTreeMap<OsString, OsString>, pid: u32) -> Self {
        let value = all.get(OsStr::new(HANDOVER)).and_then(|value| value.to_str());
        let handover = value.and_then(|value| Handover::read(value, pid));
        Self { all, handover }
    }

    /// A variable as text; `None` if it is empty. Passed AWS settings are included.
    ///
    /// # Errors
    /// It isn't UTF-8. Treating it as unset could mean another profile or region.
    pub fn text(&self, name: &str) -> Result<Option<&str>, String> {
        match self.os(name).filter(|value| !value.is_empty()).map(OsStr::to_str) {
            None => Ok(None),
            Some(Some(text)) => Ok(Some(text)),
            Some(None) => Err(format!("the environment variable {name} isn't UTF-8; set it again")),
        }
    }

    /// A variable as a path.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// A variable's value.
    #[must_use]
    pub fn os(&self, name: &str) -> Option<&OsStr> {
        let kept = || {
            self.handover.as_ref()?;
            self.all.get(OsStr::new(&format!("{KEPT_PREFIX}{name}")))
        };
        self.all.get(OsStr::new(name)).or_else(kept).map(OsString::as_os_str)
    }

    /// The names of all AWS variables, which this process must drop.
    #[must_use]
    pub fn aws_names(&self) -> Vec<&OsStr> {
        let names = self.all.keys().map(OsString::as_os_str);
        names.filter(|name| name.as_encoded_bytes().starts_with(b"AWS_")).collect()
    }

    /// The AWS settings that aren't secret, by their original names.
    #[must_use]
    pub fn settings(&self) -> BTreeMap<String, OsString> {
        let found = SETTINGS
            .iter()
            .filter_map(|&name| self.os(name).map(|value| (name.to_owned(), value.to_owned())));
        found.collect()
    }

    /// The keys that the environment has, or had before the re-execution.
    #[must_use]
    pub fn keys(&self) -> Keys {
        let is_set =
            |name: &str| self.all.get(OsStr::new(name)).is_some_and(|value| !value.is_empty());
        if is_set(ACCESS_KEY) {
            Keys::AccessKey
        } else if KEYS.into_iter().any(is_set) {
            Keys::Token
        } else {
            self.handover.as_ref().map_or(Keys::None, |handover| handover.keys)
        }
    }

    /// The passed state, if this process has re-executed itself.
    #[must_use]
    pub fn handover(&self) -> Option<&Handover> {
        self.handover.as_ref()
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
    /// Whether a private broker was wanted, started or not.
    #[must_use]
    pub fn wanted_broker(&self) -> bool {
        self.broker.is_some() || self.failure.is_some()
    }

    /// The value of [`HANDOVER`] for the process `pid`.
    #[must_use]
    pub fn to_value(&self, pid: u32) -> String {
        let broker = self.broker.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let keys = match self.keys {
            Keys::None => "-",
            Keys::Token => "token",
            Keys::AccessKey => "keys",
        };
        let failure = self.failure.as_deref().unwrap_or_default().replace('\0', " ");
        format!("{pid} {broker} {keys} {failure}")
    }

    fn read(value: &str, pid: u32) -> Option<Self> {
        let mut parts = value.splitn(4, ' ');
        if parts.next()?.parse() != Ok(pid) {
            return None;
        }
        let broker = parts.next()?.parse().ok();
        let keys = match parts.next()? {
            "keys" => Keys::AccessKey,
            "token" => Keys::Token,
            _ => Keys::None,
        };
        let failure = parts.next().filter(|failure| !failure.is_empty()).map(str::to_owned);
        Some(Self { broker, keys, failure })
    }
}

#[cfg(test)]
impl Environment {
    /// The process id of the environment that [`Environment::with`] makes.
    pub const PID: u32 = 17;

    /// An environment with these variables.
    pub fn with(variables: &[(&str, &str)]) -> Self {
        let all = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self::new(all, Self::PID)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_never_passed_as_settings() {
        let environment = Environment::with(&[
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_SECURITY_TOKEN", "secret"),
            ("AWS_PROFILE", "dev"),
            ("AWS_BEARER_TOKEN_BEDROCK", "secret"),
            ("AWS_SOMETHING_NEW", "secret?"),
            ("PATH", "/bin"),
        ]);
        assert_eq!(environment.keys(), Keys::Token);
        assert_eq!(environment.aws_names().len(), 5);
        let settings = environment.settings();
        assert_eq!(settings.keys().collect::<Vec<_>>(), ["AWS_PROFILE"]);
        assert!(KEYS.iter().all(|key| !SETTINGS.contains(key)));
        assert!(!SETTINGS.contains(&ACCESS_KEY));
    }

    #[test]
    fn empty_keys_are_none() {
        let empty = [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "")];
        assert_eq!(Environment::with(&empty).keys(), Keys::None);
        let key = [("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "secret")];
        assert_eq!(Environment::with(&key).keys(), Keys::AccessKey);
    }

    #[test]
    fn a_passed_setting_is_read_by_its_original_name() {
        let region = ("SIGWARD_KEPT_AWS_REGION", "eu-west-1");
        let environment = Environment::with(&[region, (HANDOVER, "17 18 keys ")]);
        assert_eq!(environment.text("AWS_REGION"), Ok(Some("eu-west-1")));
        assert_eq!(environment.keys(), Keys::AccessKey);
        let handover = environment.handover().unwrap();
        let expected = Handover { broker: Some(18), keys: Keys::AccessKey, failure: None };
        assert_eq!(handover, &expected);
        assert!(environment.aws_names().is_empty());
        assert!(Environment::with(&[]).handover().is_none());
        let failure = Some("can't start /x y: no".to_owned());
        for handover in [expected, Handover { broker: None, keys: Keys::None, failure }] {
            assert_eq!(Handover::read(&handover.to_value(17), 17), Some(handover));
        }
    }

    /// A variable that the parent process has set, or left, must not prevent this process from dropping the keys.
    #[test]
    fn state_of_another_process_is_ignored() {
        let region = ("SIGWARD_KEPT_AWS_REGION", "eu-west-1");
        for value in ["- -", "", "18 19 keys ", "-17 - -", "017x - - "] {
            let environment = Environment::with(&[region, (HANDOVER, value)]);
            assert!(environment.handover().is_none(), "{value:?}");
            assert_eq!(environment.text("AWS_REGION"), Ok(None), "{value:?}");
            assert_eq!(environment.keys(), Keys::None);
            assert_eq!(environment.handover_names().len(), 2, "a broker gets neither");
        }
    }

    #[test]
    fn a_variable_that_is_not_utf8_is_an_error() {
        use std::os::unix::ffi::OsStringExt;
        let value = OsString::from_vec(b"p\xff".to_vec());
        let environment = Environment::new([("AWS_PROFILE".into(), value)].into(), 1);
        assert!(environment.text("AWS_PROFILE").unwrap_err().contains("AWS_PROFILE"));
    }
}
