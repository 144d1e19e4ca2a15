//! An address that stays the same while its target goes away and comes back, like a service of Kubernetes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// A relay, which ends with its connections on drop.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    resets: watch::Sender<()>,
    task: AbortHandle,
}

impl Relay {
    /// Connects to `target`; without one, connections are closed.
    pub(super) async fn to(target: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(Mutex::new(target));
        let (now, resets) = (Arc::clone(&target), watch::Sender::new(()));
        let reset = resets.clone();
        let accepting = async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let target = *now.lock().unwrap_or_else(PoisonError::into_inner);
                let mut reset = reset.subscribe();
                connections.spawn(async move {
                    let Some(target) = target else { return };
                    let Ok(mut far) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        // If one end closes, the other one has to see it.
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = reset.changed() => near.set_zero_linger().unwrap(),
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        };
        let task = tokio::spawn(accepting).abort_handle();
        Self { address, target, resets, task }
    }

    /// Sets the target of new connections.
    pub(super) fn set_target(&self, target: Option<SocketAddr>) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Resets all connections, as a machine does that has lost their state.
    pub(super) fn reset(&self) {
        self.resets.send_replace(());
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}
