//! A gRPC client of a broker.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use sigward_proto::v1::broker_client::BrokerClient;
use sigward_proto::v1::sign_request::Payload;
use sigward_proto::v1::{Header, SignRequest};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::transport::{Channel, Endpoint};

use crate::deadline;

/// A connection to the broker at `socket`.
///
/// # Panics
/// If no broker answers there in time.
pub async fn connect(socket: &Path) -> BrokerClient<Channel> {
    BrokerClient::new(channel(socket).await)
}

/// The same, for any service.
///
/// # Panics
/// If no broker answers there in time.
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

/// A request to sign a POST of JSON to `url`.
#[must_use]
pub fn post(
    url: &str,
    profile: &str,
    headers: &[(&str, &'static str)],
    body: impl Into<Bytes>,
) -> SignRequest {
    let headers = [("content-type", "application/json")].iter().chain(headers);
    let header = |(name, value): &(&str, &'static str)| Header {
        name: (*name).to_owned(),
        value: Bytes::from_static(value.as_bytes()),
    };
    SignRequest {
        profile: profile.to_owned(),
        method: "POST".to_owned(),
        uri: url.to_owned(),
        headers: headers.map(header).collect(),
        payload: Some(Payload::Body(body.into())),
    }
}

/// A TLS connection to the broker at `address`. The broker may still reject the certificate after this side's
/// handshake.
///
/// # Errors
/// The handshake fails.
pub async fn shake_hands(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    // Like the real proxy: the second piece of a request would wait 40 ms for the acknowledgement of the first.
    stream.set_nodelay(true)?;
    let name = ServerName::IpAddress(address.ip().into());
    let connecting = TlsConnector::from(Arc::clone(config)).connect(name, stream);
    deadline::within(connecting, || format!("no TLS at {address}")).await
}

/// A client on a connection.
///
/// # Errors
/// The broker has closed it.
pub async fn client_on(
    stream: TlsStream<TcpStream>,
) -> Result<BrokerClient<Channel>, tonic::transport::Error> {
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        async move { stream }
    });
    let endpoint = Endpoint::from_static("http://broker.invalid");
    let connecting = endpoint.connect_with_connector(connector);
    let channel = deadline::within(connecting, || "the broker says nothing".to_owned()).await?;
    Ok(BrokerClient::new(channel))
}
