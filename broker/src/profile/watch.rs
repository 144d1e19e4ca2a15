//! Picks up what changes outside: the AWS files, and sign-ins of other programs.
//!
//! Looking at a few files three times a second costs nothing, and sees what a notification of the
//! kernel may miss: editors that rename, Kubernetes' swap of a `..data` link, network file systems.
//!
//! Invariant: a file is read only once it has stood still for one look, so that half a file breaks no
//! profile; one that can't be read changes nothing. A profile that isn't there any more loses its keys.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sigward_proto::v1::Reason;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::Profile;
use super::source::Seen;
use crate::error::Denial;

/// Between two looks: a change is seen by the first, and taken over by the second or third.
const LOOK: Duration = Duration::from_millis(300);

/// A watch that ends with this value.
#[derive(Debug)]
pub(super) struct Watch(AbortHandle);

/// What tells a file from the one that was there before.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark([i128; 5]);

impl Watch {
    /// Begins to watch; the first look is some time away, so that nobody who starts waits for it.
    pub(super) fn start(profiles: Vec<Arc<Profile>>, changes: watch::Sender<()>) -> Self {
        let task = tokio::spawn(async move {
            let mut taken_over = None;
            let mut last = None;
            loop {
                tokio::time::sleep(LOOK).await;
                let now = Some(marks(&profiles).await);
                if now == last && now != taken_over {
                    take_over(&profiles).await;
                    changes.send_replace(());
                    // Which files there are may have changed with that.
                    taken_over = Some(marks(&profiles).await);
                    last.clone_from(&taken_over);
                } else {
                    last = now;
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

async fn marks(profiles: &[Arc<Profile>]) -> Vec<(PathBuf, Option<Mark>)> {
    let mut files: Vec<PathBuf> =
        profiles.iter().flat_map(|profile| profile.source.watched()).collect();
    files.sort();
    files.dedup();
    // Through links: what counts is the file that would be read.
    let mark = |path: PathBuf| {
        let mark = std::fs::metadata(&path).ok().map(|metadata| Mark::of(&metadata));
        (path, mark)
    };
    // A file system of the network may hang, and the runtime must not.
    let looking = tokio::task::spawn_blocking(move || files.into_iter().map(mark).collect());
    looking.await.unwrap_or_default()
}

impl Mark {
    fn of(metadata: &Metadata) -> Self {
        let nanos =
            |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Self([
            i128::from(metadata.dev()),
            i128::from(metadata.ino()),
            i128::from(metadata.size()),
            nanos(metadata.mtime(), metadata.mtime_nsec()),
            nanos(metadata.ctime(), metadata.ctime_nsec()),
        ])
    }
}

/// Loads anew what was loaded from what isn't so any more.
async fn take_over(profiles: &[Arc<Profile>]) {
    for profile in profiles {
        let seen = profile.source.look().await;
        if !profile.refresh.touched() {
            continue;
        }
        match seen {
            Seen::Same => {}
            Seen::Other(change) => {
                profile.refresh.reload(change);
                tracing::info!(profile = %profile.name, "changed: its credentials are loaded again");
            }
            Seen::Gone => {
                let detail = "the profile isn't in the AWS files any more";
                profile.refresh.forget(Denial::new(Reason::ProfileMisconfigured, detail));
                // Whoever reads this may rely on it.
                tracing::info!(profile = %profile.name, "not in the AWS files any more");
            }
            Seen::Unreadable(denial) => {
                tracing::warn!(profile = %profile.name, %denial, "what was loaded stays");
            }
        }
    }
}

#[cfg(test)]
mod tests;
