//! `health`: whether a running broker takes calls, for probes of containers that have no shell.
//!
//! Anyone who reaches the socket may ask (`grpc.health.v1`), so that a probe needs no rule. Silent where all is well;
//! else one line says why, and the exit code is 1.

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

/// Probes come every few seconds: a broker that takes longer is not well.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    broker: Which,
}

pub(super) async fn run(options: Options, sockets: &[PathBuf]) -> Result<ExitCode, Error> {
    let asked = tokio::time::timeout(PATIENCE, ask_first(options.broker, sockets)).await;
    asked.unwrap_or_else(|_| Err(late()))?;
    Ok(ExitCode::SUCCESS)
}

/// Asks the broker that is named, else the one at the first of the sockets where anything listens.
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

    /// A broker's health at `socket`, as `status` says.
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
    async fn a_broker_that_serves_is_well_and_one_that_drains_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let (well, drains, absent) = (path("well"), path("drains"), path("absent"));
        serve(&well, ServingStatus::Serving);
        serve(&drains, ServingStatus::NotServing);
        assert_eq!(health(&[absent.clone(), well.clone()]).await, Ok(ExitCode::SUCCESS));
        // The first that answers is the one that is meant.
        let why = health(&[drains.clone(), well]).await.expect_err("it takes no calls");
        assert_eq!(why, format!("{}: the broker accepts no calls now", drains.display()));
        let why = health(&[absent.clone(), absent.clone()]).await.expect_err("nobody is there");
        assert_eq!(why, format!("{}: No such file or directory (os error 2)", absent.display()));
    }

    /// A broker that is stopped, or stuck: the kernel still takes connections for it.
    #[tokio::test(start_paused = true)]
    async fn one_that_never_answers_is_not_well() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("silent");
        let _listener = UnixListener::bind(&socket).expect("a socket");
        let why = health(&[socket]).await.expect_err("no answer");
        assert!(why.contains("doesn't answer"), "{why}");
    }
}
