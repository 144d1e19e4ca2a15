//! The network of a pod: a thread in its namespace, with a runtime that opens its sockets there.

use std::fs::File;
use std::future::Future;
use std::os::fd::AsFd as _;
use std::sync::mpsc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The thread and all its tasks end on drop.
pub(super) struct Network {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl Network {
    /// The network of the process `pid`.
    pub(super) fn of(pid: u32) -> Self {
        let namespace = File::open(format!("/proc/{pid}/ns/net")).expect("a network");
        let (give, take) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        std::thread::spawn(move || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), kind).expect("root may enter it");
            // A single thread: others wouldn't be in the namespace.
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            give.send(runtime.handle().clone()).expect("the test waits");
            let _ = runtime.block_on(stopped);
        });
        Self { handle: take.recv().expect("the thread is in the namespace"), _stop: stop }
    }

    /// Spawns a task in this network.
    pub(super) fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.handle.spawn(future)
    }

    /// The output of `future`, run in this network.
    pub(super) async fn run<F>(&self, future: F) -> F::Output
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.spawn(future).await.expect("no panic")
    }
}

/// Passes each connection to `port` of any address on to the loopback port `to`, from now on.
pub(super) async fn forward(port: u16, to: u16) {
    let listener = TcpListener::bind(("0.0.0.0", port)).await.expect("a port");
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.expect("a connection");
            tokio::spawn(async move {
                let mut far = TcpStream::connect(("127.0.0.1", to)).await?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
}

/// A server that sends `text` to every client.
pub(super) async fn answer_always(port: u16, text: &'static str) {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a port");
    loop {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(text.as_bytes()).await;
    }
}
