//! For unit tests: the shared state without a broker or a server.

use std::sync::Arc;

use super::Shared;
use crate::broker::{Broker, Route};
use crate::cli;
use crate::environment::Environment;
use crate::signer::Signer;
use crate::upstream::{Settings, Upstream};

impl Shared {
    pub(crate) fn unconnected() -> Arc<Self> {
        let arguments = ["sigward-proxy", "http://127.0.0.1:1/mcp", "--profile", "a", "b"];
        let invocation = cli::parse(arguments.map(Into::into), &Environment::with(&[]));
        let config = invocation.unwrap().config;
        let broker = Broker::new(Route::Unix("/nonexistent".into()), config.timeouts.request);
        let settings = Settings {
            url: config.endpoint.clone(),
            network: config.network.clone(),
            headers: Vec::new(),
            timeouts: config.timeouts,
            skip_auth: false,
            telemetry: false,
            inspect: false,
        };
        let upstream = Upstream::new(settings, Signer::new(broker.clone())).unwrap();
        Self::new(&config, Arc::new(upstream), broker)
    }
}
