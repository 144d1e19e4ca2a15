//! State that all clients of a process share.

#[cfg(test)]
mod unconnected;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::sign_in::SignIns;
use crate::broker::Broker;
use crate::budget::{Budget, Message};
use crate::config::{Config, MESSAGES_IN_TRANSIT, Profiles, REQUESTS_IN_TRANSIT, ToolPolicy};
use crate::metadata::Metadata;
use crate::profile::Offer;
use crate::upstream::Upstream;

/// The channel for messages to a client.
pub type Outlet = mpsc::Sender<Message>;

/// State that all clients of a process share.
#[derive(Debug)]
pub struct Shared {
    pub(crate) profiles: Profiles,
    pub(crate) upstream: Arc<Upstream>,
    /// The memory for messages of servers.
    pub(crate) messages: Budget,
    /// The memory for requests of clients.
    pub(crate) requests: Budget,
    pub(crate) tool_timeout: Duration,
    pub(crate) retries: u32,
    pub(super) offer: Arc<Offer>,
    pub(super) tools: ToolPolicy,
    pub(super) metadata: Arc<Metadata>,
    pub(super) sign_ins: Arc<SignIns>,
    pub(super) broker: Broker,
    pub(super) show_identity: bool,
}

impl Shared {
    /// The state for `config`, with connections to the server and to the broker.
    #[must_use]
    pub fn new(config: &Config, upstream: Arc<Upstream>, broker: Broker) -> Arc<Self> {
        Arc::new(Self {
            profiles: config.profiles.clone(),
            upstream,
            messages: Budget::new(MESSAGES_IN_TRANSIT),
            requests: Budget::new(REQUESTS_IN_TRANSIT),
            tool_timeout: config.timeouts.tool,
            retries: config.retries,
            offer: Arc::new(Offer::new(config.profiles.clone(), config.argument.clone())),
            tools: config.tools.clone(),
            sign_ins: Arc::new(SignIns::new(config.sign_in, broker.clone())),
            metadata: Arc::new(Metadata::new(config, broker.clone())),
            broker,
            show_identity: config.show_identity,
        })
    }
}
