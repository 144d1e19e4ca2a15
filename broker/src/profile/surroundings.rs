//! What the environment says to the profiles.
//!
//! Invariant: it is read once, by the command line, and holds no key.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// What the environment says, read once at the start.
#[derive(Clone, Default)]
pub struct Surroundings {
    /// `AWS_REGION`.
    pub aws_region: Option<String>,
    /// `AWS_PROFILE`, which the default chain follows.
    pub aws_profile: Option<String>,
    /// `AWS_CA_BUNDLE`.
    pub ca_bundle: Option<PathBuf>,
    /// `HOME`, where the SSO cache is.
    pub home: Option<PathBuf>,
    /// All variables but keys; a `credential_process` gets some of them.
    pub variables: Vec<(OsString, OsString)>,
}

impl Surroundings {
    /// The config and the credentials file, as the SDK finds them.
    pub(super) fn aws_files(&self) -> [Option<PathBuf>; 2] {
        let at_home = |path: &str| self.home.as_ref().map(|home| home.join(path));
        let named = |variable: &str| {
            let path = self.variable(variable)?;
            let in_home = path.strip_prefix("~/").and_then(at_home);
            Some(in_home.unwrap_or_else(|| PathBuf::from(path)))
        };
        [
            named("AWS_CONFIG_FILE").or_else(|| at_home(".aws/config")),
            named("AWS_SHARED_CREDENTIALS_FILE").or_else(|| at_home(".aws/credentials")),
        ]
    }

    /// Where `aws login` keeps its sessions, as the SDK finds it.
    pub(super) fn login_cache(&self) -> Option<PathBuf> {
        let named = self.variable("AWS_LOGIN_CACHE_DIRECTORY").map(PathBuf::from);
        named.or_else(|| self.home.as_ref().map(|home| home.join(".aws/login/cache")))
    }

    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        let found = self.variables.iter().find(|(found, _)| found == name);
        found.and_then(|(_, value)| value.to_str()).filter(|value| !value.is_empty())
    }
}

/// The variables may hold other programs' secrets.
impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").field("home", &self.home).finish_non_exhaustive()
    }
}
