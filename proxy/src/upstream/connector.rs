//! A layer of the HTTP client's connector, in which a connection may go elsewhere than to the request that asked for it.
//! The connector below is the client's own, with its proxies, authorities and protocols.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tower::{Layer, Service, ServiceExt};

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What becomes of the connections that are opened.
pub(super) trait Detour: Clone {
    /// What the request gets, where `connecting` opens a connection once it is polled.
    fn connect<C: Send + 'static>(
        &self,
        connecting: impl Future<Output = Result<C, BoxError>> + Send + 'static,
    ) -> BoxFuture<'static, Result<C, BoxError>>;
}

/// The layer.
#[derive(Debug, Clone)]
pub(super) struct By<D>(pub(super) D);

/// The connector with the layer on top. The HTTP client copies it several times for each request, and what is below
/// has an allocation for each of its layers: so the copies share that.
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

impl<S, D: Detour> Layer<S> for By<D> {
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
        // Each call has a connector of its own, which is waited for.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, destination: R) -> Self::Future {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.detour.connect(inner.oneshot(destination))
    }
}
