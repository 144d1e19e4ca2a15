//! Puts the broker together and takes it apart: bind, assemble, serve, reload, drain.

mod reload;
mod scrape;

use std::future::{Future, pending};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream;
use sigward_proto::MAX_MESSAGE_BYTES;
use sigward_proto::v1::broker_server::BrokerServer;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tower::layer::util::{Identity, Stack};

pub use self::reload::Reread;
use crate::audit::Audit;
use crate::clock;
use crate::config::Config;
use crate::error::Error;
use crate::listen::{Connection, unix};
use crate::policy::Policy;
use crate::profile::{Profiles, Surroundings};
use crate::service::{Current, Meter, Service, State};

/// After a signal, calls in flight get so long to end.
const DRAIN: Duration = Duration::from_secs(10);
/// After a failed accept (no file descriptors left), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// HTTP/2 windows: a body of some hundred kilobytes comes in one go.
const WINDOW: u32 = 1 << 20;
/// Anyone may ask for the health of a service, and that is all.
const MAX_HEALTH_BYTES: usize = 1 << 10;

/// Serves on a Unix socket until `shutdown`, then drains. With `reread`, SIGHUP and a change of the
/// configuration file put the new configuration in force.
///
/// # Errors
/// It can't listen, or can't open its audit log.
pub async fn serve(
    config: Config,
    surroundings: &Surroundings,
    reread: Option<Reread>,
    default_socket: &Path,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let (drain, draining) = watch::channel(false);
    let state = assemble(&config, surroundings, draining)?;
    state.profiles.watch();
    state.profiles.preload();
    let current = Current::new(state);
    // Before anyone can know that we are here.
    let hangups = reread.as_ref().and_then(|_| reload::hangups());
    let socket = unix::Socket::open(&config.listen, default_socket)?;
    socket.listener.set_nonblocking(true).map_err(listening)?;
    let address = socket.listener.local_addr().map_err(listening)?;
    let listener = UnixListener::from_std(socket.listener).map_err(listening)?;
    let _file = socket.file;
    tracing::info!(
        socket = %address.as_pathname().unwrap_or(Path::new("(unnamed)")).display(),
        profiles = config.profiles.len(),
        endpoints = config.endpoints.len(),
        "listening"
    );
    let metrics = match config.metrics {
        Some(address) => Some(scrape::serve(address, Arc::clone(&current)).await?),
        None => None,
    };
    let metrics = metrics.map(tokio::spawn);
    let reload = reread.map(|reread| {
        let bound = reload::Bound { listen: config.listen, metrics: config.metrics };
        let (current, surroundings) = (Arc::clone(&current), surroundings.clone());
        tokio::spawn(reload::follow(reread, hangups, current, bound, surroundings))
    });
    let accepting = (listener, Arc::clone(&current));
    let incoming = stream::unfold(accepting, |(listener, current)| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let look_up_exe = current.state().policy.asks_for_exe();
                    let connection = Connection::accept(stream, look_up_exe, None);
                    return Some((Ok::<_, io::Error>(connection), (listener, current)));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection can't be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    let (started, stopping) = tokio::sync::oneshot::channel();
    let shutdown = async move {
        shutdown.await;
        tracing::info!("draining");
        drain.send_replace(true);
        // Nobody listens any more if everything has ended already.
        started.send(()).ok();
    };
    let serving = router(current).await.serve_with_incoming_shutdown(incoming, shutdown);
    let deadline = async {
        match stopping.await {
            Ok(()) => tokio::time::sleep(DRAIN).await,
            Err(_) => pending().await,
        }
    };
    tokio::select! {
        served = serving => served?,
        () = deadline => tracing::warn!("calls were still in flight when the time to drain was over"),
    }
    for task in [reload, metrics].into_iter().flatten() {
        task.abort();
    }
    tracing::info!("stopped");
    Ok(())
}

/// Serves the one connection that standard input was, until it ends or until `shutdown`.
///
/// # Errors
/// Standard input wasn't a Unix socket, or the audit log can't be opened.
pub async fn serve_connection(
    config: Config,
    surroundings: &Surroundings,
    stdin: OwnedFd,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let (_drain, draining) = watch::channel(false);
    let state = assemble(&config, surroundings, draining)?;
    let stream = unix::inherited_connection(stdin)?;
    let stream = UnixStream::from_std(stream).map_err(listening)?;
    let (open, mut closed) = mpsc::channel(1);
    let connection = Connection::accept(stream, state.policy.asks_for_exe(), Some(open));
    // The first signature is about to be asked for.
    state.profiles.prefetch();
    state.profiles.watch();
    let incoming = stream::iter([Ok::<_, io::Error>(connection)]);
    let incoming = futures_util::StreamExt::chain(incoming, stream::pending());
    tokio::select! {
        served = router(Current::new(state)).await.serve_with_incoming(incoming) => served?,
        _ = closed.recv() => {}
        () = shutdown => {}
    }
    Ok(())
}

/// Ends with SIGTERM or SIGINT.
///
/// # Errors
/// The signals can't be listened for.
pub fn termination() -> Result<impl Future<Output = ()>, Error> {
    let listen =
        |kind| signal(kind).map_err(|source| Error::Process { what: "listen for signals", source });
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn assemble(
    config: &Config,
    surroundings: &Surroundings,
    draining: watch::Receiver<bool>,
) -> Result<State, Error> {
    Ok(State {
        endpoints: config.endpoints.clone(),
        policy: Policy::new(config, Instant::now()),
        profiles: Profiles::new(config, surroundings),
        audit: Audit::open(&config.audit, clock::now())?,
        draining,
    })
}

async fn router(current: Arc<Current>) -> Router<Stack<Meter, Identity>> {
    let service = BrokerServer::new(Service::new(Arc::clone(&current)))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let service = InterceptedService::new(service, move |request| current.admit(request));
    let (health, health_service) = tonic_health::server::health_reporter();
    let health_service = health_service.max_decoding_message_size(MAX_HEALTH_BYTES);
    health.set_serving::<BrokerServer<Service>>().await;
    Server::builder()
        .layer(Meter::default())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW)
        .add_service(health_service)
        .add_service(service)
}

fn listening(source: io::Error) -> Error {
    let why = "it can't be used".to_owned();
    Error::Listen { socket: "the socket".to_owned(), why, source: Some(source) }
}

#[cfg(test)]
mod tests;
