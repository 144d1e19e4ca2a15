//! What the proxy adds to `_meta` of every request: the region of its profile, and `--metadata`.

use std::collections::HashMap;

use tokio::sync::OnceCell;
use url::Url;

use crate::broker::Broker;
use crate::config::{Config, ProfileName};
use crate::error::Error;
use crate::wire;

/// The key that AWS's MCP servers take their region from.
const AWS_REGION: &str = "AWS_REGION";

/// What the broker says of our profiles, asked once.
#[derive(Debug)]
pub(super) struct Metadata {
    broker: Broker,
    asker: ProfileName,
    endpoint: Url,
    default_region: Option<String>,
    fallback_region: Option<String>,
    given: Vec<(String, String)>,
    profiles: OnceCell<HashMap<String, Known>>,
}

#[derive(Debug)]
struct Known {
    description: String,
    region: Option<String>,
}

impl Metadata {
    pub(super) fn new(config: &Config, broker: Broker) -> Self {
        let given = config.metadata.iter().map(|(key, value)| (key.clone(), wire::quote(value)));
        Self {
            broker,
            asker: config.profiles.default().clone(),
            endpoint: config.endpoint.clone(),
            default_region: config.default_region.clone(),
            fallback_region: config.fallback_region.clone(),
            given: given.collect(),
            profiles: OnceCell::new(),
        }
    }

    /// Makes sure that the broker has been asked.
    pub(super) async fn load(&self) -> Result<(), Error> {
        self.profiles.get_or_try_init(|| self.ask()).await.map(|_| ())
    }

    /// The metadata of a profile's requests, as JSON text by key. The region is the first that is
    /// there of those that boto3 takes (`AWS_DEFAULT_REGION`, the profile's), then `AWS_REGION`, then
    /// the endpoint's: the order of mcp-proxy-for-aws.
    pub(super) fn of(&self, profile: &ProfileName) -> Vec<(String, String)> {
        let mut metadata = self.given.clone();
        if !metadata.iter().any(|(key, _)| key == AWS_REGION) {
            let known = self.known(profile).and_then(|known| known.region.as_ref());
            let region = self.default_region.as_ref().or(known).or(self.fallback_region.as_ref());
            if let Some(region) = region {
                metadata.insert(0, (AWS_REGION.to_owned(), wire::quote(region)));
            }
        }
        metadata
    }

    /// What the broker's config says of a profile.
    pub(super) fn description(&self, profile: &ProfileName) -> Option<String> {
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
            let own = Some(profile.region).filter(|region| !region.is_empty());
            let region = own
                .or_else(|| self.fallback_region.clone())
                .or_else(|| endpoint.map(|endpoint| endpoint.region.clone()));
            (profile.name, Known { description: profile.description, region })
        });
        Ok(known.collect())
    }
}
