//! What the proxy adds to `_meta` of every request: the region of its profile, and `--metadata`.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use url::Url;

use crate::attempt::Attempt;
use crate::broker::Broker;
use crate::config::{Config, ProfileName};
use crate::error::Error;
use crate::wire;

/// The key that AWS's MCP servers take their region from.
const AWS_REGION: &str = "AWS_REGION";

/// The metadata of one profile's requests, as JSON text by key.
pub(crate) type Members = Arc<[(String, String)]>;

/// What the broker says of our profiles, asked once.
#[derive(Debug)]
pub(crate) struct Metadata {
    broker: Broker,
    asker: ProfileName,
    endpoint: Url,
    default_region: Option<String>,
    fallback_region: Option<String>,
    given: Vec<(String, String)>,
    /// Of profiles that the broker doesn't know, or before it was asked.
    unknown: Members,
    profiles: OnceLock<HashMap<String, Known>>,
    asking: Attempt,
}

#[derive(Debug)]
struct Known {
    description: String,
    members: Members,
}

impl Metadata {
    pub(crate) fn new(config: &Config, broker: Broker) -> Self {
        let given = config.metadata.iter().map(|(key, value)| (key.clone(), wire::quote(value)));
        let given: Vec<(String, String)> = given.collect();
        let default_region = config.default_region.clone();
        let fallback_region = config.fallback_region.clone();
        Self {
            broker,
            asker: config.profiles.default().clone(),
            endpoint: config.endpoint.clone(),
            unknown: members(&given, default_region.as_deref().or(fallback_region.as_deref())),
            default_region,
            fallback_region,
            given,
            profiles: OnceLock::new(),
            asking: Attempt::default(),
        }
    }

    /// Makes sure that the broker has been asked.
    pub(crate) async fn load(&self) -> Result<(), Error> {
        let known = || self.profiles.get().map(drop);
        self.asking
            .once(known, async {
                let _ = self.profiles.set(self.ask().await?);
                Ok(())
            })
            .await
    }

    /// The metadata of a profile's requests.
    pub(crate) fn of(&self, profile: &ProfileName) -> Members {
        let members = self.known(profile).map_or(&self.unknown, |known| &known.members);
        Arc::clone(members)
    }

    /// What the broker's config says of a profile.
    pub(crate) fn description(&self, profile: &ProfileName) -> Option<String> {
        self.known(profile).map(|known| known.description.clone())
    }

    fn known(&self, profile: &ProfileName) -> Option<&Known> {
        self.profiles.get().and_then(|profiles| profiles.get(profile.as_str()))
    }

    async fn ask(&self) -> Result<HashMap<String, Known>, Error> {
        let profiles = self.broker.profiles(&self.asker).await?;
        let known = profiles.into_iter().map(|profile| {
            let endpoint = profile.endpoints.iter().find(|endpoint| {
                Url::parse(&endpoint.url).is_ok_and(|url| url.origin() == self.endpoint.origin())
            });
            // The order of mcp-proxy-for-aws: what boto3 takes (`AWS_DEFAULT_REGION`, then the
            // profile's), then `AWS_REGION`, then the endpoint's.
            let own = Some(profile.region).filter(|region| !region.is_empty());
            let region = self
                .default_region
                .clone()
                .or(own)
                .or_else(|| self.fallback_region.clone())
                .or_else(|| endpoint.and_then(|endpoint| first_region(&endpoint.region)));
            let members = members(&self.given, region.as_deref());
            (profile.name, Known { description: profile.description, members })
        });
        Ok(known.collect())
    }
}

/// The first region with a name of those that signatures for an endpoint are valid in.
fn first_region(regions: &str) -> Option<String> {
    let first = regions.split(',').next()?;
    (first != "*").then(|| first.to_owned())
}

/// What was given, and the region where none was.
fn members(given: &[(String, String)], region: Option<&str>) -> Members {
    let names_region = given.iter().any(|(key, _)| key == AWS_REGION);
    let region = region.filter(|_| !names_region);
    let region = region.map(|region| (AWS_REGION.to_owned(), wire::quote(region)));
    region.into_iter().chain(given.iter().cloned()).collect()
}
