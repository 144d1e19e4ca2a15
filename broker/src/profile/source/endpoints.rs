//! The endpoints of the services that return credentials: botocore's `ConfiguredEndpointProvider`.
//!
//! The SDK would read the environment and the AWS files in another order. The attack, or the
//! mistake: a request for credentials goes to another server than the AWS CLI's, and carries a
//! person's token there.

use aws_types::service_config::{LoadServiceConfig, ServiceConfigKey};

use super::base;
use crate::profile::surroundings::Surroundings;

/// The endpoints in the environment.
#[derive(Debug, Clone, Default)]
pub(super) struct FromEnvironment {
    sts: Option<String>,
    sso: Option<String>,
    sso_oidc: Option<String>,
    signin: Option<String>,
    for_all: Option<String>,
    ignore: Option<bool>,
    pub(super) use_fips: Option<bool>,
    pub(super) use_dual_stack: Option<bool>,
}

/// The resulting endpoints; `None` for a service stands for the SDK's default.
#[derive(Debug)]
pub(super) struct Decided {
    sts: Option<String>,
    sso: Option<String>,
    sso_oidc: Option<String>,
    signin: Option<String>,
}

impl FromEnvironment {
    pub(super) fn new(surroundings: &Surroundings) -> Self {
        let variable = |name| surroundings.variable(name).map(str::to_owned);
        Self {
            sts: variable("AWS_ENDPOINT_URL_STS"),
            sso: variable("AWS_ENDPOINT_URL_SSO"),
            sso_oidc: variable("AWS_ENDPOINT_URL_SSO_OIDC"),
            signin: variable("AWS_ENDPOINT_URL_SIGNIN"),
            for_all: variable("AWS_ENDPOINT_URL"),
            ignore: surroundings.switch("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"),
            use_fips: surroundings.switch("AWS_USE_FIPS_ENDPOINT"),
            use_dual_stack: surroundings.switch("AWS_USE_DUALSTACK_ENDPOINT"),
        }
    }

    /// Combines them with a profile's. The environment has priority: its variable for the service,
    /// then the one for all services.
    pub(super) fn with(&self, profile: &base::Endpoints) -> Decided {
        if self.ignore.or(profile.ignore) == Some(true) {
            return Decided { sts: None, sso: None, sso_oidc: None, signin: None };
        }
        let first = |own: &Option<String>, of_profile: &Option<String>| {
            own.as_ref().or(self.for_all.as_ref()).or(of_profile.as_ref()).cloned()
        };
        Decided {
            sts: first(&self.sts, &profile.sts),
            sso: first(&self.sso, &profile.sso),
            sso_oidc: first(&self.sso_oidc, &profile.sso_oidc),
            // A profile with such an endpoint is refused.
            signin: first(&self.signin, &None),
        }
    }
}

impl LoadServiceConfig for Decided {
    fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
        if key.profile() != "endpoint_url" {
            return None;
        }
        match key.service_id() {
            "STS" => self.sts.clone(),
            "SSO" => self.sso.clone(),
            "SSO OIDC" => self.sso_oidc.clone(),
            "Signin" => self.signin.clone(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sts(variables: &[(&str, &str)], profile: base::Endpoints) -> Option<String> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        let surroundings =
            Surroundings { variables: variables.collect(), ..Surroundings::default() };
        let decided = FromEnvironment::new(&surroundings).with(&profile);
        let key = ServiceConfigKey::builder()
            .service_id("STS")
            .env("AWS_ENDPOINT_URL")
            .profile("endpoint_url");
        decided.load_config(key.build().expect("complete"))
    }

    #[test]
    fn the_order_is_that_of_botocore() {
        let profile = || base::Endpoints { sts: Some("file".to_owned()), ..Default::default() };
        let (own, for_all) = (("AWS_ENDPOINT_URL_STS", "own"), ("AWS_ENDPOINT_URL", "all"));
        let ignore = ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true");
        for (variables, profile, found) in [
            (&[own, for_all][..], profile(), Some("own")),
            (&[for_all], profile(), Some("all")),
            (&[], profile(), Some("file")),
            (&[], base::Endpoints::default(), None),
            (&[own, ignore], profile(), None),
            (&[own], base::Endpoints { ignore: Some(true), ..profile() }, None),
        ] {
            assert_eq!(sts(variables, profile).as_deref(), found, "{variables:?}");
        }
        let no = ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "false");
        let ignoring = base::Endpoints { ignore: Some(true), ..profile() };
        assert_eq!(
            sts(&[own, no], ignoring).as_deref(),
            Some("own"),
            "the environment comes first"
        );
    }
}
