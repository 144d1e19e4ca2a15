//! An HTTP/1.1 server on a loopback port, for whatever answers whole requests.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

/// The body of every response.
pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// Why there is no response: the connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed without an answer")]
pub(crate) struct HangUp;

/// A running server. Dropping it closes its socket and every connection.
#[derive(Debug)]
pub(crate) struct Loopback {
    pub(crate) address: SocketAddr,
    task: AbortHandle,
}

impl Drop for Loopback {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Loopback {
    /// Binds `port` (0: any) and has every request answered by `handler`.
    pub(crate) async fn start<H, F>(port: u16, handler: H) -> Self
    where
        H: Fn(Parts, Bytes) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Response<Body>, HangUp>> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a loopback port");
        let address = listener.local_addr().expect("the address of a bound socket");
        let task = tokio::spawn(accept(listener, Arc::new(handler))).abort_handle();
        Self { address, task }
    }
}

/// Accepts connections until the task is aborted; that closes them too.
async fn accept<H, F>(listener: TcpListener, handler: Arc<H>)
where
    H: Fn(Parts, Bytes) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Response<Body>, HangUp>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        while connections.try_join_next().is_some() {}
        let handler = Arc::clone(&handler);
        connections.spawn(async move {
            let service = service_fn(move |request: http::Request<Incoming>| {
                let handler = Arc::clone(&handler);
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.map_err(|_| HangUp)?.to_bytes();
                    handler(parts, body).await
                }
            });
            // A client that leaves is no concern of the server's.
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
