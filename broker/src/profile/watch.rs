//! Watches for external changes: of the AWS files, and sign-ins with other programs.
//!
//! Checking a few files three times a second costs little, and detects changes that kernel
//! notifications may miss: editors that rename, Kubernetes' swap of a `..data` link, network file
//! systems.
//!
//! Invariant: a file is read only when it hasn't changed for one interval, so that a half written
//! file breaks no profile; an unreadable one changes nothing. A profile that no longer exists loses
//! its keys.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::entry::Entry;
use super::home::Home;
use super::mark::Mark;
use super::reading::Taken;
use crate::clock;

/// The interval of checking the files: a change is detected by the first check, and read after the
/// second or third.
const INTERVAL: Duration = Duration::from_millis(300);

/// A watch, which ends on drop.
#[derive(Debug)]
pub(super) struct Watch(AbortHandle);

/// The files, each with the mark of its state.
type Marks = Vec<(PathBuf, Option<Mark>)>;

/// The marks of previous checks.
#[derive(Default)]
struct Checks {
    last: Option<Marks>,
    taken_over: Option<Marks>,
}

impl Checks {
    /// Whether the files have changed, and not again since the last check. They are then read, and
    /// recorded with the marks from before the reading: an edit during the reading, or a token file
    /// that is watched since, is another change.
    fn settled(&mut self, now: Marks) -> bool {
        let settled = self.last.as_ref() == Some(&now) && self.taken_over.as_ref() != Some(&now);
        if settled {
            self.taken_over = Some(now.clone());
        }
        self.last = Some(now);
        settled
    }
}

impl Watch {
    /// Starts to watch; the first check is delayed, so that it doesn't slow down the start.
    pub(super) fn start(
        home: Arc<Home>,
        profiles: Vec<Arc<Entry>>,
        changes: watch::Sender<()>,
    ) -> Self {
        let task = tokio::spawn(async move {
            let mut checks = Checks::default();
            loop {
                tokio::time::sleep(INTERVAL).await;
                if checks.settled(marks(&home, &profiles).await) {
                    take_over(&home, &profiles).await;
                    changes.send_replace(());
                }
            }
        });
        Self(task.abort_handle())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn marks(home: &Home, profiles: &[Arc<Entry>]) -> Marks {
    let tokens = profiles.iter().filter_map(|profile| profile.actor.token_file());
    let mut files: Vec<PathBuf> = home.paths().cloned().chain(tokens).collect();
    files.sort();
    files.dedup();
    let mark = |path: PathBuf| {
        let mark = Mark::of(&path);
        (path, mark)
    };
    // A network file system may hang, and must not block the runtime.
    let looking = tokio::task::spawn_blocking(move || files.into_iter().map(mark).collect());
    looking.await.unwrap_or_default()
}

/// Reloads the profiles whose inputs have changed. The files are read once for all profiles; the
/// token caches are read concurrently, because one of them may be on a hanging disk.
async fn take_over(home: &Home, profiles: &[Arc<Entry>]) {
    let snapshot = home.read().await;
    let taken = profiles.iter().map(async |profile| {
        let reading = profile.source.read(&snapshot, clock::now()).await;
        for agent in profile.agents.iter().filter_map(|agent| agent.made()) {
            // The line about the profile includes its agents.
            agent.take_reading(reading.clone());
        }
        match profile.actor.take_reading(reading) {
            Taken::Same => {}
            Taken::Reloads => {
                tracing::info!(profile = %profile.name, "changed: its credentials are reloaded");
            }
            // The keys are dropped before the line is logged.
            Taken::Dropped => tracing::info!(profile = %profile.name, "no longer in the AWS files"),
            Taken::Kept(denial) => {
                tracing::warn!(profile = %profile.name, %denial, "not reloaded: the previous credentials stay in use");
            }
        }
    });
    join_all(taken).await;
}

#[cfg(test)]
mod tests;
