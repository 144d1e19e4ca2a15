//! Notifies the service manager (sd_notify(3)): ready, reloading, stopping, alive. Does nothing without one.
//!
//! Invariant: a manager that doesn't read blocks a thread of the pool for blocking calls, and no
//! worker.

use std::time::Duration;

use sd_notify::NotifyState;

/// The service manager that started this process, if any.
#[derive(Debug, Clone, Copy, Default)]
pub struct Supervisor {
    present: bool,
    /// The watchdog timeout, after which the manager restarts the process.
    timeout: Option<Duration>,
}

impl Supervisor {
    /// The one in the environment.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the command line calls it, and decides by it")]
    pub fn of_environment() -> Self {
        let present = std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty());
        Self { present, timeout: sd_notify::watchdog_enabled().filter(|it| !it.is_zero()) }
    }

    /// Reports that requests are answered, by the configuration that `status` describes.
    pub(crate) async fn ready(self, status: String) {
        self.notify(move || sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)]))
            .await;
    }

    /// Reports that the configuration is being reloaded; [`Supervisor::ready`] ends that.
    pub(crate) async fn reloading(self) {
        let states = || {
            let now = NotifyState::monotonic_usec_now()?;
            sd_notify::notify(&[NotifyState::Reloading, now])
        };
        self.notify(states).await;
    }

    /// Reports that only calls in progress are answered.
    pub(crate) async fn stopping(self) {
        let draining = NotifyState::Status("draining");
        self.notify(move || sd_notify::notify(&[NotifyState::Stopping, draining])).await;
    }

    /// Notifies the watchdog from a worker, so that it isn't notified if the workers hang.
    pub(crate) async fn stay_alive(self) {
        let Some(timeout) = self.timeout else { return std::future::pending().await };
        // Twice per timeout, as sd_watchdog_enabled(3) recommends.
        let mut ticks = tokio::time::interval(timeout / 2);
        loop {
            ticks.tick().await;
            self.notify(|| sd_notify::notify(&[NotifyState::Watchdog])).await;
        }
    }

    async fn notify(self, send: impl FnOnce() -> std::io::Result<()> + Send + 'static) {
        if !self.present {
            return;
        }
        // This fails only at the end of the runtime.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(send).await {
            tracing::warn!(%error, "the service manager can't be notified");
        }
    }
}
