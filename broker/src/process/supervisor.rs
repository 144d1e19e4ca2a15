//! Notifies the service manager (sd_notify(3)): ready, reloading, stopping, alive. Does nothing without one.
//!
//! Invariant: a manager that doesn't read costs a thread of the pool for blocking calls, and no worker.

use std::time::Duration;

use sd_notify::NotifyState;

/// Whoever started this process and wants to know how it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Supervisor {
    present: bool,
    /// After so long without a sign of life, it ends the process and starts another.
    patience: Option<Duration>,
}

impl Supervisor {
    /// The one that the environment names.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the command line calls it, and decides by it")]
    pub fn of_environment() -> Self {
        let present = std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty());
        Self { present, patience: sd_notify::watchdog_enabled().filter(|it| !it.is_zero()) }
    }

    /// Requests are answered from now on, by the configuration that `status` describes.
    pub(crate) async fn ready(self, status: String) {
        self.tell(move || sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)]))
            .await;
    }

    /// The configuration is being read again; [`Supervisor::ready`] ends that.
    pub(crate) async fn reloading(self) {
        let states = || {
            let now = NotifyState::monotonic_usec_now()?;
            sd_notify::notify(&[NotifyState::Reloading, now])
        };
        self.tell(states).await;
    }

    /// Calls in progress are answered, and no others.
    pub(crate) async fn stopping(self) {
        let draining = NotifyState::Status("draining");
        self.tell(move || sd_notify::notify(&[NotifyState::Stopping, draining])).await;
    }

    /// Says as often as it wants to hear it that the workers run: from a worker, so that it isn't said when none does.
    pub(crate) async fn stay_alive(self) {
        let Some(patience) = self.patience else { return std::future::pending().await };
        // Twice in the time, as sd_watchdog_enabled(3) recommends.
        let mut ticks = tokio::time::interval(patience / 2);
        loop {
            ticks.tick().await;
            self.tell(|| sd_notify::notify(&[NotifyState::Watchdog])).await;
        }
    }

    async fn tell(self, send: impl FnOnce() -> std::io::Result<()> + Send + 'static) {
        if !self.present {
            return;
        }
        // It fails only at the end of the runtime.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(send).await {
            tracing::warn!(%error, "the service manager can't be notified");
        }
    }
}
