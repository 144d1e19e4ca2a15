//! The connection to a running broker.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use sigward_proto::v1::broker_client::BrokerClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::error::Error;

/// A broker answers in microseconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The broker at the given address, else the first of the sockets that one listens on.
pub(super) async fn connect(
    broker: Option<&str>,
    sockets: &[PathBuf],
) -> Result<BrokerClient<Channel>, Error> {
    if let Some(address) = broker {
        let Some(path) = address.strip_prefix("unix:") else {
            let why =
                format!("--broker {address}: write unix:PATH, this version has Unix sockets only");
            return Err(Error::Broker(why));
        };
        return channel(Path::new(path)).await.map(BrokerClient::new);
    }
    let found = first(sockets).await.map_err(|tried| {
        let tried = tried.join("\n  ");
        let next =
            "start one (sigward-broker serve --help), or name its socket: --broker unix:PATH";
        Error::Broker(format!("no broker answers:\n  {tried}\n{next}"))
    });
    found.map(|(channel, _)| BrokerClient::new(channel))
}

/// A connection to the first of the sockets on which anything listens, and which that is; or why there is none, each
/// reason once: two of them may be one.
pub(super) async fn first(sockets: &[PathBuf]) -> Result<(Channel, &Path), Vec<String>> {
    let mut tried = Vec::new();
    for socket in sockets {
        match channel(socket).await {
            Ok(channel) => return Ok((channel, socket)),
            Err(error) if !tried.contains(&error.to_string()) => tried.push(error.to_string()),
            Err(_) => {}
        }
    }
    Err(tried)
}

/// A connection to whatever listens on a socket.
async fn channel(path: &Path) -> Result<Channel, Error> {
    let failed = |why: String| Error::Broker(format!("{}: {why}", path.display()));
    let stream = UnixStream::connect(path).await.map_err(|error| failed(error.to_string()))?;
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_: Uri| {
        let stream =
            stream.take().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected));
        async move { stream.map(TokioIo::new) }
    });
    // The URI is only a name: the connection is there.
    let channel = Endpoint::from_static("http://broker").connect_with_connector(connector).await;
    channel.map_err(|error| failed(error.to_string()))
}

/// A socket may accept and never answer: a broker that is stopped, or something else.
pub(super) async fn in_time<T>(
    call: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<T, Error> {
    tokio::time::timeout(PATIENCE, call).await.map_err(|_| late())?.map_err(refused)
}

pub(super) fn late() -> Error {
    Error::Broker("the broker doesn't answer: is it stopped?".to_owned())
}

pub(super) fn refused(status: tonic::Status) -> Error {
    Error::Broker(format!("the broker refused: {}", status.message()))
}
