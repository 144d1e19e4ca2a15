//! Loads the credentials of one profile, beginning with the AWS files.
//!
//! The SDK's providers don't reread files, don't recover from failures, and ignore settings that
//! they don't support. So each load reads the files again, and its steps are implemented here; the
//! SDK makes the calls.
//!
//! Invariant: the role session name of a profile is the same in each load. Services bind sessions
//! to it; the SDK would generate a new one for each load.

mod attribution;
mod base;
mod chain;
pub(super) mod child;
mod container;
mod endpoints;
mod environment;
pub(super) mod listed;
mod login_session;
pub(super) mod named;
mod portal;
mod reader;
mod roles;
mod sdk;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_types::region::Region;
use futures_util::future::BoxFuture;

use self::base::{Base, Endpoints, Hop, Kind, Named, WebIdentity};
use self::chain::Chain;
use self::endpoints::FromEnvironment;
use self::reader::Reader;
use super::home::{Home, Snapshot};
use super::identity;
use super::load::{Effort, OnRead};
use super::reading::Reading;
use super::surroundings::Surroundings;
use super::token::{Session, Tokens};
use crate::config::{
    self, Agent, AwsFiles, Config, CredentialsFrom, GuardRails, ProfileName, Role,
    session_characters,
};
use crate::error::{Denial, Reason};

/// The source of a profile's credentials.
#[derive(Debug)]
pub(super) struct Source {
    name: ProfileName,
    from: CredentialsFrom,
    reader: Reader,
    given: AwsFiles,
    home: Arc<Home>,
    role: Option<Role>,
    guard_rails: Option<GuardRails>,
    endpoint_region: Option<String>,
    endpoints: FromEnvironment,
    ca_bundle: Option<PathBuf>,
    /// Whether the environment names the URL of the machine's metadata service.
    metadata_given: bool,
    /// `AWS_WEB_IDENTITY_TOKEN_FILE` and related variables, for the default chain.
    web_identity: Option<Result<WebIdentity, Denial>>,
    /// `AWS_ROLE_ARN` and `AWS_ROLE_SESSION_NAME`, for a web identity whose token file is in the
    /// profile.
    environment_role: (Option<String>, Option<String>),
    /// Whether `AWS_STS_REGIONAL_ENDPOINTS` selects the global endpoint.
    global_sts: bool,
    /// Whether the environment names an endpoint for credentials of this container.
    in_container: bool,
    child_environment: child::Environment,
    /// Whether to query the identity of the credentials.
    identify: bool,
}

impl Source {
    pub(super) fn new(
        profile: &config::Profile,
        config: &Config,
        surroundings: &Surroundings,
        home: Arc<Home>,
        tokens: Arc<Tokens>,
    ) -> Self {
        let named = match &profile.from {
            CredentialsFrom::AwsProfile(name) => Some(name.as_str()),
            CredentialsFrom::DefaultChain => surroundings.aws_profile(),
        };
        let endpoint =
            config.endpoints.iter().find(|endpoint| profile.endpoints.contains(&endpoint.name));
        let global = |value: &str| !value.eq_ignore_ascii_case("regional");
        Self {
            name: profile.name.clone(),
            from: profile.from.clone(),
            reader: Reader {
                aws_profile: named.unwrap_or("default").to_owned(),
                must_exist: named.is_some(),
                default_chain: matches!(profile.from, CredentialsFrom::DefaultChain),
                homeless: home.is_nowhere(),
                role: profile.role.as_ref().map(|role| role.arn.clone()),
                first_region: surroundings.first_region().map(str::to_owned),
                last_region: surroundings.last_region().map(str::to_owned),
                login_cache: surroundings.login_cache(),
                tokens,
            },
            given: config.aws.clone(),
            home,
            role: profile.role.clone(),
            guard_rails: profile.guard_rails.clone(),
            endpoint_region: endpoint
                .and_then(|endpoint| endpoint.scope.regions.first())
                .map(str::to_owned),
            endpoints: FromEnvironment::new(surroundings),
            ca_bundle: surroundings.ca_bundle(),
            metadata_given: [
                "AWS_EC2_METADATA_SERVICE_ENDPOINT",
                "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
            ]
            .iter()
            .any(|name| surroundings.variable(name).is_some()),
            web_identity: web_identity(surroundings),
            environment_role: (
                surroundings.variable("AWS_ROLE_ARN").map(str::to_owned),
                surroundings.variable("AWS_ROLE_SESSION_NAME").map(str::to_owned),
            ),
            global_sts: surroundings.variable("AWS_STS_REGIONAL_ENDPOINTS").is_some_and(global),
            in_container: [
                "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            ]
            .iter()
            .any(|name| surroundings.variable(name).is_some()),
            child_environment: child::Environment::new(
                &surroundings.variables,
                &config.aws.process_environment,
            ),
            identify: config.aws.identity,
        }
    }

    /// Whether another source would load the same credentials.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let what = |it: &Self| {
            let (region, bundle) = (it.endpoint_region.clone(), it.ca_bundle.clone());
            let role = (it.role.clone(), it.guard_rails.clone());
            (it.name.clone(), it.from.clone(), it.given.clone(), role, region, bundle)
        };
        what(self) == what(other)
    }

    /// The result of reading the files.
    pub(super) async fn read(&self, snapshot: &Snapshot, now: SystemTime) -> Reading {
        self.reader.read(snapshot, now).await
    }

    /// The chain in the current files.
    async fn read_chain(&self, now: SystemTime, on_read: OnRead) -> Result<Chain, Denial> {
        let snapshot = self.home.read().await;
        let chain = self.reader.chain(&snapshot);
        on_read(self.reader.reading(&snapshot, chain.as_ref(), now).await);
        chain
    }

    async fn credentials(
        &self,
        agent: Option<&Agent>,
        effort: Effort,
        now: SystemTime,
        on_read: OnRead,
    ) -> Result<Credentials, Denial> {
        let chain = self.read_chain(now, on_read).await?;
        if let Some(error) = chain.error() {
            return Err(error.clone());
        }
        let named = matches!(self.from, CredentialsFrom::AwsProfile(_));
        if self.reader.must_exist && !chain.exists {
            // Even if keys are in the environment: the AWS CLI requires the profile too.
            chain.resolve(&self.reader.aws_profile, true)?;
            return Err(Denial::new(Reason::ProfileMisconfigured, "there is no such profile"));
        }
        let role = self.role.as_ref().map(|role| self.narrower(role));
        let (ca_bundle, metadata) = (chain.ca_bundle.clone(), chain.metadata.clone());
        let metadata = Some(metadata).filter(|_| !self.metadata_given);
        let calls = self.calls(Some(&chain));
        // In the default chain the environment has priority over the profile.
        let environment = if named { None } else { environment::keys()? };
        // Then come a role of the profile, and a web identity of the environment.
        let web_identity = self.web_identity.clone().filter(|_| !named && !chain.assumes);
        let (mut base, hops) = match (environment, web_identity) {
            (Some(keys), _) => (Some(Base::StaticKeys(keys)), Vec::new()),
            (None, Some(web_identity)) => {
                let role = web_identity?;
                let session_name = role.session_name.or(chain.session_name);
                (Some(Base::WebIdentity(WebIdentity { session_name, ..role })), Vec::new())
            }
            (None, None) => match chain.resolve(&self.reader.aws_profile, named)? {
                // For each setting, botocore prefers the variable.
                Some((Base::WebIdentity(role), hops)) if !named && hops.is_empty() => {
                    (Some(Base::WebIdentity(self.with_environment_role(role))), hops)
                }
                Some((base, hops)) => (Some(base), hops),
                None => (None, Vec::new()),
            },
        };
        let mut hops: Vec<Hop> = hops.into_iter().chain(role).collect();
        if let Some(limits) = &self.guard_rails {
            roles::limit(&mut hops, base.as_ref(), limits)?;
        }
        if let Some(agent) = agent {
            attribution::attribute(base.as_mut(), &mut hops, agent, &self.name)?;
        }
        // Keys that need no call need no client, which takes time to build.
        if let (Some(Base::StaticKeys(keys)), []) = (&base, hops.as_slice()) {
            return checked_keys(keys.clone());
        }
        let of_a_role = matches!(base, Some(Base::Sso(_) | Base::WebIdentity(_)));
        roles::check(hops.iter(), of_a_role)?;
        if self.global_sts && !hops.is_empty() {
            let detail = "AWS_STS_REGIONAL_ENDPOINTS: STS is asked in the profile's region here: unset it, or set it to regional";
            return Err(Denial::new(Reason::UnsupportedProfileSetting, detail));
        }
        let ca_bundle = ca_bundle.or_else(|| self.ca_bundle.clone());
        let calls = sdk::Calls { ca_bundle: ca_bundle.as_deref(), ..calls };
        let config = sdk::config(calls, effort).await?;
        let mut credentials = checked_keys(match base {
            Some(base) => {
                self.base(base, hops.is_empty(), &config, metadata.as_deref(), now).await?
            }
            None => self.of_the_machine(&config, metadata.as_deref()).await?,
        })?;
        for hop in &hops {
            let name = self.session_name();
            credentials = checked_keys(roles::assume(hop, credentials, &name, &config).await?)?;
        }
        Ok(credentials)
    }

    fn with_environment_role(&self, role: WebIdentity) -> WebIdentity {
        let (role_arn, session_name) = self.environment_role.clone();
        WebIdentity {
            role_arn: role_arn.unwrap_or(role.role_arn),
            session_name: session_name.or(role.session_name),
            ..role
        }
    }

    /// The first credentials of a chain.
    async fn base(
        &self,
        base: Base,
        is_last: bool,
        config: &SdkConfig,
        metadata: Option<&str>,
        now: SystemTime,
    ) -> Result<Credentials, Denial> {
        match base {
            Base::StaticKeys(keys) => Ok(keys),
            Base::WebIdentity(role) => {
                // If roles are assumed afterwards, the last of them has the limits.
                let limits = self.guard_rails.as_ref().filter(|_| is_last);
                roles::assume_with_web_identity(&role, &self.session_name(), limits, config).await
            }
            Base::Sso(role) => portal::credentials(&role, &self.reader.tokens, config, now).await,
            Base::CredentialProcess(command) => child::run(&command, &self.child_environment).await,
            Base::LoginSession(session) => {
                let directory = self.reader.login_cache.as_deref();
                login_session::credentials(
                    &session,
                    directory,
                    &self.reader.tokens.login,
                    config,
                    now,
                )
                .await
            }
            Base::Named(named) => {
                sdk::provide(named, config, metadata, Reason::ProfileMisconfigured).await
            }
        }
    }

    /// The end of the default chain: the container, if the environment names one, else the machine.
    async fn of_the_machine(
        &self,
        config: &SdkConfig,
        metadata: Option<&str>,
    ) -> Result<Credentials, Denial> {
        // If the environment names no container, there may be no credentials at all.
        let (named, nothing) = match self.in_container {
            true => (Named::Container, Reason::ProfileMisconfigured),
            false => (Named::InstanceMetadata, Reason::NoCredentials),
        };
        sdk::provide(named, config, metadata, nothing).await
    }

    /// The narrower role of the broker's configuration.
    fn narrower(&self, role: &Role) -> Hop {
        let seconds = |duration: std::time::Duration| i32::try_from(duration.as_secs()).ok();
        Hop {
            role_arn: role.arn.clone(),
            session_name: role.session_name.clone(),
            external_id: role.external_id.clone(),
            source_identity: None,
            agent_tag: None,
            duration: role.duration.and_then(seconds),
            policy: role.session_policy.clone(),
            policy_arns: role.session_policy_arns.clone(),
        }
    }

    fn calls(&self, chain: Option<&Chain>) -> sdk::Calls<'static> {
        let none = Endpoints::default();
        let of_profile = chain.map_or(&none, |chain| &chain.endpoints);
        let region = self.reader.region(chain).or(self.endpoint_region.as_ref());
        sdk::Calls {
            // If no region is configured, STS is called in the endpoint's.
            region: region.cloned().map(Region::new),
            ca_bundle: None,
            endpoints: self.endpoints.with(of_profile),
            use_fips: self.endpoints.use_fips.or(of_profile.use_fips),
            use_dual_stack: self.endpoints.use_dual_stack.or(of_profile.use_dual_stack),
        }
    }

    /// The configuration for calling AWS for the profile, without credentials.
    pub(super) async fn client(&self) -> Result<SdkConfig, Denial> {
        let snapshot = self.home.read().await;
        let chain = self.reader.chain(&snapshot)?;
        drop(snapshot);
        let ca_bundle = chain.ca_bundle.as_deref().or(self.ca_bundle.as_deref());
        sdk::config(sdk::Calls { ca_bundle, ..self.calls(Some(&chain)) }, Effort::Waited).await
    }

    /// The IAM Identity Center session of the profile's credentials.
    ///
    /// # Errors
    /// NOT_A_LOGIN_PROFILE, or the error of the profile.
    pub(super) async fn session(&self) -> Result<Session, Denial> {
        self.session_of(&*self.home.read().await)
    }

    /// The same, from one reading of the files.
    pub(super) fn session_of(&self, snapshot: &Snapshot) -> Result<Session, Denial> {
        let chain = self.reader.chain(snapshot)?;
        match (chain.session(), chain.kind) {
            (Some(session), _) => Ok(session.clone()),
            // Its error names the missing setting.
            (None, Some(Kind::Sso)) => Err(chain
                .resolve(&self.reader.aws_profile, true)
                .err()
                .unwrap_or_else(|| Denial::new(Reason::ProfileMisconfigured, "no session"))),
            (None, _) => {
                let detail = format!(
                    "the credentials of {} don't come from IAM Identity Center",
                    self.reader.aws_profile
                );
                Err(Denial::new(Reason::NotALoginProfile, detail))
            }
        }
    }

    /// `sigward-` and the profile's name, cut to the length that STS allows.
    fn session_name(&self) -> String {
        session_characters(&format!("sigward-{}", self.name)).chars().take(64).collect()
    }
}

/// Refuses characters that aren't part of keys and that headers can't contain, because the SDK's
/// client would panic. An empty session token is removed, because AWS refuses an empty header.
fn checked_keys(keys: Credentials) -> Result<Credentials, Denial> {
    let token = keys.session_token().filter(|token| !token.is_empty());
    let parts = [keys.access_key_id(), keys.secret_access_key()].into_iter().chain(token);
    if !parts.flat_map(str::bytes).all(|byte| byte.is_ascii_graphic()) {
        let detail = "a key has white space, a control character or a non-ASCII character";
        return Err(Denial::new(Reason::ProfileMisconfigured, detail));
    }
    if keys.access_key_id().is_empty() || keys.secret_access_key().is_empty() {
        return Err(Denial::new(Reason::ProfileMisconfigured, "a key is empty"));
    }
    if token.is_some() || keys.session_token().is_none() {
        return Ok(keys);
    }
    let (id, secret) = (keys.access_key_id(), keys.secret_access_key());
    Ok(Credentials::new(id, secret, None, keys.expiry(), "without an empty token"))
}

/// The web identity of the environment; like in botocore, `None` without a token file.
fn web_identity(surroundings: &Surroundings) -> Option<Result<WebIdentity, Denial>> {
    let token_file = surroundings.variable("AWS_WEB_IDENTITY_TOKEN_FILE")?.into();
    let Some(role_arn) = surroundings.variable("AWS_ROLE_ARN") else {
        let detail =
            "AWS_WEB_IDENTITY_TOKEN_FILE is set, and AWS_ROLE_ARN isn't: set both, or none";
        return Some(Err(Denial::new(Reason::ProfileMisconfigured, detail)));
    };
    Some(Ok(WebIdentity {
        token_file,
        role_arn: role_arn.to_owned(),
        session_name: surroundings.variable("AWS_ROLE_SESSION_NAME").map(str::to_owned),
        duration: None,
    }))
}

impl Source {
    /// Loads the credentials, with the agent's name if there is one.
    pub(super) async fn load(
        &self,
        agent: Option<&Agent>,
        effort: Effort,
        now: SystemTime,
        on_read: OnRead,
    ) -> Result<Credentials, Denial> {
        let loaded = self.credentials(agent, effort, now, on_read).await;
        let (profile, agent) = (&self.name, agent.map(Agent::name));
        match &loaded {
            Ok(_) => tracing::info!(%profile, agent, "credentials loaded"),
            // A temporary failure is a warning; for others a person has to act.
            Err(denial) if denial.reason() == Reason::CredentialsUnavailable => {
                tracing::warn!(%profile, agent, %denial, "credentials not loaded");
            }
            Err(denial) => {
                tracing::error!(%profile, agent, %denial, "credentials not loaded");
            }
        }
        loaded
    }

    /// Queries the identity of the keys as an ARN, if the configuration asks for it.
    pub(super) fn query_identity(
        self: &Arc<Self>,
        keys: &Credentials,
    ) -> Option<BoxFuture<'static, Result<String, Denial>>> {
        if !self.identify {
            return None;
        }
        let (this, keys) = (Arc::clone(self), keys.clone());
        Some(Box::pin(async move {
            let asked = async { identity::ask(this.client().await?, keys).await }.await;
            if let Err(denial) = &asked {
                tracing::info!(profile = %this.name, %denial, "identity not known");
            }
            asked.map(|identity| identity.arn)
        }))
    }
}

#[cfg(test)]
mod tests;
