//! Picks up what changes outside: the AWS files, and sign-ins of other programs.
//!
//! Looking at a few files three times a second costs nothing, and sees what a notification of the
//! kernel may miss: editors that rename, Kubernetes' swap of a `..data` link, network file systems.
//!
//! Invariant: a file is read only once it has stood still for one look, so that half a file breaks no
//! profile; one that can't be read changes nothing. A profile that isn't there any more loses its keys.

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

/// Between two looks: a change is seen by the first, and taken over by the second or third.
const LOOK: Duration = Duration::from_millis(300);

/// A watch that ends with this value.
#[derive(Debug)]
pub(super) struct Watch(AbortHandle);

/// The files, each with what tells it from another one at the same place.
type Marks = Vec<(PathBuf, Option<Mark>)>;

/// What the looks have seen so far.
#[derive(Default)]
struct Looks {
    last: Option<Marks>,
    taken_over: Option<Marks>,
}

impl Looks {
    /// Whether the files have changed and stood still since: they are about to be read, and count as taken over with the
    /// marks of before. An edit while they are read, or a token file that counts since then, is another change.
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
    /// Begins to watch; the first look is some time away, so that nobody who starts waits for it.
    pub(super) fn start(
        home: Arc<Home>,
        profiles: Vec<Arc<Entry>>,
        changes: watch::Sender<()>,
    ) -> Self {
        let task = tokio::spawn(async move {
            let mut looks = Looks::default();
            loop {
                tokio::time::sleep(LOOK).await;
                if looks.settled(marks(&home, &profiles).await) {
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
    // A file system of the network may hang, and the runtime must not.
    let looking = tokio::task::spawn_blocking(move || files.into_iter().map(mark).collect());
    looking.await.unwrap_or_default()
}

/// Reloads what was loaded from what isn't so any more. The files are read once for all profiles; the caches of tokens
/// side by side, since one of them may be on a disk that hangs.
async fn take_over(home: &Home, profiles: &[Arc<Entry>]) {
    let snapshot = home.read().await;
    let taken = profiles.iter().map(async |profile| {
        let reading = profile.source.read(&snapshot, clock::now()).await;
        for agent in profile.agents.iter().filter_map(|agent| agent.made()) {
            // The profile's own line says it for all.
            agent.take_reading(reading.clone());
        }
        match profile.actor.take_reading(reading) {
            Taken::Same => {}
            Taken::Reloads => {
                tracing::info!(profile = %profile.name, "changed: its credentials are loaded again");
            }
            // Whoever reads this may rely on it.
            Taken::Dropped => tracing::info!(profile = %profile.name, "no longer in the AWS files"),
            Taken::Kept(denial) => {
                tracing::warn!(profile = %profile.name, %denial, "not loaded again: the credentials from before stay in use");
            }
        }
    });
    join_all(taken).await;
}

#[cfg(test)]
mod tests;
