//! Opens a connection to the endpoint before the first request, while the broker loads keys and signs that request,
//! which takes longer than for later ones.
//!
//! Nothing is sent on the connection, and it is closed if no request uses it within [`KEPT`]. The connector is the HTTP
//! client's own, with its proxies, authorities and protocols. A request that finds no such connection, or one that
//! failed, connects as usual.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use url::Url;

use super::connector::{BoxError, Detour};

/// How long a connection waits for a request. Servers close silent connections, and a request sent
/// at that moment would be lost.
const KEPT: Duration = Duration::from_secs(5);

tokio::task_local! {
    /// Set while the HTTP client is made to connect without a real request.
    static AHEAD: ();
}

/// Keeps a connection for the first request.
#[derive(Debug, Clone)]
pub(super) struct Warm {
    waiting: Arc<Mutex<Option<oneshot::Receiver<Connection>>>>,
    limit: Duration,
}

/// Its type is private to the HTTP client.
type Connection = Box<dyn Any + Send>;

/// The error of the request that opened the connection.
#[derive(Debug, thiserror::Error)]
#[error("connected ahead")]
struct Ahead;

impl Warm {
    /// Makes a layer without a connection. `limit` is the time limit of connecting.
    pub(super) fn new(limit: Duration) -> Self {
        Self { waiting: Arc::default(), limit }
    }

    /// Starts to connect. Must be called before the first request, because `client` must have no
    /// open connection that it could send on, and in a runtime.
    pub(super) fn begin(&self, client: &reqwest::Client, url: &Url) {
        let request = reqwest::Request::new(http::Method::HEAD, url.clone());
        // The connector is called at once, and fails at once. Otherwise nothing would be sent
        // either, because the request is dropped here.
        let refused = AHEAD.sync_scope((), || client.execute(request).now_or_never());
        debug_assert!(refused.is_some_and(|refused| refused.is_err()));
    }

    fn take(&self) -> Option<oneshot::Receiver<Connection>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, connection: oneshot::Receiver<Connection>) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
    }
}

impl Detour for Warm {
    fn connect<C: Send + 'static>(
        &self,
        connecting: impl Future<Output = Result<C, BoxError>> + Send + 'static,
    ) -> BoxFuture<'static, Result<C, BoxError>> {
        if AHEAD.try_with(|()| ()).is_ok() {
            let (connected, waiting) = oneshot::channel::<Connection>();
            self.put(waiting);
            let (warm, limit) = (self.clone(), self.limit);
            tokio::spawn(async move {
                match tokio::time::timeout(limit, connecting).await {
                    Ok(Ok(connection)) => {
                        // The request that waited for it may be gone.
                        let _ = connected.send(Box::new(connection));
                        tokio::time::sleep(KEPT).await;
                        drop(warm.take());
                    }
                    // The request that waits for it connects itself, and gets the error.
                    Ok(Err(error)) => tracing::debug!(%error, "no connection ahead"),
                    Err(_) => tracing::debug!("no connection ahead in {limit:?}"),
                }
            });
            return Box::pin(async { Err(Ahead.into()) });
        }
        let waiting = self.take();
        Box::pin(async move {
            if let Some(waiting) = waiting
                && let Ok(connection) = waiting.await
                && let Ok(connection) = connection.downcast()
            {
                return Ok(*connection);
            }
            connecting.await
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tower::{Layer, Service};

    use super::*;
    use crate::upstream::connector::DetourLayer;

    const LIMIT: Duration = Duration::from_secs(60);

    /// Connects to nothing: the first connection is number 1. With `fails`, the first one fails.
    fn numbered(
        fails: bool,
        made: Arc<AtomicUsize>,
    ) -> impl Service<(), Response = usize, Error = BoxError, Future: Send> + Clone + Send + 'static
    {
        tower::service_fn(move |()| {
            let number = made.fetch_add(1, Ordering::Relaxed) + 1;
            async move {
                tokio::task::yield_now().await;
                if fails && number == 1 { Err("not there".into()) } else { Ok(number) }
            }
        })
    }

    fn ahead<S: Service<(), Error = BoxError>>(connector: &mut S) {
        let refused = AHEAD.sync_scope((), || connector.call(()).now_or_never());
        assert!(refused.is_some_and(|refused| refused.is_err()), "nobody gets it");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_request_uses_the_open_connection() {
        let made = Arc::default();
        let mut connector = DetourLayer(Warm::new(LIMIT)).layer(numbered(false, Arc::clone(&made)));
        ahead(&mut connector);
        assert_eq!(connector.call(()).await.unwrap(), 1);
        assert_eq!(connector.call(()).await.unwrap(), 2, "the next one connects");
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unused_connection_is_closed() {
        let made = Arc::default();
        let warm = Warm::new(LIMIT);
        let mut connector = DetourLayer(warm.clone()).layer(numbered(false, made));
        ahead(&mut connector);
        tokio::time::sleep(KEPT - Duration::from_millis(1)).await;
        assert!(warm.waiting.lock().unwrap().is_some(), "the connection is kept until then");
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(warm.waiting.lock().unwrap().is_none());
        assert_eq!(connector.call(()).await.unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_connection_does_not_fail_the_request() {
        let mut connector = DetourLayer(Warm::new(LIMIT)).layer(numbered(true, Arc::default()));
        ahead(&mut connector);
        assert_eq!(connector.call(()).await.unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_connection_attempt_ends() {
        let never = tower::service_fn(|()| std::future::pending::<Result<usize, BoxError>>());
        let warm = Warm::new(LIMIT);
        let mut connector = DetourLayer(warm.clone()).layer(never);
        ahead(&mut connector);
        let waiting = warm.take().unwrap();
        assert!(tokio::time::timeout(LIMIT * 2, waiting).await.unwrap().is_err());
    }

    /// With the HTTP client: there is one connection, and only the request is sent on it.
    #[tokio::test]
    async fn nothing_is_sent_ahead() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/mcp", server.local_addr().unwrap())).unwrap();
        let warm = Warm::new(LIMIT);
        let client =
            reqwest::Client::builder().no_proxy().connector_layer(DetourLayer(warm.clone()));
        let client = client.build().unwrap();
        warm.begin(&client, &url);
        let (mut connection, _) = server.accept().await.unwrap();
        let request = tokio::spawn(client.post(url).body("a body").send());
        let mut received = Vec::new();
        while !received.ends_with(b"a body") {
            assert_ne!(connection.read_buf(&mut received).await.unwrap(), 0);
        }
        assert!(received.starts_with(b"POST /mcp"), "{}", String::from_utf8_lossy(&received));
        let answer = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
        connection.write_all(answer).await.unwrap();
        assert_eq!(request.await.unwrap().unwrap().status(), 202);
    }
}
