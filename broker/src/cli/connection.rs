//! The connection to a running broker.

use std::io::{self, Cursor};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use hyper_util::rt::TokioIo;
use sigward_proto::remote::{Address, Given};
use sigward_proto::v1::broker_client::BrokerClient;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::error::{Error, with_causes};

/// The timeout of a broker, which usually answers in microseconds.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// Selects the broker, with the same options as those of the proxy.
#[derive(Debug, Default, Args)]
#[group(skip)]
pub(super) struct Which {
    /// Broker to ask: unix:PATH or https://HOST:PORT [default: the first that answers of
    /// $XDG_RUNTIME_DIR/sigward/broker.sock, /run/sigward/UID/broker.sock and /run/sigward/broker.sock]
    #[arg(long, value_name = "ADDRESS", env = "SIGWARD_BROKER", value_parser = address)]
    broker: Option<Address>,
    #[command(flatten)]
    given: Given,
}

fn address(text: &str) -> Result<Address, String> {
    let address = Address::parse(text)?;
    address.ok_or_else(|| "must be unix:PATH or https://HOST:PORT".to_owned())
}

impl Which {
    /// A connection to the named broker, and its address; `None` if none is named.
    pub(super) async fn named(self) -> Result<Option<(Channel, String)>, Error> {
        let Self { broker, given } = self;
        let Some(Address::Https { host, port }) = broker else {
            given.check_unused().map_err(Error::Usage)?;
            let Some(Address::Unix(path)) = broker else { return Ok(None) };
            let channel = channel(&path).await?;
            return Ok(Some((channel, path.display().to_string())));
        };
        let broker = given.broker_at(host, port).map_err(Error::Usage)?;
        let url = broker.url();
        let failed = |why: String| Error::Broker(format!("{url}: {why}"));
        let connecting = async { first_bytes(broker.connect(|_| ()).await?).await };
        let stream = tokio::time::timeout(TIMEOUT, connecting).await;
        let stream = stream.map_err(|_| failed("it doesn't answer".to_owned()))?;
        let stream = stream.map_err(|error| failed(error.to_string()))?;
        let channel = over(stream).await.map_err(failed)?;
        Ok(Some((channel, url)))
    }
}

/// A connection to the named broker, else to the first socket on which one listens.
pub(super) async fn connect(
    which: Which,
    sockets: &[PathBuf],
) -> Result<BrokerClient<Channel>, Error> {
    if let Some((channel, _)) = which.named().await? {
        return Ok(BrokerClient::new(channel));
    }
    let found = first(sockets).await.map_err(|tried| {
        let tried = tried.join("\n  ");
        let next = "start one (sigward-broker serve --help), or name it: --broker unix:PATH or https://HOST:PORT";
        Error::Broker(format!("no broker answers:\n  {tried}\n{next}"))
    });
    found.map(|(channel, _)| BrokerClient::new(channel))
}

/// A connection to the first socket on which a process listens, and its path; or the errors, each
/// once, because two sockets may be the same.
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

/// A connection to the process that listens on a socket.
async fn channel(path: &Path) -> Result<Channel, Error> {
    let failed = |why: String| Error::Broker(format!("{}: {why}", path.display()));
    let stream = UnixStream::connect(path).await.map_err(|error| failed(error.to_string()))?;
    over(stream).await.map_err(failed)
}

/// Waits for the first bytes of the broker: its HTTP/2 settings, or the reason why it refuses the
/// certificate, which it checks after the client's side of the handshake is complete. A call that
/// starts earlier may fail without a reason.
async fn first_bytes<S>(
    stream: S,
) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut reading, writing) = tokio::io::split(stream);
    let mut first = [0; 64];
    let length = reading.read(&mut first).await?;
    if length == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has closed the connection"));
    }
    let first = Cursor::new(first).take(length as u64);
    Ok(tokio::io::join(first.chain(reading), writing))
}

/// The channel over an open connection.
async fn over<S>(stream: S) -> Result<Channel, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        async move { stream.map(TokioIo::new) }
    });
    // The URI isn't used.
    let channel = Endpoint::from_static("http://broker").connect_with_connector(connector).await;
    channel.map_err(|error| with_causes(&error))
}

/// A timeout: a socket may accept and never answer, if its broker is stopped, or another program
/// listens.
pub(super) async fn in_time<T>(
    call: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<T, Error> {
    tokio::time::timeout(TIMEOUT, call).await.map_err(|_| late())?.map_err(refused)
}

pub(super) fn late() -> Error {
    Error::Broker("the broker doesn't answer: is it stopped?".to_owned())
}

/// The broker's message, or the cause if the connection failed.
pub(super) fn refused(status: tonic::Status) -> Error {
    match std::error::Error::source(&status) {
        Some(cause) => Error::Broker(format!("the connection failed: {}", with_causes(cause))),
        None => Error::Broker(format!("the broker refused: {}", status.message())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_named_by_an_absolute_path_or_over_tls() {
        assert_eq!(address("unix:/run/x"), Ok(Address::Unix("/run/x".into())));
        for (wrong, why) in [
            ("unix:relative", "absolute"),
            ("private", "unix:PATH or https://HOST:PORT"),
            ("http://b:7443", "clear text"),
        ] {
            let error = address(wrong).expect_err(wrong);
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }
}
