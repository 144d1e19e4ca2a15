//! Reloads the configuration, on SIGHUP and when the file has changed.
//!
//! Invariant: the new state takes effect as a whole, or not at all. A configuration with errors
//! changes nothing, and the errors are logged.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{self, Config, Listen};
use crate::error::{Error, with_causes};
use crate::policy::Policy;
use crate::process::Supervisor;
use crate::profile::Surroundings;
use crate::service::{Current, State};

/// The interval of checking the file. It is read when it hasn't changed for one interval.
const INTERVAL: Duration = Duration::from_millis(300);

/// Parses the text of a configuration file, with what the command line adds.
type Parse = dyn Fn(&str) -> Result<Config, Error> + Send + Sync;

/// The source for rereading the configuration.
pub struct Reread {
    /// The path of the file.
    pub path: PathBuf,
    /// Its text when the current configuration was parsed.
    pub text: Option<String>,
    /// Parses its text.
    pub parse: Box<Parse>,
}

/// What can't be reloaded, because this process has bound it.
pub(super) struct Bound {
    pub(super) listen: Listen,
    pub(super) metrics: Option<SocketAddr>,
}

/// Starts to listen for SIGHUP, which would end the process by default.
pub(super) fn hangups() -> Option<Signal> {
    signal(SignalKind::hangup()).ok()
}

/// Reloads on changes and SIGHUP, for ever. On SIGHUP the audit log is reopened too, even with the
/// same configuration: it may have been rotated.
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
    // The file may have changed since it was parsed: it is compared with the text that was parsed.
    let mut moved = true;
    loop {
        let asked = tokio::time::timeout(INTERVAL, signalled()).await.is_ok();
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
        // If it is read on a signal, it may be incomplete, and is checked again.
        moved = !still;
        let path = reread.path.clone();
        // A file on a hanging disk blocks a thread of the pool, but no worker.
        let read = tokio::task::spawn_blocking(move || config::read_text(&path)).await;
        // This fails only at the end of the runtime.
        let Ok(text) = read else { return };
        // A file that was written without changes isn't reloaded.
        if !asked && text.as_ref().ok() == reread.text.as_ref() {
            continue;
        }
        let config = match &text {
            Ok(text) => (reread.parse)(text).map_err(|error| with_causes(&error)),
            Err(error) => Err(with_causes(error)),
        };
        reread.text = text.ok();
        reload(config, &current, &bound, &surroundings).await;
        supervisor.ready(status(&current)).await;
    }
}

/// The status text for the service manager.
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
        tracing::error!("the audit log can't be opened again: {}", with_causes(&error));
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
                "the new configuration is rejected, the previous one stays in effect: {error}"
            );
        }
    }
}

/// The state for a configuration that replaces the current one.
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
    opened.map_err(|error| with_causes(&error))?;
    Ok(State {
        endpoints: config.endpoints.clone(),
        lanes: current.paces().lanes(config),
        policy: Policy::new(config),
        profiles: current.state().profiles.next(config, surroundings),
    })
}

/// Identifies the version of a file, through links.
fn mark(path: &Path) -> Option<(u64, u64, i64, i64, i64)> {
    use std::os::unix::fs::MetadataExt;

    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec(), found.ctime_nsec()))
}
