//! `sigward-proxy check`: connects to an MCP server once, step by step, as serving does.
//!
//! It uses the same parts as serving: options, broker, signatures, connections and messages. It closes every session
//! that it opens. It shows nothing secret: of a signature, only the access key id and the scope.

mod advice;
mod clock;
mod network;
mod profile;
mod report;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt as _;
use sigward_proto::v1;

use self::profile::Checker;
use self::report::{Mark, Name, Profile, Report, Step};
use crate::broker::{Broker, Route};
use crate::budget::Budget;
use crate::config::{BrokerAddress, Config, MESSAGES_IN_TRANSIT};
use crate::signer::Signer;
use crate::upstream::{Settings, Upstream};

/// The most profiles that are checked at a time: AWS's servers limit the rate of requests.
const CONCURRENCY: usize = 4;
/// A certificate that expires within this time is reported.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// How long a private broker may take to look up the identity of its keys, and how often it is
/// queried.
const IDENTITY_TIMEOUT: Duration = Duration::from_millis(1500);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The result of a check.
#[derive(Debug)]
pub struct Checked {
    /// The text for standard output.
    pub output: String,
    /// Whether every step passed.
    pub is_good: bool,
}

/// Runs all steps; `None` if `stop` completed first.
pub async fn run(
    config: &Config,
    route: Route,
    json: bool,
    stop: impl Future<Output = ()>,
) -> Option<Checked> {
    let broker = Broker::new(route, config.timeouts.request);
    let first = broker_step(&broker, config).await;
    let has_broker = first.mark == Mark::Passed;
    let address = broker.address().to_string();
    let mut report = Report {
        endpoint: config.endpoint.to_string(),
        broker: address,
        steps: vec![first],
        profiles: Vec::new(),
    };
    let settings = Settings::new(config, true);
    let upstream = match Upstream::new(settings, Signer::new(broker.clone())) {
        Ok(upstream) => Arc::new(upstream),
        Err(error) => {
            report.steps.push(Step::failed(Name::Tls, None, error.to_string(), None));
            return Some(finished(&report, json));
        }
    };
    let budget = Budget::new(MESSAGES_IN_TRANSIT);
    let walk = Checker::new(config, broker.clone(), Arc::clone(&upstream), budget);
    let way = async {
        let network = network::steps(config, &upstream).await;
        let is_open = network::is_open(&network);
        let mut profiles = Vec::new();
        if has_broker {
            let names = futures_util::stream::iter(config.profiles.all());
            let walked = names.map(|name| walk.of(name, is_open)).buffered(CONCURRENCY);
            profiles = walked.collect().await;
            add_identities(&broker, config, &mut profiles).await;
        }
        (network, profiles)
    };
    let found = tokio::select! {
        found = way => Some(found),
        () = stop => None,
    };
    walk.end_all().await;
    let (network, profiles) = found?;
    report.steps.extend(network);
    report.profiles = profiles;
    if let Some(step) = report.steps.iter_mut().find(|step| step.name == Name::Tls) {
        add_expiry(step, &upstream);
    }
    Some(finished(&report, json))
}

fn finished(report: &Report, json: bool) -> Checked {
    let output = if json { report.json() } else { report.table() };
    Checked { output, is_good: report.is_good() }
}

async fn broker_step(broker: &Broker, config: &Config) -> Step {
    let begun = Instant::now();
    let profile = config.profiles.default();
    match broker.profiles(profile).await {
        Ok(profiles) => {
            let count = match profiles.len() {
                1 => "1 profile".to_owned(),
                count => format!("{count} profiles"),
            };
            Step::passed(Name::Broker, begun.elapsed(), format!("{}: {count}", broker.address()))
        }
        Err(error) => {
            let (_, advice) = advice::of_broker(&error, profile, broker.address());
            Step::failed(Name::Broker, Some(begun.elapsed()), error.to_string(), advice)
        }
    }
}

/// Fills in the identities of the profiles, as far as the broker knows them.
async fn add_identities(broker: &Broker, config: &Config, profiles: &mut [Profile]) {
    let begun = Instant::now();
    let known = loop {
        let Ok(known) = broker.profiles(config.profiles.default()).await else { return };
        let is_missing = |profile: &Profile| {
            !profile.access_key_id.is_empty()
                && find(&known, profile).is_some_and(|it| it.identity_arn.is_empty())
        };
        // Only the private broker was told to look up identities.
        let waits =
            *broker.address() == BrokerAddress::Private && begun.elapsed() < IDENTITY_TIMEOUT;
        if !waits || !profiles.iter().any(is_missing) {
            break known;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    for profile in profiles {
        let Some(known) = find(&known, profile) else { continue };
        profile.identity.clone_from(&known.identity_arn);
        profile.source.clone_from(&known.source);
        profile.region.clone_from(&known.region);
    }
}

fn find<'a>(known: &'a [v1::Profile], profile: &Profile) -> Option<&'a v1::Profile> {
    known.iter().find(|it| it.name == profile.name)
}

/// Adds the expiry of the server's certificate.
fn add_expiry(step: &mut Step, upstream: &Upstream) {
    let Some(not_after) =
        upstream.certificate().and_then(|der| sigward_proto::certificate::not_after(&der))
    else {
        return;
    };
    let until = httpdate::fmt_http_date(not_after);
    #[allow(clippy::disallowed_methods, reason = "the edge: whether a certificate ends soon")]
    let now = SystemTime::now();
    let left = not_after.duration_since(now).unwrap_or_default();
    step.detail = format!("the certificate is verified, and valid until {until}");
    if step.mark == Mark::Passed && left < EXPIRES_SOON {
        step.mark = Mark::Warned;
        step.advice = Some("ask the operator of the server to renew its certificate".to_owned());
    }
}
