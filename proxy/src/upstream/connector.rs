//! A layer of the HTTP client's connector that can divert a connection from the request that asked for it. The
//! connector below is the client's own, with its proxies, authorities and protocols.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tower::{Layer, Service, ServiceExt};

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Decides where an opened connection goes.
pub(super) trait Detour: Clone {
    /// The connection for the request; `connecting` opens one once it is polled.
    fn connect<C: Send + 'static>(
        &self,
        connecting: impl Future<Output = Result<C, BoxError>> + Send + 'static,
    ) -> BoxFuture<'static, Result<C, BoxError>>;
}

/// The layer.
#[derive(Debug, Clone)]
pub(super) struct DetourLayer<D>(pub(super) D);

/// The connector with the layer. The HTTP client copies it several times for each request, and each layer below would
/// allocate for each copy, so that the copies share one.
#[derive(Debug)]
pub(super) struct Connector<S, D> {
    inner: Arc<Mutex<S>>,
    detour: D,
}

impl<S, D: Clone> Clone for Connector<S, D> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), detour: self.detour.clone() }
    }
}

impl<S, D: Detour> Layer<S> for DetourLayer<D> {
    type Service = Connector<S, D>;

    fn layer(&self, inner: S) -> Connector<S, D> {
        Connector { inner: Arc::new(Mutex::new(inner)), detour: self.0.clone() }
    }
}

impl<S, R, D> Service<R> for Connector<S, D>
where
    S: Service<R, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: Send + 'static,
    R: Send + 'static,
    D: Detour,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Each call uses its own connector, and waits until it is ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, destination: R) -> Self::Future {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.detour.connect(inner.oneshot(destination))
    }
}
