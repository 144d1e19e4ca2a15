//! The connections to the endpoint: HTTP/2 if the server offers it (ALPN), HTTP/1.1 otherwise.
//!
//! HTTP/2 needs care in three respects:
//!
//! - *Windows.* A stream that waits for memory isn't read, and its unread bytes stay in its window.
//!   If such streams used up the connection's window, the stream that holds the memory couldn't
//!   continue, and all would deadlock. Therefore the connection's window has the largest size that
//!   the protocol allows, and only the windows of streams limit.
//! - *Streams.* A server accepts some hundred at a time on one connection; further requests would wait unnoticed. A
//!   connection carries at most [`STREAMS`]; then another one is opened.
//! - *GET streams* stay open for hours, and would permanently take the place of calls. Each uses its own HTTP/1.1
//!   connection.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use url::Url;

use super::connector::DetourLayer;
use super::probe::Probe;
use super::trust::{SetupError, trust};
use super::warm::Warm;
use crate::config::{Network, Timeouts};
use crate::error::innermost;

/// The most concurrent requests on one connection. All servers in use have a higher limit, 100 and
/// more.
const STREAMS: usize = 64;
/// The most unread bytes of a stream: 25 MB/s at a round trip of 20 ms.
const STREAM_WINDOW: u32 = 512 << 10;
/// The most unread bytes of all streams of a connection: the largest window (RFC 9113, 6.9.1).
const CONNECTION_WINDOW: u32 = i32::MAX.cast_unsigned();
/// The most idle HTTP/1.1 connections that are kept: of the first pool, and of each further [`Pool`].
const MAX_IDLE: usize = 32;
const MAX_IDLE_BEYOND: usize = 4;
/// How long idle connections are kept; AWS's load balancers close them after 60 s.
const IDLE: Duration = Duration::from_secs(55);
/// A connection that doesn't answer a ping within this time is closed, with all its calls.
const PING: Duration = Duration::from_secs(20);

/// All connections.
#[derive(Debug)]
pub(super) struct Connections {
    network: Network,
    connect: Duration,
    first: Pool,
    /// Opens the first connection before the first request; taken on first use.
    warm: Mutex<Option<Warm>>,
    /// The pools for calls, including the first. With HTTP/2, each has one connection.
    shared: Mutex<Vec<Pool>>,
    /// The client for GET streams. It is built on first use, because reading certificate
    /// authorities takes time.
    single: OnceLock<reqwest::Client>,
}

#[derive(Debug, Clone)]
struct Pool {
    client: reqwest::Client,
    in_use: Arc<AtomicUsize>,
}

/// A place on a connection, held while a request is in flight.
#[derive(Debug, Clone)]
pub(super) struct Place(#[allow(dead_code, reason = "held, not read")] Arc<Taken>);

#[derive(Debug)]
struct Taken(Arc<AtomicUsize>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connections {
    /// Makes connections of which none is open yet. With `inspect`, answers contain TLS
    /// information.
    pub(super) fn new(
        network: Network,
        timeouts: &Timeouts,
        inspect: bool,
    ) -> Result<Self, SetupError> {
        let connect = timeouts.connect;
        let warm = Warm::new(connect);
        let builder = pool(&network, connect, MAX_IDLE)?.connector_layer(DetourLayer(warm.clone()));
        let builder = builder.tls_info(inspect);
        let first = Pool::new(builder)?;
        Ok(Self {
            network,
            connect,
            warm: Mutex::new(Some(warm)),
            shared: Mutex::new(vec![first.clone()]),
            first,
            single: OnceLock::new(),
        })
    }

    /// Opens the first connection while the first request is being signed. Later calls do nothing.
    /// Must be called in a runtime.
    pub(super) fn open_ahead(&self, url: &Url) {
        let warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(warm) = warm {
            warm.begin(&self.first.client, url);
        }
    }

    /// Opens a connection as for a request, and closes it.
    pub(super) async fn probe(&self, url: &Url) -> Result<Result<(), reqwest::Error>, SetupError> {
        let probe = Probe::default();
        let builder =
            builder(&self.network, self.connect)?.connector_layer(DetourLayer(probe.clone()));
        Ok(probe.run(&build(builder)?, url).await)
    }

    /// The client for a GET stream.
    pub(super) fn single(&self) -> reqwest::Client {
        let make = || {
            let single = builder(&self.network, self.connect)?.http1_only();
            build(single.pool_max_idle_per_host(MAX_IDLE_BEYOND))
        };
        if let Some(single) = self.single.get() {
            return single.clone();
        }
        match make() {
            Ok(single) => self.single.get_or_init(|| single).clone(),
            Err(error) => {
                // The authorities could be read at the start.
                tracing::warn!(%error, "GET streams share the connections of calls");
                self.place().0
            }
        }
    }

    /// A client for a call, and the call's place on a connection.
    pub(super) fn place(&self) -> (reqwest::Client, Place) {
        let mut pools = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |pool: &&Pool| pool.in_use.load(Ordering::Relaxed) < STREAMS;
        if pools.iter().find(free).is_none() {
            let builder = pool(&self.network, self.connect, MAX_IDLE_BEYOND);
            match builder.and_then(Pool::new) {
                Ok(pool) => pools.push(pool),
                Err(error) => tracing::warn!(%error, "no further connection"),
            }
        }
        let least = |pool: &&Pool| pool.in_use.load(Ordering::Relaxed);
        // The first one with room, so that few calls need one connection.
        let pool = pools.iter().find(free).or_else(|| pools.iter().min_by_key(least));
        let pool = pool.unwrap_or(&self.first).clone();
        pool.in_use.fetch_add(1, Ordering::Relaxed);
        (pool.client, Place(Arc::new(Taken(pool.in_use))))
    }
}

impl Pool {
    fn new(builder: reqwest::ClientBuilder) -> Result<Self, SetupError> {
        Ok(Self { client: build(builder)?, in_use: Arc::default() })
    }
}

/// A client for calls, with a limit for idle connections.
fn pool(
    network: &Network,
    connect: Duration,
    idle: usize,
) -> Result<reqwest::ClientBuilder, SetupError> {
    Ok(builder(network, connect)?
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING)
        .pool_max_idle_per_host(idle))
}

fn builder(network: &Network, connect: Duration) -> Result<reqwest::ClientBuilder, SetupError> {
    let mut builder = trust(reqwest::Client::builder(), &network.authorities)?;
    if network.is_direct {
        builder = builder.no_proxy();
    }
    Ok(builder
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .connect_timeout(connect)
        .pool_idle_timeout(IDLE)
        .tcp_nodelay(true))
}

fn build(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, SetupError> {
    builder.build().map_err(|error| SetupError::Client(innermost(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Authorities;

    #[tokio::test]
    async fn a_connection_has_a_limited_number_of_places_that_are_returned() {
        let authorities = Authorities::Machine { file: None, directories: None };
        let network = Network { authorities, is_direct: true };
        let wait = Duration::from_secs(1);
        let timeouts =
            Timeouts { request: wait, connect: wait, read: wait, write: wait, tool: wait };
        let connections = Connections::new(network, &timeouts, false).unwrap();
        let pools = || connections.shared.lock().unwrap().len();
        let mut taken: Vec<_> = (0..STREAMS).map(|_| connections.place().1).collect();
        assert_eq!(pools(), 1);
        let further = connections.place().1;
        assert_eq!(pools(), 2, "no request waits for a place");
        taken.pop();
        let again = connections.place().1;
        let in_use =
            |at: usize| connections.shared.lock().unwrap()[at].in_use.load(Ordering::Relaxed);
        assert_eq!((in_use(0), in_use(1)), (STREAMS, 1), "the first one with room");
        drop((taken, further, again));
        assert_eq!((in_use(0), in_use(1)), (0, 0));
    }
}
