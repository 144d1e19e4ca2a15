//! `/metrics` and `/healthz`, for collectors and supervisors.
//!
//! Any process that reaches the address can connect, so connections are short and few.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::clock;
use crate::error::Error;
use crate::service::Current;

/// The media type of OpenMetrics, which is the format of the text.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The most concurrent collectors; further connections are closed. The attack: idle connections
/// take all file descriptors of the broker.
const MAX_CONNECTIONS: usize = 32;
/// The timeout of a connection, from the first byte of the request to the last of the answer.
const LIFE: Duration = Duration::from_secs(5);
/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listens on `address`; the future serves until it is dropped.
///
/// # Errors
/// The address can't be listened on.
pub(super) async fn serve(
    address: SocketAddr,
    current: Arc<Current>,
) -> Result<impl Future<Output = ()> + Send + 'static, Error> {
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen {
        socket: address.to_string(),
        why: "metrics can't be served there".to_owned(),
        source: Some(source),
    })?;
    let bound = listener.local_addr().unwrap_or(address);
    tracing::info!(address = %bound, "serving metrics");
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .with_state(current);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    Ok(async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "a collector's connection can't be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
            let service = TowerToHyperService::new(router.clone());
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(LIFE)
                .keep_alive(false)
                .max_headers(64)
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(async move {
                // A failure is the collector's concern.
                tokio::time::timeout(LIFE, connection).await.ok();
                drop(place);
            });
        }
    })
}

async fn metrics(State(current): State<Arc<Current>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], current.metrics_text(clock::now()).await)
}

async fn health(State(current): State<Arc<Current>>) -> (StatusCode, &'static str) {
    if current.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}
