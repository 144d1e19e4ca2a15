//! The steps before a request is sent to the endpoint: name resolution, connection, TLS.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use tokio::net::TcpStream;
use url::Url;

use super::advice;
use super::report::{Name, Step};
use crate::config::Config;
use crate::error::Error;
use crate::upstream::Upstream;

/// The address of the first connection.
struct Target {
    host: String,
    port: u16,
    /// The HTTP proxy, if the target is one, without its password.
    proxy: Option<String>,
}

/// Runs the steps. After a failed step, the others are skipped.
pub(super) async fn steps(config: &Config, upstream: &Upstream) -> Vec<Step> {
    let Some(target) = Target::of(config) else {
        let why = "the endpoint has no host";
        return vec![Step::failed(Name::Resolution, None, why, None)];
    };
    let limit = config.timeouts.connect;
    let (resolved, addresses) = resolve(&target, limit).await;
    let mut steps = vec![resolved];
    if addresses.is_empty() {
        return skipped(steps, &[Name::Connection, Name::Tls]);
    }
    let connected = connect(&target, &addresses, limit).await;
    let is_connected = connected.mark == super::report::Mark::Passed;
    steps.push(connected);
    if !is_connected {
        return skipped(steps, &[Name::Tls]);
    }
    steps.push(match config.endpoint.scheme() {
        "https" => tls(upstream, &target).await,
        _ => Step::skipped(Name::Tls, "none: the endpoint is on this machine"),
    });
    steps
}

/// Whether no step failed.
pub(super) fn is_open(steps: &[Step]) -> bool {
    steps.iter().all(|step| step.mark != super::report::Mark::Failed)
}

fn skipped(mut steps: Vec<Step>, names: &[Name]) -> Vec<Step> {
    steps.extend(names.iter().map(|&name| Step::skipped(name, "")));
    steps
}

impl Target {
    fn of(config: &Config) -> Option<Self> {
        let url = &config.endpoint;
        let (proxy, url) = match proxy(config) {
            Some(proxy) => (Some(proxy.to_string()), proxy),
            None => (None, url.clone()),
        };
        // Without the brackets of an IPv6 address.
        let host = match url.host()? {
            url::Host::Domain(name) => name.to_owned(),
            url::Host::Ipv4(address) => address.to_string(),
            url::Host::Ipv6(address) => address.to_string(),
        };
        let port = url.port_or_known_default().unwrap_or(1080);
        Some(Self { host, port, proxy })
    }

    fn shown(&self) -> String {
        let Self { host, port, .. } = self;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        match &self.proxy {
            Some(proxy) => format!("the HTTP proxy {proxy}"),
            None => format!("{host}:{port}"),
        }
    }
}

/// The HTTP proxy that the HTTP client uses for the endpoint, by the same rules.
fn proxy(config: &Config) -> Option<Url> {
    if config.network.is_direct {
        return None;
    }
    let endpoint: Uri = config.endpoint.as_str().parse().ok()?;
    let intercept = Matcher::from_system().intercept(&endpoint)?;
    let mut url = Url::parse(&intercept.uri().to_string()).ok()?;
    // The report must not contain the password.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Some(url)
}

async fn resolve(target: &Target, limit: Duration) -> (Step, Vec<SocketAddr>) {
    let name = Name::Resolution;
    let begun = Instant::now();
    let asked = tokio::net::lookup_host((target.host.as_str(), target.port));
    let asked = tokio::time::timeout(limit, asked).await;
    let time = begun.elapsed();
    let failed = |why: String| {
        let detail = format!("{} can't be resolved: {why}", target.host);
        (
            Step::failed(
                name,
                Some(time),
                detail,
                Some(advice::resolution(target.proxy.as_deref())),
            ),
            vec![],
        )
    };
    match asked {
        Err(_) => failed(format!("no answer within {} s", limit.as_secs_f64())),
        Ok(Err(error)) => failed(error.to_string()),
        Ok(Ok(found)) => {
            let addresses: Vec<SocketAddr> = found.collect();
            if addresses.is_empty() {
                return failed("it has no address".to_owned());
            }
            let mut shown: Vec<String> = addresses.iter().map(|it| it.ip().to_string()).collect();
            shown.dedup();
            let of = target.proxy.as_ref().map(|_| "the HTTP proxy: ").unwrap_or_default();
            (Step::passed(name, time, format!("{of}{}", shown.join(", "))), addresses)
        }
    }
}

async fn connect(target: &Target, addresses: &[SocketAddr], limit: Duration) -> Step {
    let name = Name::Connection;
    let begun = Instant::now();
    let connecting = async {
        let mut last = None;
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(_) => return Ok(*address),
                Err(error) => last = Some(error.to_string()),
            }
        }
        Err(last.unwrap_or_default())
    };
    let connected = tokio::time::timeout(limit, connecting).await;
    let time = begun.elapsed();
    let failed = |why: &str| {
        let detail = format!("can't connect to {}: {why}", target.shown());
        let is_v6_alone = addresses.iter().all(SocketAddr::is_ipv6);
        let advice = advice::connection(target.proxy.as_deref(), is_v6_alone);
        Step::failed(name, Some(time), detail, Some(advice))
    };
    match connected {
        Ok(Ok(address)) => {
            let through = target.proxy.as_ref().map(|it| format!(", the HTTP proxy {it}"));
            Step::passed(name, time, format!("{address}{}", through.unwrap_or_default()))
        }
        Ok(Err(why)) => failed(&why),
        Err(_) => {
            failed(&format!("no answer within {} s (--connect-timeout)", limit.as_secs_f64()))
        }
    }
}

/// Like the HTTP client, with its proxies, authorities and protocols.
async fn tls(upstream: &Upstream, target: &Target) -> Step {
    let begun = Instant::now();
    match upstream.probe().await {
        Ok(()) => Step::passed(Name::Tls, begun.elapsed(), "the certificate is verified"),
        Err(error) => {
            let advice = match &error {
                Error::Connect { detail, .. } => advice::tls(detail, target.proxy.as_deref()),
                _ => None,
            };
            Step::failed(Name::Tls, Some(begun.elapsed()), error.to_string(), advice)
        }
    }
}
