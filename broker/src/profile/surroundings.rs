//! The environment of the profiles.
//!
//! Invariant: it is read once, by the command line, and contains no key.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::values;

/// The environment at the start.
#[derive(Clone, Default)]
pub struct Surroundings {
    /// The home directory, from `HOME` or the user database.
    pub home: Option<PathBuf>,
    /// All variables except keys; a `credential_process` gets some of them.
    pub variables: Vec<(OsString, OsString)>,
}

/// Variables with a URL of a server for credentials.
const URLS: [&str; 7] = [
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_SIGNIN",
    "AWS_ENDPOINT_URL_SSO",
    "AWS_ENDPOINT_URL_SSO_OIDC",
    "AWS_ENDPOINT_URL_STS",
];

/// Variables that are `true` or `false`.
const SWITCHES: [&str; 5] = [
    "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_V1_DISABLED",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
];

impl Surroundings {
    /// Checks for invalid values.
    ///
    /// # Errors
    /// All variables with an invalid value: if they were ignored, a request for credentials could
    /// go to an unintended server or region.
    pub fn check(&self) -> Result<(), String> {
        let mut errors = Vec::new();
        let mut check = |name: &str, is: &dyn Fn(&str) -> bool, what: &str| {
            // A value that isn't UTF-8 is invalid too.
            let found = self.variables.iter().find(|(found, _)| found == name);
            if found
                .is_some_and(|(_, value)| !value.to_str().is_some_and(|it| it.is_empty() || is(it)))
            {
                errors.push(format!("{name} must be {what}: correct it, or unset it"));
            }
        };
        for name in URLS {
            check(name, &values::is_url, "a URL (https://…)");
        }
        for name in SWITCHES {
            check(name, &|value| values::switch(value).is_some(), "true or false");
        }
        for name in ["AWS_DEFAULT_REGION", "AWS_REGION"] {
            check(name, &values::is_region, "a region, like eu-west-1");
        }
        let mode = |mode: &str| ["ipv4", "ipv6"].iter().any(|it| mode.eq_ignore_ascii_case(it));
        check("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", &mode, "IPv4 or IPv6");
        let known =
            |it: &str| ["regional", "legacy"].iter().any(|one| it.eq_ignore_ascii_case(one));
        check("AWS_STS_REGIONAL_ENDPOINTS", &known, "regional or legacy");
        if errors.is_empty() { Ok(()) } else { Err(errors.join("\n")) }
    }

    /// The region with priority over the profiles': `AWS_DEFAULT_REGION`, like in boto3.
    #[must_use]
    pub fn first_region(&self) -> Option<&str> {
        self.variable("AWS_DEFAULT_REGION")
    }

    /// The region for profiles without one: `AWS_REGION`, which boto3 doesn't read.
    #[must_use]
    pub fn last_region(&self) -> Option<&str> {
        self.variable("AWS_REGION")
    }

    /// The profile of the default chain: `AWS_DEFAULT_PROFILE`, else `AWS_PROFILE`, like in boto3.
    pub(super) fn aws_profile(&self) -> Option<&str> {
        self.variable("AWS_DEFAULT_PROFILE").or_else(|| self.variable("AWS_PROFILE"))
    }

    pub(super) fn ca_bundle(&self) -> Option<PathBuf> {
        self.variable("AWS_CA_BUNDLE").map(PathBuf::from)
    }

    /// The paths of the config and the credentials file, like in the AWS CLI.
    pub(super) fn aws_files(&self) -> [Option<PathBuf>; 2] {
        let at_home = |path: &str| self.home.as_ref().map(|home| home.join(path));
        // An empty variable counts as unset, like in botocore.
        let path = |variable: &str, usual| match self.raw(variable) {
            Some("") => None,
            Some(path) => Some(self.expanded(path)),
            None => at_home(usual),
        };
        [
            path("AWS_CONFIG_FILE", ".aws/config"),
            path("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"),
        ]
    }

    /// The directory of the `aws login` sessions.
    pub(super) fn login_cache(&self) -> Option<PathBuf> {
        let named = self.variable("AWS_LOGIN_CACHE_DIRECTORY").map(|path| self.expanded(path));
        named.or_else(|| self.home.as_ref().map(|home| home.join(".aws/login/cache")))
    }

    /// The value of a variable, unless it is empty.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.raw(name).filter(|value| !value.is_empty())
    }

    fn raw(&self, name: &str) -> Option<&str> {
        let found = self.variables.iter().find(|(found, _)| found == name);
        found.and_then(|(_, value)| value.to_str())
    }

    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        self.variable(name).and_then(values::switch)
    }

    /// A path with `$NAME`, `${NAME}` and `~` replaced, like in Python's `expandvars` and `expanduser`.
    fn expanded(&self, path: &str) -> PathBuf {
        let mut expanded = String::new();
        let mut rest = path;
        while let Some((before, after)) = rest.split_once('$') {
            expanded.push_str(before);
            let (name, next) = match after.strip_prefix('{').and_then(|it| it.split_once('}')) {
                Some(braced) => braced,
                None => {
                    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                    after.split_at(after.find(|c| !word(c)).unwrap_or(after.len()))
                }
            };
            let value = self.variables.iter().find(|(found, _)| !name.is_empty() && found == name);
            match value.and_then(|(_, value)| value.to_str()) {
                Some(value) => expanded.push_str(value),
                // Unknown names are kept unchanged.
                None => expanded.push_str(&rest[before.len()..rest.len() - next.len()]),
            }
            rest = next;
        }
        expanded.push_str(rest);
        let at_home = |rest: &str| self.home.as_ref().map(|home| home.join(rest));
        match expanded.strip_prefix('~') {
            Some("") => self.home.clone(),
            Some(rest) => rest.strip_prefix('/').and_then(at_home),
            None => None,
        }
        .unwrap_or_else(|| Path::new(&expanded).to_owned())
    }
}

/// Shows no values, because the variables may contain secrets of other programs.
impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").field("home", &self.home).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Surroundings {
        Surroundings {
            home: Some("/home/u".into()),
            variables: variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        }
    }

    #[test]
    fn the_order_of_names_and_regions_is_that_of_boto3() {
        let both = with(&[("AWS_PROFILE", "b"), ("AWS_DEFAULT_PROFILE", "a")]);
        assert_eq!(both.aws_profile(), Some("a"));
        assert_eq!(
            with(&[("AWS_PROFILE", "b"), ("AWS_DEFAULT_PROFILE", "")]).aws_profile(),
            Some("b")
        );
        assert_eq!(with(&[]).aws_profile(), None);
        let both = with(&[("AWS_REGION", "eu-west-2"), ("AWS_DEFAULT_REGION", "eu-west-1")]);
        assert_eq!(
            (both.first_region(), both.last_region()),
            (Some("eu-west-1"), Some("eu-west-2"))
        );
    }

    #[test]
    fn paths_are_expanded_as_python_does() {
        // The expected values are those of os.path.expanduser(os.path.expandvars(…)).
        for (path, expanded) in [
            ("/a/b", "/a/b"),
            ("~/x", "/home/u/x"),
            ("~", "/home/u"),
            ("a~/x", "a~/x"),
            ("$DIR/x", "/d/x"),
            ("${DIR}x/$DIR", "/dx//d"),
            ("$NONE/x", "$NONE/x"),
            ("${NONE}/$", "${NONE}/$"),
            ("$$DIR", "$/d"),
            ("${DIR", "${DIR"),
        ] {
            let surroundings = with(&[("AWS_CONFIG_FILE", path), ("DIR", "/d")]);
            assert_eq!(surroundings.aws_files()[0], Some(PathBuf::from(expanded)), "{path}");
        }
    }

    #[test]
    fn invalid_variables_are_named_in_the_error() {
        for (name, value) in [
            ("AWS_USE_FIPS_ENDPOINT", "yes"),
            ("AWS_USE_DUALSTACK_ENDPOINT", "1"),
            ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "on"),
            ("AWS_ENDPOINT_URL", "localhost:4566"),
            ("AWS_ENDPOINT_URL_STS", "sts.example"),
            ("AWS_ENDPOINT_URL_SSO_OIDC", "ftp://x"),
            ("AWS_DEFAULT_REGION", "Europe (Ireland)"),
            ("AWS_REGION", "eu_west_1"),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "seven"),
            ("AWS_STS_REGIONAL_ENDPOINTS", "global"),
        ] {
            let error = with(&[(name, value)]).check().expect_err(name);
            assert!(error.contains(name) && !error.contains(value), "{error}");
            assert!(with(&[(name, "")]).check().is_ok(), "{name}: empty is unset");
        }
        let fine = [
            ("AWS_USE_FIPS_ENDPOINT", "True"),
            ("AWS_ENDPOINT_URL", "http://localhost:4566"),
            ("AWS_DEFAULT_REGION", "eu-west-1"),
            ("AWS_STS_REGIONAL_ENDPOINTS", "regional"),
        ];
        assert_eq!(with(&fine).check(), Ok(()));
    }
}
