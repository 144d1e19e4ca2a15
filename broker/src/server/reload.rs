//! A new configuration without a new process: on SIGHUP, and when the file has changed.
//!
//! Invariant: the new state is put in place as a whole, or not at all. A configuration with errors
//! changes nothing, and the errors are logged.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{self, Config, Listen};
use crate::error::{Error, in_words};
use crate::policy::Policy;
use crate::process::Supervisor;
use crate::profile::Surroundings;
use crate::service::{Current, State};

/// Between two looks at the file. It is read once it has stood still for one.
const LOOK: Duration = Duration::from_millis(300);

/// Parses the text of a configuration file, with what the command line adds.
type Parse = dyn Fn(&str) -> Result<Config, Error> + Send + Sync;

/// How to read the configuration again.
pub struct Reread {
    /// The file.
    pub path: PathBuf,
    /// What it said when the configuration that is in force was parsed.
    pub text: Option<String>,
    /// How its text is understood.
    pub parse: Box<Parse>,
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

/// Reloads whenever there is a reason to, for ever. On SIGHUP the audit log is opened again too, whatever
/// the configuration says: someone may have rotated it.
pub(super) async fn follow(
    reread: Option<Reread>,
    mut hangup: Option<Signal>,
    current: Arc<Current>,
    bound: Bound,
    surroundings: Surroundings,
    supervisor: Supervisor,
) {
    let mut signalled = async move || match &mut hangup {
        Some(hangup) => hangup.recv().await,
        None => std::future::pending().await,
    };
    let Some(mut reread) = reread else {
        while signalled().await.is_some() {
            supervisor.reloading().await;
            reopen(&current).await;
            supervisor.ready(status(&current)).await;
        }
        return;
    };
    let mut last = None;
    // The file may have changed since it was parsed: what counts as in force is what was parsed then.
    let mut moved = true;
    loop {
        let asked = tokio::time::timeout(LOOK, signalled()).await.is_ok();
        if asked {
            supervisor.reloading().await;
            reopen(&current).await;
        }
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
        let path = reread.path.clone();
        // A file on a hung disk holds a thread, and no worker.
        let read = tokio::task::spawn_blocking(move || config::read_text(&path)).await;
        // It fails only at the end of the runtime.
        let Ok(text) = read else { return };
        // An editor that wrote the same again is no reason.
        if !asked && text.as_ref().ok() == reread.text.as_ref() {
            continue;
        }
        let config = match &text {
            Ok(text) => (reread.parse)(text).map_err(|error| in_words(&error)),
            Err(error) => Err(in_words(error)),
        };
        reread.text = text.ok();
        reload(config, &current, &bound, &surroundings).await;
        supervisor.ready(status(&current)).await;
    }
}

/// What the service manager shows of the broker.
pub(super) fn status(current: &Current) -> String {
    if current.rejected() {
        return "the configuration has errors: the previous one stays in effect".to_owned();
    }
    let state = current.state();
    let (profiles, endpoints) = (state.profiles.names().count(), state.endpoints.len());
    format!("{profiles} profiles, {endpoints} endpoints")
}

async fn reopen(current: &Current) {
    if let Err(error) = current.audit().reopen(None).await {
        tracing::error!("the audit log can't be opened again: {}", in_words(&error));
    }
}

async fn reload(
    config: Result<Config, String>,
    current: &Current,
    bound: &Bound,
    surroundings: &Surroundings,
) {
    let state = match config {
        Ok(config) => successor(&config, current, bound, surroundings).await,
        Err(error) => Err(error),
    };
    match state {
        Ok(state) => {
            current.replace(state);
            tracing::info!("the configuration was reloaded");
        }
        Err(error) => {
            current.reject();
            tracing::error!(
                "the new configuration is rejected, the one before stays in effect: {error}"
            );
        }
    }
}

/// The state that a configuration means, after the one that holds.
async fn successor(
    config: &Config,
    current: &Current,
    bound: &Bound,
    surroundings: &Surroundings,
) -> Result<State, String> {
    if config.listen != bound.listen {
        tracing::warn!("the change of [listen] needs a restart of the broker");
    }
    if config.metrics != bound.metrics {
        tracing::warn!("the change of [metrics] needs a restart of the broker");
    }
    let opened = current.audit().reopen(Some(&config.audit)).await;
    opened.map_err(|error| in_words(&error))?;
    Ok(State {
        endpoints: config.endpoints.clone(),
        lanes: current.paces().lanes(config),
        policy: Policy::new(config),
        profiles: current.state().profiles.next(config, surroundings),
    })
}

/// What tells the file from the one that was there before, through links.
fn mark(path: &Path) -> Option<(u64, u64, i64, i64, i64)> {
    use std::os::unix::fs::MetadataExt;

    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec(), found.ctime_nsec()))
}
