//! A gRPC client of a broker.

use std::path::Path;

use hyper_util::rt::TokioIo;
use sigward_proto::v1::broker_client::BrokerClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::deadline;

/// A connection to the broker at `socket`.
///
/// # Panics
/// If nobody answers there in time.
pub async fn connect(socket: &Path) -> BrokerClient<Channel> {
    BrokerClient::new(channel(socket).await)
}

/// The same, for any service.
///
/// # Panics
/// If nobody answers there in time.
pub async fn channel(socket: &Path) -> Channel {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://broker.invalid");
    let connecting = endpoint.connect_with_connector(connector);
    let channel = deadline::within(connecting, || format!("no broker at {}", socket.display()));
    channel.await.unwrap()
}
