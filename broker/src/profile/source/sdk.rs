//! What the SDK does for a load: its clients' configuration, and the providers that are its own.

use std::path::Path;
use std::time::Duration;

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_runtime::env_config::file::EnvConfigFiles;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::region::Region;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sigward_proto::v1::Reason;

use super::chain::Named;
use super::failure;
use crate::error::{Denial, in_words};
use crate::profile::refresh::Effort;

/// A service that has taken a call and says nothing for so long is away: the SDK would wait for ever.
const PATIENCE: Duration = Duration::from_secs(10);

/// The configuration for calls of a profile, without credentials.
pub(super) async fn config(
    files: EnvConfigFiles,
    aws_profile: &str,
    region: Option<Region>,
    ca_bundle: Option<&Path>,
    effort: Effort,
) -> Result<SdkConfig, Denial> {
    let attempts = match effort {
        Effort::Waited => 3,
        // The machine itself tries again.
        Effort::Background => 1,
    };
    let http = http_client(tls_context(ca_bundle)?, Route::ByProxy);
    let loader = aws_config::defaults(BehaviorVersion::latest())
        .no_credentials()
        .profile_files(files)
        .profile_name(aws_profile)
        .retry_config(RetryConfig::standard().with_max_attempts(attempts))
        .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(PATIENCE).build())
        .http_client(http)
        .region(region);
    Ok(loader.load().await)
}

/// The keys of the environment, if it has any.
pub(super) async fn environment() -> Result<Option<Credentials>, Denial> {
    match EnvironmentVariableCredentialsProvider::new().provide_credentials().await {
        Ok(keys) => Ok(Some(keys)),
        Err(CredentialsError::CredentialsNotLoaded(_)) => Ok(None),
        Err(error) => Err(failure::of_provider(&error)),
    }
}

/// One of the SDK's own providers. `metadata` is where the machine's service is; by itself the SDK asks the
/// environment, and then files that aren't those of this broker.
pub(super) async fn provide(
    named: Named,
    config: &SdkConfig,
    metadata: Option<&str>,
) -> Result<Credentials, CredentialsError> {
    let config = without_proxy(&provider_config(config))?;
    match named {
        Named::Environment => {
            EnvironmentVariableCredentialsProvider::new().provide_credentials().await
        }
        Named::Container => {
            let provider = EcsCredentialsProvider::builder().configure(&config).build();
            provider.provide_credentials().await
        }
        Named::InstanceMetadata => {
            let mut client = aws_config::imds::Client::builder().configure(&config);
            if let Some(metadata) = metadata {
                let wrong = CredentialsError::invalid_configuration;
                client = client.endpoint(metadata).map_err(wrong)?;
            }
            let provider = ImdsCredentialsProvider::builder()
                .configure(&config)
                .imds_client(client.build())
                .build();
            provider.provide_credentials().await
        }
    }
}

pub(super) fn provider_config(config: &SdkConfig) -> ProviderConfig {
    let mut provider = ProviderConfig::without_region()
        .with_region(config.region().cloned())
        .with_use_fips(config.use_fips())
        .with_use_dual_stack(config.use_dual_stack());
    if let Some(retries) = config.retry_config() {
        provider = provider.with_retry_config(retries.clone());
    }
    if let Some(timeouts) = config.timeout_config() {
        provider = provider.with_timeout_config(timeouts.clone());
    }
    if let Some(http) = config.http_client() {
        provider = provider.with_http_client(http);
    }
    provider
}

/// The attack: a proxy that is told of the metadata services could answer for them, and would see what they give.
fn without_proxy(config: &ProviderConfig) -> Result<ProviderConfig, CredentialsError> {
    let context = tls_context(None).map_err(CredentialsError::invalid_configuration)?;
    Ok(config.clone().with_http_client(http_client(context, Route::Direct)))
}

/// Which way a call goes.
#[derive(Clone, Copy)]
enum Route {
    /// Through the proxy of the environment, if it names one: `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`. By itself the
    /// SDK knows of none.
    ByProxy,
    Direct,
}

fn http_client(context: TlsContext, route: Route) -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder();
        connector.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            connector.set_sleep_impl(components.sleep_impl());
        }
        connector.set_proxy_config(match route {
            Route::ByProxy => Some(ProxyConfig::from_env()),
            Route::Direct => None,
        });
        let provider = tls::Provider::Rustls(CryptoMode::AwsLc);
        connector.tls_provider(provider).tls_context(context.clone()).build()
    })
}

/// Whom to trust: the certificate authorities of one file and no others, or those of the machine.
fn tls_context(ca_bundle: Option<&Path>) -> Result<TlsContext, Denial> {
    let Some(ca_bundle) = ca_bundle else { return Ok(TlsContext::default()) };
    let wrong = |why: String| {
        let detail = format!("ca_bundle {}: {why}", ca_bundle.display());
        Denial::new(Reason::ProfileMisconfigured, detail)
    };
    let pem = std::fs::read(ca_bundle).map_err(|error| wrong(error.to_string()))?;
    // The SDK's client would panic at what it can't read, and not before its first call.
    let mut found = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        found.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if found.is_empty() {
        return Err(wrong("no certificate in PEM form is in it".to_owned()));
    }
    let trust = TrustStore::empty().with_pem_certificate(pem);
    let context = TlsContext::builder().with_trust_store(trust).build();
    context.map_err(|error| wrong(in_words(&error)))
}
