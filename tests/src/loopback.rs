//! An HTTP server on a loopback port, for handlers of whole requests: HTTP/1.1, and over TLS the negotiated protocol.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// The body of every response.
pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// Closes the connection without a response.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed without an answer")]
pub(crate) struct HangUp;

/// A running server. Dropping it closes its socket and every connection.
#[derive(Debug)]
pub(crate) struct Loopback {
    pub(crate) address: SocketAddr,
    /// The number of connections so far.
    connections: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Drop for Loopback {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Loopback {
    /// Binds `port` (0: any); `handler` answers every request.
    pub(crate) async fn start<H, F>(port: u16, handler: H) -> Self
    where
        H: Fn(Parts, Bytes) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Response<Body>, HangUp>> + Send + 'static,
    {
        Self::serve(port, None, handler).await
    }

    /// The number of connections so far; over TLS, those with a completed handshake.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// The same, over TLS if there is an acceptor.
    pub(crate) async fn serve<H, F>(port: u16, tls: Option<TlsAcceptor>, handler: H) -> Self
    where
        H: Fn(Parts, Bytes) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Response<Body>, HangUp>> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a loopback port");
        let address = listener.local_addr().expect("the address of a bound socket");
        let connections = Arc::<AtomicUsize>::default();
        let accepting = accept(listener, tls, Arc::clone(&connections), Arc::new(handler));
        let task = tokio::spawn(accepting).abort_handle();
        Self { address, connections, task }
    }
}

/// Accepts connections until the task is aborted, which closes them too.
async fn accept<H, F>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    count: Arc<AtomicUsize>,
    handler: Arc<H>,
) where
    H: Fn(Parts, Bytes) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Response<Body>, HangUp>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        while connections.try_join_next().is_some() {}
        let (handler, tls, count) = (Arc::clone(&handler), tls.clone(), Arc::clone(&count));
        connections.spawn(async move {
            let service = service_fn(move |request: http::Request<Incoming>| {
                let handler = Arc::clone(&handler);
                async move {
                    let (mut parts, body) = request.into_parts();
                    // HTTP/2 has the host in `:authority`.
                    if let Some(host) = parts.uri.authority()
                        && let Ok(host) = host.as_str().parse()
                    {
                        parts.headers.entry(http::header::HOST).or_insert(host);
                    }
                    let body = body.collect().await.map_err(|_| HangUp)?.to_bytes();
                    handler(parts, body).await
                }
            });
            // Errors of clients that leave are ignored.
            let Some(tls) = tls else {
                count.fetch_add(1, Ordering::Relaxed);
                let mut http = hyper::server::conn::http1::Builder::new();
                // A hundred signed headers, and those of the signature and of HTTP.
                http.max_headers(128);
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
                return;
            };
            let Ok(stream) = tls.accept(stream).await else { return };
            count.fetch_add(1, Ordering::Relaxed);
            let http = auto::Builder::new(TokioExecutor::new());
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
