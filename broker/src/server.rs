//! The life of the broker: bind, assemble, serve, reload, drain.

mod obstacles;
mod reload;
mod scrape;

use std::future::{Future, pending};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::OptionFuture;
use futures_util::stream;
use sigward_proto::local::Local;
use sigward_proto::v1::broker_server::BrokerServer;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;
use tower::layer::util::{Identity, Stack};

pub use self::obstacles::{Obstacles, obstacles};
pub use self::reload::Reread;
use crate::audit::Audit;
use crate::clock;
use crate::config::Config;
use crate::error::Error;
pub use crate::intake::unix::Sockets;
use crate::intake::{self, Connection, Gate, Intake, accept, tls, unix};
use crate::pace::Paces;
use crate::peer::PeerPattern;
use crate::policy::Policy;
use crate::process::Supervisor;
use crate::profile::{Profiles, Surroundings};
use crate::service::{Current, Recorder, Service, State};

/// How long calls in flight may take after a signal. None of them waits for anything by then
/// (`Current::unless_ending`), so only answers remain that callers don't read.
const DRAIN: Duration = Duration::from_secs(2);
/// How long connections may stay open after the last call: a stopped caller doesn't close its own.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// The interval of recording denials that were only counted, in one line for each user.
const SUM_UP: Duration = Duration::from_secs(10);

/// Serves on a Unix socket until `shutdown`, then drains. With `reread`, SIGHUP and changes of the
/// configuration file reload the configuration.
///
/// # Errors
/// The broker can't listen, or can't open its audit log.
pub async fn serve(
    config: Config,
    surroundings: &Surroundings,
    reread: Option<Reread>,
    sockets: Sockets,
    supervisor: Supervisor,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let (drain, draining) = watch::channel(false);
    let current = assemble(&config, surroundings, draining)?;
    current.state().profiles.watch();
    current.state().profiles.preload();
    // Before any process can know about this one.
    let hangups = reload::hangups();
    let over_tls = tls::Listener::open(&config.listen).await?;
    let socket = unix::Socket::open(&config.listen, sockets)?;
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
    if let Some(listener) = &over_tls {
        tracing::info!(address = %listener.address().map_err(listening)?, "serving over TLS");
        if !config.rules.iter().any(|rule| !matches!(rule.peer, PeerPattern::Unix(_))) {
            tracing::warn!("no rule names a spiffe_id or dns: every caller over TLS is refused");
        }
    }
    let metrics = match config.metrics {
        Some(address) => Some(scrape::serve(address, Arc::clone(&current)).await?),
        None => None,
    };
    let mut tasks = JoinSet::new();
    if let Some(metrics) = metrics {
        tasks.spawn(metrics);
    }
    let bound = reload::Bound { listen: config.listen, metrics: config.metrics };
    if let Some(listener) = &over_tls {
        let (tls, current) = (Arc::clone(listener.tls()), Arc::clone(&current));
        tasks.spawn(async move { tls.follow(current.metrics()).await });
    }
    let (followed, around) = (Arc::clone(&current), surroundings.clone());
    tasks.spawn(reload::follow(reread, hangups, followed, bound, around, supervisor));
    tasks.spawn(supervisor.stay_alive());
    tasks.spawn(sum_up(Arc::clone(&current)));
    let intake = Intake::new(Arc::clone(&current));
    let incoming = stream::unfold((listener, Arc::clone(&intake)), accept_unix);
    let (calls, last_calls) = (Arc::clone(&intake), Arc::clone(&intake));
    let (health, health_service) = health().await;
    let (mut drained, calls_over_tls) = (drain.subscribe(), Arc::clone(&intake));
    let over_tls = over_tls.map(|listener| {
        let router = router(Arc::clone(&intake), health_service.clone(), OVER_TLS);
        let shutdown = async move {
            drop(drained.wait_for(|draining| *draining).await);
            calls_over_tls.idle().await;
        };
        router.serve_with_incoming_shutdown(intake.over_tls(listener), shutdown)
    });
    let router = router(intake, health_service, OVER_UNIX);
    supervisor.ready(reload::status(&current)).await;
    let (started, stopping) = tokio::sync::oneshot::channel();
    let of_shutdown = Arc::clone(&current);
    let shutdown = async move {
        shutdown.await;
        tracing::info!("draining");
        supervisor.stopping().await;
        of_shutdown.audit().shorten_timeouts();
        health.set_not_serving::<BrokerServer<Service>>().await;
        health.set_service_status("", ServingStatus::NotServing).await;
        drain.send_replace(true);
        // This fails only if serving has already ended.
        started.send(()).ok();
        // hyper sends GOAWAY when this future ends: until then callers can query the health.
        calls.idle().await;
    };
    let over_unix = router.serve_with_incoming_shutdown(incoming, shutdown);
    let over_tls = async { OptionFuture::from(over_tls).await.unwrap_or(Ok(())) };
    let serving = async { tokio::try_join!(over_unix, over_tls).map(drop) };
    let deadline = async {
        if stopping.await.is_err() {
            pending::<()>().await;
        }
        if tokio::time::timeout(DRAIN, last_calls.idle()).await.is_err() {
            tracing::warn!("calls were still in flight at the end of the drain timeout");
            return;
        }
        tokio::time::sleep(CLOSE_WAIT).await;
    };
    tokio::select! {
        served = serving => served?,
        () = deadline => {}
    }
    tasks.shutdown().await;
    current.audit().close(clock::now()).await;
    tracing::info!("stopped");
    Ok(())
}

/// Accepts the next admitted connection.
async fn accept_unix(
    (listener, intake): (UnixListener, Arc<Intake>),
) -> Option<(io::Result<Connection<Local>>, (UnixListener, Arc<Intake>))> {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Some(connection) = intake.accept(stream, None) {
                    return Some((Ok(connection), (listener, intake)));
                }
            }
            Err(error) => accept::pause(&error, &mut failing).await,
        }
    }
}

/// Periodically records the denials that were only counted.
async fn sum_up(current: Arc<Current>) {
    let mut ticks = tokio::time::interval(SUM_UP);
    loop {
        ticks.tick().await;
        current.audit().sum_up(clock::now());
    }
}

/// Serves the single connection on standard input, until it is closed or until `shutdown`.
///
/// # Errors
/// Standard input isn't a Unix socket, or the audit log can't be opened.
pub async fn serve_connection(
    config: Config,
    surroundings: &Surroundings,
    stdin: OwnedFd,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let (_drain, draining) = watch::channel(false);
    let current = assemble(&config, surroundings, draining)?;
    let stream = unix::inherited_connection(stdin)?;
    let stream = UnixStream::from_std(stream).map_err(listening)?;
    let (open, mut closed) = mpsc::channel(1);
    let intake = Intake::new(Arc::clone(&current));
    let connection = intake.accept(stream, Some(open));
    // The first signature will be requested soon.
    current.state().profiles.prefetch();
    current.state().profiles.watch();
    let incoming = stream::iter(connection.map(Ok::<_, io::Error>));
    let incoming = futures_util::StreamExt::chain(incoming, stream::pending());
    let (_health, health_service) = health().await;
    let router = router(intake, health_service, OVER_UNIX);
    tokio::select! {
        served = router.serve_with_incoming(incoming) => served?,
        _ = closed.recv() => {}
        () = shutdown => {}
    }
    current.audit().close(clock::now()).await;
    Ok(())
}

/// SIGTERM and SIGINT, counted: the first starts the shutdown, the second ends it at once.
pub struct Termination(watch::Receiver<u32>);

impl Termination {
    /// Starts to listen for the signals.
    ///
    /// # Errors
    /// The signals can't be listened for.
    pub fn listen() -> Result<Self, Error> {
        let listen = |kind| {
            signal(kind).map_err(|source| Error::Process { what: "listen for signals", source })
        };
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let (count, counted) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                count.send_modify(|count| *count += 1);
            }
        });
        Ok(Self(counted))
    }

    /// Completes at signal number `count`.
    pub fn signal(&self, count: u32) -> impl Future<Output = ()> + use<> {
        let mut counted = self.0.clone();
        async move {
            // This fails only at the end of the runtime.
            counted.wait_for(|counted| *counted >= count).await.ok();
        }
    }
}

fn assemble(
    config: &Config,
    surroundings: &Surroundings,
    draining: watch::Receiver<bool>,
) -> Result<Arc<Current>, Error> {
    let audit = Arc::new(Audit::open(&config.audit, clock::now())?);
    let recorder = Recorder { audit, metrics: Arc::default() };
    let paces = Arc::new(Paces::default());
    let state = State {
        endpoints: config.endpoints.clone(),
        lanes: paces.lanes(config),
        policy: Policy::new(config),
        profiles: Profiles::new(config, surroundings, Arc::new(recorder.clone())),
    };
    Ok(Current::new(state, paces, recorder, draining))
}

/// The limits of one connection: concurrent streams, and the frame size in bytes.
struct OfConnection {
    streams: u32,
    frame: u32,
}

const OVER_UNIX: OfConnection =
    OfConnection { streams: intake::MAX_STREAMS, frame: intake::MAX_FRAME };
const OVER_TLS: OfConnection =
    OfConnection { streams: intake::MAX_STREAMS_OVER_TLS, frame: intake::MAX_FRAME_OVER_TLS };

/// The health service, which all listeners share.
async fn health() -> (HealthReporter, HealthServer<impl Health>) {
    let (health, service) = tonic_health::server::health_reporter();
    health.set_serving::<BrokerServer<Service>>().await;
    (health, service.max_decoding_message_size(intake::MAX_MESSAGE))
}

fn router(
    intake: Arc<Intake>,
    health: HealthServer<impl Health>,
    limits: OfConnection,
) -> Router<Stack<Gate, Identity>> {
    let service = BrokerServer::new(Service::new(Arc::clone(intake.current())))
        .max_decoding_message_size(intake::MAX_MESSAGE);
    // All limits are set here, because the libraries have no limits by default.
    Server::builder()
        .layer(intake.gate())
        .max_concurrent_streams(limits.streams)
        .http2_max_header_list_size(intake::MAX_HEAD)
        .http2_max_local_error_reset_streams(Some(intake::MAX_RESETS))
        .http2_keepalive_interval(Some(intake::KEEPALIVE))
        .http2_keepalive_timeout(Some(intake::KEEPALIVE_TIMEOUT))
        .max_frame_size(limits.frame)
        .initial_stream_window_size(intake::STREAM_WINDOW)
        .initial_connection_window_size(intake::CONNECTION_WINDOW)
        .add_service(health)
        .add_service(service)
}

fn listening(source: io::Error) -> Error {
    let why = "it can't be used".to_owned();
    Error::Listen { socket: "the socket".to_owned(), why, source: Some(source) }
}

#[cfg(test)]
mod tests;
