//! The broker's information about the profiles: the identity of each, for the model, and the region for `_meta` of
//! every request, together with `--metadata`.
//!
//! It is loaded once. If the model is shown the profiles, changes are followed from then on: the text stays the same
//! for the same state, and its readers are notified of changes.

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

/// The key from which AWS's MCP servers take their region.
const AWS_REGION: &str = "AWS_REGION";
/// The pause before reconnecting to a broker that went away.
const PAUSE: Duration = Duration::from_secs(5);

/// The metadata of one profile's requests, as JSON text by key.
pub(crate) type Members = Arc<[(String, String)]>;

/// The broker's information about the profiles.
#[derive(Debug)]
pub(crate) struct Metadata {
    broker: Broker,
    default_profile: ProfileName,
    endpoint: Url,
    default_region: Option<String>,
    fallback_region: Option<String>,
    given: Vec<(String, String)>,
    /// The metadata for profiles that the broker doesn't know, and before it was loaded.
    unknown: Members,
    /// `None` until it is loaded.
    profiles: RwLock<Option<Arc<HashMap<String, Known>>>>,
    asking: Attempt,
    is_followed: AtomicBool,
    changes: watch::Sender<()>,
}

/// The information about one profile.
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

    /// The text for a model.
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
            default_profile: config.profiles.default().clone(),
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

    /// Loads the information, unless that has been done.
    pub(crate) async fn load(&self) -> Result<(), Error> {
        let known = || self.known().map(drop);
        if known().is_some() {
            return Ok(());
        }
        // Boxed because it happens once and is large: it holds a request to the broker.
        let asking = Box::pin(async {
            let profiles = self.broker.profiles(&self.default_profile).await?;
            self.update(profiles);
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

    /// The description of a profile for a model.
    pub(crate) fn description(&self, profile: &ProfileName) -> Option<String> {
        self.known()?.get(profile.as_str()).map(Known::shown)
    }

    /// The identity of a profile, as a JSON object.
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

    /// Notifies of changes of the descriptions.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Follows the broker's profiles from now on.
    pub(crate) fn follow(self: &Arc<Self>) {
        if !self.is_followed.load(Ordering::Relaxed)
            && !self.is_followed.swap(true, Ordering::Relaxed)
        {
            tokio::spawn(follow(
                self.broker.clone(),
                self.default_profile.clone(),
                Arc::downgrade(self),
            ));
        }
    }

    fn known(&self) -> Option<Arc<HashMap<String, Known>>> {
        self.profiles.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stores the broker's current information.
    fn update(&self, profiles: Vec<Profile>) {
        let profiles = profiles.into_iter().map(|profile| self.of_broker(profile)).collect();
        let profiles = Some(Arc::new(profiles));
        let mut known = self.profiles.write().unwrap_or_else(PoisonError::into_inner);
        let has_changed = known.is_some() && *known != profiles;
        *known = profiles;
        drop(known);
        if has_changed {
            self.changes.send_replace(());
        }
    }

    fn of_broker(&self, profile: Profile) -> (String, Known) {
        let endpoint = profile.endpoints.iter().find(|endpoint| {
            Url::parse(&endpoint.url).is_ok_and(|url| url.origin() == self.endpoint.origin())
        });
        // The order of mcp-proxy-for-aws: that of boto3 (`AWS_DEFAULT_REGION`, then the profile's),
        // then `AWS_REGION`, then the endpoint's.
        let own = Some(profile.region).filter(|region| !region.is_empty());
        let region = self
            .default_region
            .clone()
            .or(own)
            .or_else(|| self.fallback_region.clone())
            .or_else(|| endpoint.and_then(|endpoint| first_region(&endpoint.region)));
        let members = members(&self.given, region.as_deref());
        // The value that the server reads takes precedence.
        let given = members.iter().find(|(key, _)| key == AWS_REGION);
        let region = given.and_then(|(_, value)| wire::string(value).map(|it| it.into_owned()));
        let (description, account, role) = (profile.description, profile.account, profile.role);
        (profile.name, Known { description, account, role, region, members })
    }
}

/// Stores each change, while the metadata is in use.
async fn follow(broker: Broker, default_profile: ProfileName, metadata: Weak<Metadata>) {
    loop {
        if let Ok(mut changes) = broker.watch(&default_profile).await {
            while let Ok(Some(list)) = changes.message().await {
                let Some(metadata) = metadata.upgrade() else { return };
                metadata.update(list.profiles);
            }
        }
        tokio::time::sleep(PAUSE).await;
        if metadata.strong_count() == 0 {
            return;
        }
    }
}

/// The first named region of those in which signatures for an endpoint are valid.
fn first_region(regions: &str) -> Option<String> {
    let first = regions.split(',').next()?;
    (first != "*").then(|| first.to_owned())
}

/// The given members, and the region unless it is among them.
fn members(given: &[(String, String)], region: Option<&str>) -> Members {
    let names_region = given.iter().any(|(key, _)| key == AWS_REGION);
    let region = region.filter(|_| !names_region);
    let region = region.map(|region| (AWS_REGION.to_owned(), wire::quote(region)));
    region.into_iter().chain(given.iter().cloned()).collect()
}
