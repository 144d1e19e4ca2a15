//! `/metrics` and `/healthz`, for collectors and supervisors.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::clock;
use crate::error::Error;
use crate::service::Current;

/// The media type of OpenMetrics, which is what the text is.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

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
    Ok(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "metrics are no longer served");
        }
    })
}

async fn metrics(State(current): State<Arc<Current>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], current.metrics_text(clock::now()).await)
}

async fn health(State(current): State<Arc<Current>>) -> (StatusCode, &'static str) {
    if *current.state().draining.borrow() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}
