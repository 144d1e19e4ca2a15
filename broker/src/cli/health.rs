//! `health`: checks whether a running broker accepts calls, for probes of containers without a shell.
//!
//! Any process that reaches the socket may query it (`grpc.health.v1`), so a probe needs no rule.
//! It prints nothing on success; otherwise one line with the cause, and the exit code is 1.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use sigward_proto::v1::broker_server::SERVICE_NAME;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::connection::{Which, first, late, refused};
use crate::error::Error;

/// The timeout of a probe. Probes come every few seconds, so a broker that takes longer counts as
/// failed.
const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    broker: Which,
}

pub(super) async fn run(options: Options, sockets: &[PathBuf]) -> Result<ExitCode, Error> {
    let asked = tokio::time::timeout(TIMEOUT, ask_first(options.broker, sockets)).await;
    asked.unwrap_or_else(|_| Err(late()))?;
    Ok(ExitCode::SUCCESS)
}

/// Queries the named broker, else the one at the first socket on which a process listens.
async fn ask_first(which: Which, sockets: &[PathBuf]) -> Result<(), Error> {
    if let Some((channel, address)) = which.named().await? {
        return ask(HealthClient::new(channel), &address).await;
    }
    let found = first(sockets).await;
    let (channel, socket) = found.map_err(|tried| Error::Broker(tried.join("; ")))?;
    ask(HealthClient::new(channel), &socket.display().to_string()).await
}

async fn ask(
    mut client: HealthClient<tonic::transport::Channel>,
    address: &str,
) -> Result<(), Error> {
    let service = SERVICE_NAME.to_owned();
    let answer = client.check(HealthCheckRequest { service }).await.map_err(refused)?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        _ => Err(Error::Broker(format!("{address}: the broker accepts no calls now"))),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::path::Path;

    use tokio::net::UnixListener;
    use tonic_health::ServingStatus;

    use super::*;

    /// A service at `socket` that reports `status`.
    fn serve(socket: &Path, status: ServingStatus) {
        let listener = UnixListener::bind(socket).expect("a socket");
        let connections = futures_util::stream::unfold(listener, async |listener| {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        tokio::spawn(async move {
            let (reporter, service) = tonic_health::server::health_reporter();
            reporter.set_service_status(SERVICE_NAME, status).await;
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(connections).await.expect("it serves");
            Ok::<(), Infallible>(())
        });
    }

    async fn health(sockets: &[PathBuf]) -> Result<ExitCode, String> {
        run(Options { broker: Which::default() }, sockets).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_serving_broker_is_healthy_and_a_draining_one_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let (well, drains, absent) = (path("well"), path("drains"), path("absent"));
        serve(&well, ServingStatus::Serving);
        serve(&drains, ServingStatus::NotServing);
        assert_eq!(health(&[absent.clone(), well.clone()]).await, Ok(ExitCode::SUCCESS));
        // The first one that answers is used.
        let why = health(&[drains.clone(), well]).await.expect_err("it takes no calls");
        assert_eq!(why, format!("{}: the broker accepts no calls now", drains.display()));
        let why = health(&[absent.clone(), absent.clone()]).await.expect_err("no server answers");
        assert_eq!(why, format!("{}: No such file or directory (os error 2)", absent.display()));
    }

    /// A stopped or blocked broker: the kernel still accepts connections for it.
    #[tokio::test(start_paused = true)]
    async fn a_broker_that_never_answers_is_unhealthy() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("silent");
        let _listener = UnixListener::bind(&socket).expect("a socket");
        let why = health(&[socket]).await.expect_err("no answer");
        assert!(why.contains("doesn't answer"), "{why}");
    }
}
