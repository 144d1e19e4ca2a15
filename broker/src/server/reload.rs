//! A new configuration without a new process: on SIGHUP, and when the file has changed.
//!
//! Invariant: the new state is put in place as a whole, or not at all. A configuration with faults
//! changes nothing, and says so.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::audit::Audit;
use crate::clock;
use crate::config::{Config, Listen};
use crate::error::{Error, in_words};
use crate::policy::Policy;
use crate::profile::Surroundings;
use crate::service::{Current, State};

/// Between two looks at the file. It is read once it has stood still for one.
const LOOK: Duration = Duration::from_millis(300);

/// How to read the configuration again.
pub struct Reread {
    /// The file.
    pub path: PathBuf,
    /// Reads it, with what the command line adds.
    pub read: Box<dyn Fn() -> Result<Config, Error> + Send + Sync>,
}

/// What stays as it was at the start: what this process has bound.
pub(super) struct Bound {
    pub(super) listen: Listen,
    pub(super) metrics: Option<SocketAddr>,
}

/// SIGHUP is a reason to reload from now on: whoever sends it means that, and by default it would end
/// the process.
pub(super) fn hangups() -> Option<Signal> {
    signal(SignalKind::hangup()).ok()
}

/// Reloads whenever there is a reason to, for ever.
pub(super) async fn follow(
    reread: Reread,
    mut hangup: Option<Signal>,
    current: Arc<Current>,
    bound: Bound,
    surroundings: Surroundings,
) {
    let mut in_force = std::fs::read(&reread.path).ok();
    let mut last = mark(&reread.path);
    let mut moved = false;
    loop {
        let signalled = async {
            match &mut hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        let asked = tokio::time::timeout(LOOK, signalled).await.is_ok();
        let now = mark(&reread.path);
        let still = now == last;
        last = now;
        let settled = still && moved;
        if !(asked || settled) {
            moved |= !still;
            continue;
        }
        // Read for a signal too, it may be half a file, which is looked at again.
        moved = !still;
        let text = std::fs::read(&reread.path).ok();
        // An editor that wrote the same again is no reason.
        if !asked && text == in_force {
            continue;
        }
        in_force = text;
        reload(&reread, &current, &bound, &surroundings);
    }
}

fn reload(reread: &Reread, current: &Current, bound: &Bound, surroundings: &Surroundings) {
    let read = (reread.read)().and_then(|config| {
        if config.listen != bound.listen {
            tracing::warn!("another [listen] takes effect when the broker is started again");
        }
        if config.metrics != bound.metrics {
            tracing::warn!("another [metrics] takes effect when the broker is started again");
        }
        successor(&config, surroundings, &current.state())
    });
    match read {
        Ok(state) => {
            current.replace(state);
            tracing::info!("the configuration was loaded again");
        }
        Err(error) => {
            current.reject();
            tracing::error!(
                "the new configuration is not in force, the one before stays: {}",
                in_words(&error)
            );
        }
    }
}

/// The state that a configuration means, after the one that holds.
fn successor(config: &Config, surroundings: &Surroundings, before: &State) -> Result<State, Error> {
    Ok(State {
        endpoints: config.endpoints.clone(),
        policy: Policy::new(config, Instant::now()),
        profiles: before.profiles.next(config, surroundings),
        // Opened anew: someone may have rotated it.
        audit: Audit::open(&config.audit, clock::now())?,
        draining: before.draining.clone(),
    })
}

/// What tells the file from the one that was there before, through links.
fn mark(path: &Path) -> Option<(u64, u64, i64, i64, i64)> {
    use std::os::unix::fs::MetadataExt;

    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec(), found.ctime_nsec()))
}
