//! Connections, and who is at their other end. What the RPCs mean isn't known here.
//!
//! Invariant: each connection carries the peer that the kernel named when it was accepted, or none.

pub(crate) mod unix;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tonic::transport::server::Connected;

use crate::peer::Peer;

/// One caller's connection.
pub(crate) struct Connection {
    stream: UnixStream,
    caller: Caller,
    /// Dropped with the connection: how the private broker learns that its proxy is gone.
    _open: Option<mpsc::Sender<()>>,
}

/// What the calls of a connection know about it.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) peer: Option<Peer>,
}

impl Connection {
    /// Phase *accept*.
    pub(crate) fn accept(
        stream: UnixStream,
        look_up_exe: bool,
        open: Option<mpsc::Sender<()>>,
    ) -> Self {
        // SO_PEERCRED may be missing: then there is no peer, and every call is denied.
        let credentials = stream.peer_cred().ok();
        let peer =
            credentials.map(|cred| Peer::new(cred.uid(), cred.gid(), cred.pid(), look_up_exe));
        Self { stream, caller: Caller { peer }, _open: open }
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
