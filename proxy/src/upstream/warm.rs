//! A connection to the endpoint that is opened before the first request: while the broker loads keys and
//! signs that request, which takes longer than all later ones.
//!
//! Nothing is sent on it, and when nobody takes it within [`KEPT`] it is closed. The connector is the
//! HTTP client's own, with its proxies, authorities and protocols; a request that finds no such
//! connection, or one that failed, connects as ever.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use url::Url;

use super::connector::{BoxError, Detour};

/// How long a connection waits for a request. Servers close those on which nothing comes, and the
/// request would be lost that is sent at that moment.
const KEPT: Duration = Duration::from_secs(5);

tokio::task_local! {
    /// Set while the HTTP client is asked to connect for nobody.
    static AHEAD: ();
}

/// Keeps a connection for the first request.
#[derive(Debug, Clone)]
pub(super) struct Warm {
    waiting: Arc<Mutex<Option<oneshot::Receiver<Connection>>>>,
    limit: Duration,
}

/// Of a type that only the HTTP client can name.
type Connection = Box<dyn Any + Send>;

/// The error that the request gets whose connection was opened ahead.
#[derive(Debug, thiserror::Error)]
#[error("connected ahead")]
struct Ahead;

impl Warm {
    /// Nothing is connected yet. `limit` is how long that may take.
    pub(super) fn new(limit: Duration) -> Self {
        Self { waiting: Arc::default(), limit }
    }

    /// Begins to connect. Only before the first request: `client` must have no connection that a
    /// request could go out on. In a runtime.
    pub(super) fn begin(&self, client: &reqwest::Client, url: &Url) {
        let request = reqwest::Request::new(http::Method::HEAD, url.clone());
        // The connector is asked at once, and fails at once. Were it not, nothing would be sent
        // either: the request ends here.
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
                        // Whoever waited for it may be gone.
                        let _ = connected.send(Box::new(connection));
                        tokio::time::sleep(KEPT).await;
                        drop(warm.take());
                    }
                    // Whoever waits for it connects, and sees the error.
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
    use crate::upstream::connector::By;

    const LIMIT: Duration = Duration::from_secs(60);

    /// Connects to nothing: the first connection is number 1. `fails` has the first one fail.
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
    async fn the_first_request_gets_what_was_opened_ahead() {
        let made = Arc::default();
        let mut connector = By(Warm::new(LIMIT)).layer(numbered(false, Arc::clone(&made)));
        ahead(&mut connector);
        assert_eq!(connector.call(()).await.unwrap(), 1);
        assert_eq!(connector.call(()).await.unwrap(), 2, "the next one connects");
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_is_closed() {
        let made = Arc::default();
        let warm = Warm::new(LIMIT);
        let mut connector = By(warm.clone()).layer(numbered(false, made));
        ahead(&mut connector);
        tokio::time::sleep(KEPT - Duration::from_millis(1)).await;
        assert!(warm.waiting.lock().unwrap().is_some(), "it is kept so long");
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(warm.waiting.lock().unwrap().is_none());
        assert_eq!(connector.call(()).await.unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_is_no_error_of_a_request() {
        let mut connector = By(Warm::new(LIMIT)).layer(numbered(true, Arc::default()));
        ahead(&mut connector);
        assert_eq!(connector.call(()).await.unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_ends() {
        let never = tower::service_fn(|()| std::future::pending::<Result<usize, BoxError>>());
        let warm = Warm::new(LIMIT);
        let mut connector = By(warm.clone()).layer(never);
        ahead(&mut connector);
        let waiting = warm.take().unwrap();
        assert!(tokio::time::timeout(LIMIT * 2, waiting).await.unwrap().is_err());
    }

    /// With the HTTP client: one connection, on which nothing is sent but the request.
    #[tokio::test]
    async fn nothing_is_sent_ahead() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/mcp", server.local_addr().unwrap())).unwrap();
        let warm = Warm::new(LIMIT);
        let client = reqwest::Client::builder().no_proxy().connector_layer(By(warm.clone()));
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
