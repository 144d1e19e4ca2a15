//! One load of one profile's credentials, from the AWS files up.
//!
//! The SDK's providers never read a file again, and one that failed stays broken: so each load builds
//! new ones. What a profile asks for and the SDK would ignore without a word is refused here.
//!
//! Invariant: the role session name of a profile is the same in each load. Services bind sessions to
//! it; the SDK would make up a new one every time.

mod chain;
mod failure;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_types::os_shim_internal::{Env, Fs};
use aws_types::region::Region;
use futures_util::future::BoxFuture;
use sigward_proto::v1::Reason;

use self::chain::Chain;
use super::refresh::Load;
use crate::config::{self, AwsFiles, Config, CredentialsFrom, ProfileName, Role};
use crate::error::{Denial, in_words};

/// What the environment says, read once at the start.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// `AWS_REGION`.
    pub aws_region: Option<String>,
    /// `AWS_PROFILE`, which the default chain follows.
    pub aws_profile: Option<String>,
}

/// Where a profile's credentials come from.
#[derive(Debug)]
pub(super) struct Source {
    name: ProfileName,
    from: CredentialsFrom,
    /// The profile of the AWS files; for the default chain the one that the environment names.
    aws_profile: String,
    files: AwsFiles,
    role: Option<Role>,
    environment_region: Option<String>,
    endpoint_region: Option<String>,
}

/// What the files say about a profile.
pub(super) struct About {
    pub(super) region: Option<String>,
    pub(super) source: &'static str,
}

impl Source {
    pub(super) fn new(
        profile: &config::Profile,
        config: &Config,
        surroundings: &Surroundings,
    ) -> Self {
        let aws_profile = match &profile.from {
            CredentialsFrom::AwsProfile(name) => name.clone(),
            CredentialsFrom::DefaultChain => {
                surroundings.aws_profile.clone().unwrap_or_else(|| "default".to_owned())
            }
        };
        let endpoint =
            config.endpoints.iter().find(|endpoint| profile.endpoints.contains(&endpoint.name));
        Self {
            name: profile.name.clone(),
            from: profile.from.clone(),
            aws_profile,
            files: config.aws.clone(),
            role: profile.role.clone(),
            environment_region: surroundings.aws_region.clone(),
            endpoint_region: endpoint.map(|endpoint| endpoint.scope.region.as_str().to_owned()),
        }
    }

    /// What the files say about the profile now; empty where they can't be read.
    pub(super) async fn describe(&self) -> About {
        let chain = self.chain().await.ok();
        let region = chain.as_ref().and_then(|chain| chain.region.clone());
        let source = match (&self.role, &chain, &self.from) {
            (Some(_), _, _) => "assume role",
            (None, Some(chain), _) if chain.kind.is_some() => chain.source(),
            (None, _, CredentialsFrom::DefaultChain) => "default chain",
            (None, _, CredentialsFrom::AwsProfile(_)) => "",
        };
        // The SDK's order: the environment comes before the files where nobody named a profile.
        let region = match self.from {
            CredentialsFrom::DefaultChain => self.environment_region.clone().or(region),
            CredentialsFrom::AwsProfile(_) => region,
        };
        About { region, source }
    }

    /// The profile and those that it builds on.
    async fn chain(&self) -> Result<Chain, Denial> {
        let files = self.files(None);
        let sections = aws_config::profile::load(
            &Fs::real(),
            &Env::real(),
            &files,
            Some(self.aws_profile.clone().into()),
        )
        .await
        .map_err(|error| {
            Denial::new(
                Reason::ProfileMisconfigured,
                format!("the AWS files: {}", in_words(&error)),
            )
        })?;
        Ok(Chain::of(&sections, &self.aws_profile))
    }

    async fn credentials(&self) -> Result<aws_credential_types::Credentials, Denial> {
        let chain = self.chain().await?;
        chain.check(&self.aws_profile, matches!(self.from, CredentialsFrom::AwsProfile(_)))?;
        let files = self.files(Some(chain.session_names(&self.session_name())));
        let region = self.sts_region(&chain);
        let provider = match self.from {
            CredentialsFrom::AwsProfile(_) => {
                let config = ProviderConfig::without_region().with_region(region.clone());
                let provider = ProfileFileCredentialsProvider::builder()
                    .configure(&config)
                    .profile_files(files.clone())
                    .profile_name(&self.aws_profile)
                    .build();
                SharedCredentialsProvider::new(provider)
            }
            CredentialsFrom::DefaultChain => {
                let config = self.sdk_config(files.clone(), region.clone(), None).await;
                let none = || Denial::new(Reason::ProfileMisconfigured, "no credentials provider");
                config.credentials_provider().ok_or_else(none)?
            }
        };
        let provider = match &self.role {
            None => provider,
            Some(role) => {
                let config = self.sdk_config(files, region, Some(provider)).await;
                SharedCredentialsProvider::new(self.assume(role, &config).await)
            }
        };
        provider.provide_credentials().await.map_err(|error| failure::classify(&error, chain.kind))
    }

    /// The narrower role of the broker's configuration.
    async fn assume(&self, role: &Role, config: &SdkConfig) -> AssumeRoleProvider {
        let name = role.session_name.clone().unwrap_or_else(|| self.session_name());
        let mut builder =
            AssumeRoleProvider::builder(&role.arn).configure(config).session_name(name);
        if let Some(duration) = role.duration {
            builder = builder.session_length(duration);
        }
        if let Some(policy) = &role.session_policy {
            builder = builder.policy(policy);
        }
        if !role.session_policy_arns.is_empty() {
            builder = builder.policy_arns(role.session_policy_arns.clone());
        }
        if let Some(external_id) = &role.external_id {
            builder = builder.external_id(external_id);
        }
        builder.build().await
    }

    /// The SDK's configuration for calls of STS; without a provider, with the default chain.
    async fn sdk_config(
        &self,
        files: EnvConfigFiles,
        region: Option<Region>,
        provider: Option<SharedCredentialsProvider>,
    ) -> SdkConfig {
        let loader = aws_config::defaults(BehaviorVersion::latest())
            .profile_files(files)
            .profile_name(&self.aws_profile)
            .region(region);
        match provider {
            Some(provider) => loader.credentials_provider(provider).load().await,
            None => loader.load().await,
        }
    }

    /// The configuration to call STS with the given credentials.
    pub(super) async fn sts(&self, credentials: aws_credential_types::Credentials) -> SdkConfig {
        let region = self.chain().await.ok().and_then(|chain| self.sts_region(&chain));
        let provider = SharedCredentialsProvider::new(credentials);
        self.sdk_config(self.files(None), region, Some(provider)).await
    }

    /// The profile's region, else that of the environment, else the endpoint's: the SDK signs for STS
    /// with what it is given, and fails where that is nothing.
    fn sts_region(&self, chain: &Chain) -> Option<Region> {
        let region = chain.region.as_ref().or(self.environment_region.as_ref());
        region.or(self.endpoint_region.as_ref()).cloned().map(Region::new)
    }

    /// `sigward-` and the profile's name, as far as STS allows.
    fn session_name(&self) -> String {
        let allowed =
            |c: char| if c.is_ascii_alphanumeric() || "_+=,.@-".contains(c) { c } else { '-' };
        format!("sigward-{}", self.name).chars().map(allowed).take(64).collect()
    }

    /// The AWS files, with the additions on top.
    fn files(&self, additions: Option<String>) -> EnvConfigFiles {
        let mut builder = EnvConfigFiles::builder();
        builder = match &self.files.config {
            Some(path) => builder.with_file(EnvConfigFileKind::Config, path),
            None => builder.include_default_config_file(true),
        };
        builder = match &self.files.credentials {
            Some(path) => builder.with_file(EnvConfigFileKind::Credentials, path),
            None => builder.include_default_credentials_file(true),
        };
        if let Some(additions) = additions {
            builder = builder.with_contents(EnvConfigFileKind::Config, additions);
        }
        builder.build()
    }
}

impl Load for Source {
    fn load(&self) -> BoxFuture<'_, Result<aws_credential_types::Credentials, Denial>> {
        Box::pin(async {
            let loaded = self.credentials().await;
            match &loaded {
                Ok(_) => tracing::info!(profile = %self.name, "credentials loaded"),
                Err(denial) => {
                    tracing::warn!(profile = %self.name, %denial, "credentials not loaded");
                }
            }
            loaded
        })
    }
}

#[cfg(test)]
mod tests;
