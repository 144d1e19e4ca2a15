//! The SDK's part of a load: the configuration of its clients, and its own providers.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::region::Region;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::base::Named;
use super::endpoints::Decided;
use super::{container, environment};
use crate::error::{Denial, Reason, with_causes};
use crate::process;
use crate::profile::failure;
use crate::profile::load::Effort;

/// The timeout of an attempt: the SDK would wait for ever for a service that accepts a call and doesn't answer.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// The parameters of a profile's calls.
pub(super) struct Calls<'c> {
    pub(super) region: Option<Region>,
    pub(super) ca_bundle: Option<&'c Path>,
    pub(super) endpoints: Decided,
    pub(super) use_fips: Option<bool>,
    pub(super) use_dual_stack: Option<bool>,
}

/// The configuration for calls of a profile, without credentials. It contains nothing from files or
/// variables that the SDK would read by itself.
pub(super) async fn config(calls: Calls<'_>, effort: Effort) -> Result<SdkConfig, Denial> {
    let attempts = match effort {
        Effort::Waited => 3,
        // The actor itself retries.
        Effort::Background => 1,
    };
    let http = match calls.ca_bundle {
        // Certificates are reread, because they may have been replaced.
        Some(ca_bundle) => http_client(tls_context(ca_bundle).await?, Route::ByProxy),
        None => shared_client(Route::ByProxy),
    };
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .retry_config(RetryConfig::standard().with_max_attempts(attempts))
        .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_TIMEOUT).build())
        .sleep_impl(TokioSleep::new())
        .http_client(http)
        .service_config(calls.endpoints)
        .region(calls.region);
    config.set_use_fips(calls.use_fips);
    config.set_use_dual_stack(calls.use_dual_stack);
    Ok(config.build())
}

/// The credentials of one of the SDK's own providers. `metadata` is the URL of the machine's
/// metadata service; by default the SDK reads it from the environment and from files that aren't
/// this broker's.
pub(super) async fn provide(
    named: Named,
    config: &SdkConfig,
    metadata: Option<&str>,
    nothing: Reason,
) -> Result<Credentials, Denial> {
    let config = provider_config(config);
    let token = Zeroizing::new(match named {
        Named::Container => environment::container_token().await,
        Named::Environment | Named::InstanceMetadata => String::new(),
    });
    let provided = match named {
        Named::Environment => {
            let missing = "credential_source = Environment: AWS_ACCESS_KEY_ID isn't set";
            let missing = || Denial::new(Reason::ProfileMisconfigured, missing);
            return environment::keys()?.ok_or_else(missing);
        }
        Named::Container => {
            let config = config.with_http_client(container::client(shared_client(Route::Direct)));
            let provider = EcsCredentialsProvider::builder().configure(&config).build();
            provider.provide_credentials().await
        }
        Named::InstanceMetadata => {
            let config = config.with_http_client(shared_client(Route::Direct));
            let mut client = aws_config::imds::Client::builder().configure(&config);
            if let Some(metadata) = metadata {
                let wrong = |_| {
                    let detail = "ec2_metadata_service_endpoint isn't a URL";
                    Denial::new(Reason::ProfileMisconfigured, detail)
                };
                client = client.endpoint(metadata).map_err(wrong)?;
            }
            let provider = ImdsCredentialsProvider::builder()
                .configure(&config)
                .imds_client(client.build())
                .build();
            provider.provide_credentials().await
        }
    };
    provided.map_err(|error| failure::of_provider(&error, nothing, &[&token]))
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

/// The route of a call.
#[derive(Clone, Copy)]
enum Route {
    /// Without a proxy. The attack: a proxy in front of the metadata services could answer in their
    /// place, and would see their credentials.
    Direct,
    /// Through the proxy in the environment, if there is one: `HTTPS_PROXY`, `HTTP_PROXY`,
    /// `NO_PROXY`. The SDK ignores these by default.
    ByProxy,
}

/// The shared client that trusts the machine's certificate authorities: reading those takes longer
/// than most loads.
fn shared_client(route: Route) -> SharedHttpClient {
    static DIRECT: OnceLock<SharedHttpClient> = OnceLock::new();
    static BY_PROXY: OnceLock<SharedHttpClient> = OnceLock::new();
    let client = match route {
        Route::Direct => &DIRECT,
        Route::ByProxy => &BY_PROXY,
    };
    client.get_or_init(|| http_client(TlsContext::default(), route)).clone()
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

/// A TLS context that trusts only the certificate authorities of one file.
async fn tls_context(ca_bundle: &Path) -> Result<TlsContext, Denial> {
    let wrong = |why: String| {
        let detail = format!("ca_bundle {}: {why}", ca_bundle.display());
        Denial::new(Reason::ProfileMisconfigured, detail)
    };
    let pem = tokio::fs::read(ca_bundle)
        .await
        .map_err(|error| wrong(process::explained(error).to_string()))?;
    // The SDK's client would panic on an invalid file, and only at its first call.
    let mut found = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        found.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if found.is_empty() {
        return Err(wrong("it contains no certificate in PEM form".to_owned()));
    }
    let trust = TrustStore::empty().with_pem_certificate(pem);
    let context = TlsContext::builder().with_trust_store(trust).build();
    context.map_err(|error| wrong(with_causes(&error)))
}
