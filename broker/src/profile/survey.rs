//! The first reading of the AWS files, to show profiles that haven't been used yet.
//!
//! Invariant: a home on a hanging disk delays lists of the profiles once, by at most [`TIMEOUT`].

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;

use super::entry::Entry;
use super::home::Home;
use crate::clock;

/// The time after which a disk is assumed to hang.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A reading that continues even after its waiting callers have timed out.
#[derive(Debug)]
pub(super) struct Survey(watch::Receiver<bool>);

impl Survey {
    pub(super) fn start(
        home: Arc<Home>,
        profiles: Vec<Arc<Entry>>,
        changes: watch::Sender<()>,
    ) -> Self {
        let (over, waiting) = watch::channel(false);
        let surveying = tokio::spawn(async move {
            let snapshot = home.read().await;
            let unknown = profiles.iter().filter(|profile| !profile.actor.is_surveyed());
            let read = unknown.map(async |profile| {
                profile.actor.survey(profile.source.read(&snapshot, clock::now()).await);
            });
            join_all(read).await;
            profiles.iter().for_each(|profile| report_untraceable(profile));
            changes.send_replace(());
        });
        tokio::spawn(async move {
            drop(tokio::time::timeout(TIMEOUT, surveying).await);
            over.send_replace(true);
        });
        Self(waiting)
    }

    /// Waits until the files have been read, or a timeout.
    pub(super) async fn wait(&self) {
        // This fails only at the end of the runtime.
        drop(self.0.clone().wait_for(|over| *over).await);
    }
}

/// Reports agents that AWS couldn't tell apart, before the first of their calls fails.
fn report_untraceable(profile: &Entry) {
    let Some(traceable) = profile.actor.traceable() else { return };
    for agent in &profile.agents {
        if let Err(denial) = traceable.check(&agent.agent) {
            let (profile, agent) = (&profile.name, agent.agent.name());
            tracing::error!(%profile, agent, %denial, "nothing will be signed for the agent");
        }
    }
}
