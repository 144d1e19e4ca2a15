//! What the broker says of our profiles: whose identity each is, for the model, and the region that goes into `_meta` of
//! every request, with `--metadata`.
//!
//! It is asked once, and followed from then on where the model is told of it: what is shown stays the same for the same
//! state, and its readers are notified of changes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use sigward_proto::v1::Profile;
use tokio::sync::watch;
use url::Url;

use crate::attempt::Attempt;
use crate::broker::Broker;
use crate::config::{Config, ProfileName};
use crate::error::Error;
use crate::wire;

/// The key that AWS's MCP servers take their region from.
const AWS_REGION: &str = "AWS_REGION";
/// The pause before a broker is followed again that went away.
const PAUSE: Duration = Duration::from_secs(5);

/// The metadata of one profile's requests, as JSON text by key.
pub(crate) type Members = Arc<[(String, String)]>;

/// What the broker says of our profiles.
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
    /// Nothing before it was asked.
    profiles: RwLock<Option<Arc<HashMap<String, Known>>>>,
    asking: Attempt,
    is_followed: AtomicBool,
    changes: watch::Sender<()>,
}

/// One profile.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    description: String,
    account: String,
    role: String,
    region: Option<String>,
    members: Members,
}

impl Known {
    /// Its account, role and region, as far as they are known.
    fn identity(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let region = self.region.as_deref().unwrap_or_default();
        let parts = [("account", self.account.as_str()), ("role", &self.role), ("Region", region)];
        parts.into_iter().filter(|(_, value)| !value.is_empty())
    }

    /// What a model reads of it.
    fn shown(&self) -> String {
        let identity: Vec<_> =
            self.identity().map(|(key, value)| format!("{key} {value}")).collect();
        let (text, identity) = (self.description.trim_end_matches('.'), identity.join(", "));
        match (text, identity.as_str()) {
            (text, "") => text.to_owned(),
            ("", identity) => identity.to_owned(),
            (text, identity) => format!("{text} ({identity})"),
        }
    }
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
            profiles: RwLock::default(),
            asking: Attempt::default(),
            is_followed: AtomicBool::new(false),
            changes: watch::Sender::new(()),
        }
    }

    /// Makes sure that the broker has been asked.
    pub(crate) async fn load(&self) -> Result<(), Error> {
        let known = || self.known().map(drop);
        if known().is_some() {
            return Ok(());
        }
        // Once, and large: it holds a question to the broker.
        let asking = Box::pin(async {
            let profiles = self.broker.profiles(&self.asker).await?;
            self.take(profiles);
            Ok(())
        });
        self.asking.once(known, asking).await
    }

    /// The metadata of a profile's requests.
    pub(crate) fn of(&self, profile: &ProfileName) -> Members {
        let known = self.known();
        let known = known.as_ref().and_then(|known| known.get(profile.as_str()));
        Arc::clone(known.map_or(&self.unknown, |known| &known.members))
    }

    /// What a model is told of a profile.
    pub(crate) fn description(&self, profile: &ProfileName) -> Option<String> {
        self.known()?.get(profile.as_str()).map(Known::shown)
    }

    /// Whose identity a profile is, as a JSON object.
    pub(crate) fn identity(&self, profile: &ProfileName) -> String {
        let known = self.known();
        let known = known.as_ref().and_then(|known| known.get(profile.as_str()));
        let parts = known.into_iter().flat_map(Known::identity);
        let parts = [("profile", profile.as_str())].into_iter().chain(parts);
        let members = parts.map(|(key, value)| {
            format!("{}:{}", wire::quote(&key.to_lowercase()), wire::quote(value))
        });
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    }

    /// Hears of changes of what is told of the profiles.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Follows the broker's profiles from now on.
    pub(crate) fn follow(self: &Arc<Self>) {
        if !self.is_followed.load(Ordering::Relaxed)
            && !self.is_followed.swap(true, Ordering::Relaxed)
        {
            tokio::spawn(follow(self.broker.clone(), self.asker.clone(), Arc::downgrade(self)));
        }
    }

    fn known(&self) -> Option<Arc<HashMap<String, Known>>> {
        self.profiles.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over what the broker says now.
    fn take(&self, profiles: Vec<Profile>) {
        let profiles = profiles.into_iter().map(|profile| self.of_broker(profile)).collect();
        let profiles = Some(Arc::new(profiles));
        let mut known = self.profiles.write().unwrap_or_else(PoisonError::into_inner);
        let is_news = known.is_some() && *known != profiles;
        *known = profiles;
        drop(known);
        if is_news {
            self.changes.send_replace(());
        }
    }

    fn of_broker(&self, profile: Profile) -> (String, Known) {
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
        // What the server gets to read counts.
        let given = members.iter().find(|(key, _)| key == AWS_REGION);
        let region = given.and_then(|(_, value)| wire::string(value).map(|it| it.into_owned()));
        let (description, account, role) = (profile.description, profile.account, profile.role);
        (profile.name, Known { description, account, role, region, members })
    }
}

/// Takes over each change, as long as anybody is there to see it.
async fn follow(broker: Broker, asker: ProfileName, metadata: Weak<Metadata>) {
    loop {
        if let Ok(mut changes) = broker.watch(&asker).await {
            while let Ok(Some(list)) = changes.message().await {
                let Some(metadata) = metadata.upgrade() else { return };
                metadata.take(list.profiles);
            }
        }
        tokio::time::sleep(PAUSE).await;
        if metadata.strong_count() == 0 {
            return;
        }
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
