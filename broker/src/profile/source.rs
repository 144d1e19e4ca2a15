//! One load of one profile's credentials, from the AWS files up.
//!
//! The SDK's providers never read a file again, one that failed stays broken, and what they don't know
//! they read over: so each load follows the files anew, and every step of it is ours. The SDK does the
//! calls.
//!
//! Invariant: the role session name of a profile is the same in each load. Services bind sessions to
//! it; the SDK would make up a new one every time.

mod chain;
mod child;
mod failure;
mod files;
mod look;
mod portal;
mod roles;
mod sdk;
mod whose;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use aws_config::SdkConfig;
use aws_config::login::LoginCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_runtime::env_config::file::EnvConfigFiles;
use aws_types::region::Region;
use futures_util::future::BoxFuture;
use sigward_proto::v1::Reason;
use tokio::sync::watch;

use self::chain::{Base, Chain, Hop, Kind, Named, WebIdentity};
use self::files::{Files, Read};
use self::look::Made;
pub(super) use self::look::Seen;
use self::whose::Whose;
use super::refresh::{Effort, Load};
use super::surroundings::Surroundings;
use super::token::{Session, Tokens};
use crate::config::{self, AwsFiles, Config, CredentialsFrom, ProfileName, Role};
use crate::error::Denial;

/// Where a profile's credentials come from.
#[derive(Debug)]
pub(super) struct Source {
    name: ProfileName,
    from: CredentialsFrom,
    /// The profile of the AWS files; for the default chain the one that the environment names.
    aws_profile: String,
    given: AwsFiles,
    files: Files,
    role: Option<Role>,
    environment_region: Option<String>,
    endpoint_region: Option<String>,
    ca_bundle: Option<PathBuf>,
    /// The environment says where the machine's metadata service is.
    metadata_given: bool,
    /// `AWS_WEB_IDENTITY_TOKEN_FILE` and what goes with it, for the default chain.
    web_identity: Option<WebIdentity>,
    child_environment: child::Environment,
    /// Where `aws login` keeps its sessions.
    login_cache: Option<PathBuf>,
    tokens: Arc<Tokens>,
    made: Mutex<Made>,
    /// Whether to ask whose credentials they are.
    identify: bool,
    whose: Mutex<Whose>,
    changes: watch::Sender<()>,
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
        tokens: Arc<Tokens>,
        changes: watch::Sender<()>,
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
            given: config.aws.clone(),
            files: Files::new(&config.aws, surroundings),
            role: profile.role.clone(),
            environment_region: surroundings.aws_region.clone(),
            endpoint_region: endpoint.map(|endpoint| endpoint.scope.region.as_str().to_owned()),
            ca_bundle: surroundings.ca_bundle.clone(),
            metadata_given: [
                "AWS_EC2_METADATA_SERVICE_ENDPOINT",
                "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
            ]
            .iter()
            .any(|name| surroundings.variable(name).is_some()),
            web_identity: web_identity(surroundings),
            child_environment: child::Environment::new(
                &surroundings.variables,
                &config.aws.process_environment,
            ),
            login_cache: surroundings.login_cache(),
            tokens,
            made: Mutex::default(),
            identify: config.aws.identity,
            whose: Mutex::default(),
            changes,
        }
    }

    /// What the files say about the profile now; empty where they can't be read.
    pub(super) async fn describe(&self) -> About {
        let chain = self.chain().await.ok().map(|(chain, _)| chain);
        let region = match self.from {
            CredentialsFrom::DefaultChain => self.region(chain.as_ref()),
            CredentialsFrom::AwsProfile(_) => chain.as_ref().and_then(|it| it.region.as_ref()),
        };
        let region = region.cloned();
        let source = match (&self.role, &chain, &self.from) {
            (Some(_), _, _) => "assume role",
            (None, Some(chain), _) if !chain.source().is_empty() => chain.source(),
            (None, _, CredentialsFrom::DefaultChain) => "default chain",
            (None, _, CredentialsFrom::AwsProfile(_)) => "",
        };
        About { region, source }
    }

    /// Whether another one would bring the same credentials.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let what = |it: &Self| {
            let (region, bundle) = (it.endpoint_region.clone(), it.ca_bundle.clone());
            (it.name.clone(), it.from.clone(), it.given.clone(), it.role.clone(), region, bundle)
        };
        what(self) == what(other)
    }

    /// The profile and those that it builds on.
    async fn chain(&self) -> Result<(Chain, EnvConfigFiles), Denial> {
        let Read { files, sections } = self.files.read(&self.aws_profile).await?;
        Ok((Chain::of(&sections, &self.aws_profile), files))
    }

    async fn credentials(&self, effort: Effort, now: SystemTime) -> Result<Credentials, Denial> {
        let read = self.chain().await;
        if let Ok((chain, _)) = &read {
            self.reads(chain);
        }
        let role = self.role.as_ref().map(|role| self.narrower(role));
        let named = matches!(self.from, CredentialsFrom::AwsProfile(_));
        // In the default chain the environment comes first, whatever the files say.
        let mut keys = if named { None } else { sdk::environment().await? };
        let (mut base, mut hops) = (None, Vec::new());
        let (mut ca_bundle, mut metadata) = (None, None);
        let region = self.sts_region(read.as_ref().ok().map(|(chain, _)| chain));
        let mut files = files::none();
        match read {
            Err(denial) if keys.is_none() => return Err(denial),
            Err(_) => {}
            Ok((chain, read)) => {
                files = read;
                ca_bundle.clone_from(&chain.ca_bundle);
                metadata = Some(chain.metadata.clone()).filter(|_| !self.metadata_given);
                if keys.is_none()
                    && let Some(resolved) = chain.resolve(&self.aws_profile, named)?
                {
                    (base, hops) = (Some(resolved.0), resolved.1);
                }
            }
        }
        if let Some(Base::StaticKeys(found)) = &base {
            keys = Some(found.clone());
        }
        // Keys that need no call need no client either, which takes time to be made.
        if let (Some(keys), None, []) = (&keys, &role, hops.as_slice()) {
            return sound(keys.clone());
        }
        let of_a_role = matches!(base, Some(Base::Sso(_) | Base::WebIdentity(_)));
        roles::check(hops.iter().chain(&role), of_a_role)?;
        let ca_bundle = ca_bundle.or_else(|| self.ca_bundle.clone());
        let ca_bundle = ca_bundle.as_deref();
        let config = sdk::config(files, &self.aws_profile, region, ca_bundle, effort).await?;
        let mut credentials = sound(match (keys, base) {
            (Some(keys), _) => keys,
            (None, Some(base)) => self.base(base, &config, metadata.as_deref(), now).await?,
            (None, None) => self.without_profile(&config, metadata.as_deref()).await?,
        })?;
        for hop in hops.iter().chain(&role) {
            let name = self.session_name();
            credentials = sound(roles::assume(hop, credentials, &name, &config).await?)?;
        }
        Ok(credentials)
    }

    /// The credentials that a chain begins with.
    async fn base(
        &self,
        base: Base,
        config: &SdkConfig,
        metadata: Option<&str>,
        now: SystemTime,
    ) -> Result<Credentials, Denial> {
        match base {
            Base::StaticKeys(keys) => Ok(keys),
            Base::WebIdentity(role) => {
                roles::assume_with_web_identity(&role, &self.session_name(), config).await
            }
            Base::Sso(role) => portal::credentials(&role, &self.tokens, config, now).await,
            Base::CredentialProcess(command) => {
                child::run(command.expose(), &self.child_environment).await
            }
            Base::LoginSession(session) => {
                let provider = LoginCredentialsProvider::builder(session)
                    .configure(&sdk::provider_config(config))
                    .build();
                let provided = provider.provide_credentials().await;
                provided.map_err(|error| failure::of_login_session(&error))
            }
            Base::Named(named) => {
                let provided = sdk::provide(named, config, metadata).await;
                provided.map_err(|error| failure::of_provider(&error))
            }
        }
    }

    /// The rest of the default chain, in the SDK's order: a web identity, the container, the machine.
    async fn without_profile(
        &self,
        config: &SdkConfig,
        metadata: Option<&str>,
    ) -> Result<Credentials, Denial> {
        if let Some(role) = &self.web_identity {
            return roles::assume_with_web_identity(role, &self.session_name(), config).await;
        }
        let provided = match sdk::provide(Named::Container, config, metadata).await {
            Err(CredentialsError::CredentialsNotLoaded(_)) => {
                sdk::provide(Named::InstanceMetadata, config, metadata).await
            }
            provided => provided,
        };
        provided.map_err(|error| failure::of_provider(&error))
    }

    /// The narrower role of the broker's configuration.
    fn narrower(&self, role: &Role) -> Hop {
        let seconds = |duration: std::time::Duration| i32::try_from(duration.as_secs()).ok();
        Hop {
            role_arn: role.arn.clone(),
            session_name: role.session_name.clone(),
            external_id: role.external_id.clone(),
            source_identity: None,
            duration: role.duration.and_then(seconds),
            policy: role.session_policy.clone(),
            policy_arns: role.session_policy_arns.clone(),
        }
    }

    /// The configuration to call AWS for the profile: with credentials, or for a sign-in without.
    pub(super) async fn client(
        &self,
        credentials: Option<Credentials>,
    ) -> Result<SdkConfig, Denial> {
        let (chain, files) = self.chain().await?;
        let ca_bundle = chain.ca_bundle.as_deref().or(self.ca_bundle.as_deref());
        let region = self.sts_region(Some(&chain));
        let effort = Effort::Waited;
        let config = sdk::config(files, &self.aws_profile, region, ca_bundle, effort).await?;
        Ok(match credentials {
            None => config,
            Some(credentials) => {
                let provider = SharedCredentialsProvider::new(credentials);
                config.to_builder().credentials_provider(provider).build()
            }
        })
    }

    /// The session of IAM Identity Center that the profile's credentials come from.
    ///
    /// # Errors
    /// NOT_A_LOGIN_PROFILE, or what is wrong with the profile.
    pub(super) async fn session(&self) -> Result<Session, Denial> {
        let (chain, _) = self.chain().await?;
        match (chain.session(), chain.kind) {
            (Some(session), _) => Ok(session.clone()),
            // Its own words say what is missing.
            (None, Some(Kind::Sso)) => Err(chain
                .resolve(&self.aws_profile, true)
                .err()
                .unwrap_or_else(|| Denial::new(Reason::ProfileMisconfigured, "no session"))),
            (None, _) => {
                let detail = format!(
                    "the credentials of {} don't come from IAM Identity Center",
                    self.aws_profile
                );
                Err(Denial::new(Reason::NotALoginProfile, detail))
            }
        }
    }

    /// The profile's region, else that of the environment; the other way round, as for the SDK, where
    /// nobody named a profile.
    fn region<'a>(&'a self, chain: Option<&'a Chain>) -> Option<&'a String> {
        let own = chain.and_then(|chain| chain.region.as_ref());
        let environment = self.environment_region.as_ref();
        match self.from {
            CredentialsFrom::DefaultChain => environment.or(own),
            CredentialsFrom::AwsProfile(_) => own.or(environment),
        }
    }

    /// Where STS is asked, in the end in the endpoint's region: the SDK signs with what it is given,
    /// and fails where that is nothing.
    fn sts_region(&self, chain: Option<&Chain>) -> Option<Region> {
        self.region(chain).or(self.endpoint_region.as_ref()).cloned().map(Region::new)
    }

    /// `sigward-` and the profile's name, as far as STS allows.
    fn session_name(&self) -> String {
        let allowed =
            |c: char| if c.is_ascii_alphanumeric() || "_+=,.@-".contains(c) { c } else { '-' };
        format!("sigward-{}", self.name).chars().map(allowed).take(64).collect()
    }
}

/// Refuses what no key holds, and no header can: the SDK's client panics at it.
fn sound(keys: Credentials) -> Result<Credentials, Denial> {
    let parts =
        [keys.access_key_id(), keys.secret_access_key()].into_iter().chain(keys.session_token());
    if parts.flat_map(str::bytes).all(|byte| byte.is_ascii_graphic()) {
        return Ok(keys);
    }
    let detail = "a key with white space, a control character, or one beyond ASCII in it";
    Err(Denial::new(Reason::ProfileMisconfigured, detail))
}

fn web_identity(surroundings: &Surroundings) -> Option<WebIdentity> {
    Some(WebIdentity {
        token_file: surroundings.variable("AWS_WEB_IDENTITY_TOKEN_FILE")?.into(),
        role_arn: surroundings.variable("AWS_ROLE_ARN")?.to_owned(),
        session_name: surroundings.variable("AWS_ROLE_SESSION_NAME").map(str::to_owned),
        duration: None,
    })
}

impl Load for Arc<Source> {
    fn load(&self, effort: Effort, now: SystemTime) -> BoxFuture<'_, Result<Credentials, Denial>> {
        Box::pin(async move {
            let loaded = self.credentials(effort, now).await;
            match &loaded {
                Ok(_) => tracing::info!(profile = %self.name, "credentials loaded"),
                Err(denial) => {
                    tracing::warn!(profile = %self.name, %denial, "credentials not loaded");
                }
            }
            loaded
        })
    }

    fn in_force(&self, keys: Option<&Credentials>) {
        self.signs(keys.is_some());
        self.identify(keys);
    }
}

#[cfg(test)]
mod tests;
