//! The connections to the endpoint: HTTP/2 where the server has it (ALPN), HTTP/1.1 otherwise.
//!
//! Three things of HTTP/2 need care:
//!
//! - *Windows.* A stream that waits for memory isn't read, and its unread bytes stay in its window.
//!   If such streams used up the window of the connection, the one that holds the memory couldn't
//!   continue, and all would wait for each other. So the connection's window is as wide as the
//!   protocol has it, and only those of the streams bind.
//! - *Streams.* A server takes some hundred at a time on one connection; beyond them a request is not
//!   sent, and nobody sees why. A connection gets [`STREAMS`], then there is another one.
//! - *GET streams* stay for hours: they would take the places of calls for good. They go over HTTP/1.1,
//!   a connection each.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use url::Url;

use super::connector::By;
use super::probe::Probe;
use super::trust::{SetupError, trust};
use super::warm::Warm;
use crate::config::{Network, Timeouts};
use crate::error::innermost;

/// Requests at a time on one connection: below the limit of any server in use, 100 and more.
const STREAMS: usize = 64;
/// What a stream may send that nobody has read, in bytes: 25 MB/s at a round trip of 20 ms.
const STREAM_WINDOW: u32 = 512 << 10;
/// What all streams of a connection may: the most that there is (RFC 9113, 6.9.1).
const CONNECTION_WINDOW: u32 = i32::MAX.cast_unsigned();
/// Connections without work that are kept where one serves one request at a time: of the usual calls,
/// and of each further [`Lane`].
const MAX_IDLE: usize = 32;
const MAX_IDLE_BEYOND: usize = 4;
/// How long they are kept; AWS's load balancers close them after 60 s.
const IDLE: Duration = Duration::from_secs(55);
/// A connection that doesn't answer a ping within this is dead, and all calls on it.
const PING: Duration = Duration::from_secs(20);

/// All connections.
#[derive(Debug)]
pub(super) struct Connections {
    network: Network,
    connect: Duration,
    first: Lane,
    /// What the first connection is opened with before there is a request; once.
    warm: Mutex<Option<Warm>>,
    /// One connection each, where the server has HTTP/2; the first among them.
    shared: Mutex<Vec<Lane>>,
    /// For GET streams, made for the first: to read certificate authorities takes its time.
    single: OnceLock<reqwest::Client>,
}

#[derive(Debug, Clone)]
struct Lane {
    client: reqwest::Client,
    in_use: Arc<AtomicUsize>,
}

/// A place on a connection, for as long as a request is in flight.
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
    /// None is open yet. `inspect`: answers come with what is known of their connection.
    pub(super) fn new(
        network: Network,
        timeouts: &Timeouts,
        inspect: bool,
    ) -> Result<Self, SetupError> {
        let connect = timeouts.connect;
        let warm = Warm::new(connect);
        let builder = lane(&network, connect, MAX_IDLE)?.connector_layer(By(warm.clone()));
        let builder = builder.tls_info(inspect);
        let first = Lane::new(builder)?;
        Ok(Self {
            network,
            connect,
            warm: Mutex::new(Some(warm)),
            shared: Mutex::new(vec![first.clone()]),
            first,
            single: OnceLock::new(),
        })
    }

    /// Opens the first connection, while the first request is still being signed. Does nothing when
    /// asked again. In a runtime.
    pub(super) fn open_ahead(&self, url: &Url) {
        let warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(warm) = warm {
            warm.begin(&self.first.client, url);
        }
    }

    /// Opens a connection as for a request, and closes it.
    pub(super) async fn probe(&self, url: &Url) -> Result<Result<(), reqwest::Error>, SetupError> {
        let probe = Probe::default();
        let builder = builder(&self.network, self.connect)?.connector_layer(By(probe.clone()));
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
                // The authorities were there at the start.
                tracing::warn!(%error, "GET streams share the connections of calls");
                self.place().0
            }
        }
    }

    /// The client for a request that ends, and its place there.
    pub(super) fn place(&self) -> (reqwest::Client, Place) {
        let mut lanes = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |lane: &&Lane| lane.in_use.load(Ordering::Relaxed) < STREAMS;
        if lanes.iter().find(free).is_none() {
            let builder = lane(&self.network, self.connect, MAX_IDLE_BEYOND);
            match builder.and_then(Lane::new) {
                Ok(lane) => lanes.push(lane),
                Err(error) => tracing::warn!(%error, "no further connection"),
            }
        }
        let least = |lane: &&Lane| lane.in_use.load(Ordering::Relaxed);
        // The first with room, so that few calls need one connection.
        let lane = lanes.iter().find(free).or_else(|| lanes.iter().min_by_key(least));
        let lane = lane.unwrap_or(&self.first).clone();
        lane.in_use.fetch_add(1, Ordering::Relaxed);
        (lane.client, Place(Arc::new(Taken(lane.in_use))))
    }
}

impl Lane {
    fn new(builder: reqwest::ClientBuilder) -> Result<Self, SetupError> {
        Ok(Self { client: build(builder)?, in_use: Arc::default() })
    }
}

/// A client of requests that end, with so many connections without work.
fn lane(
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
    async fn a_connection_has_its_places_and_gets_them_back() {
        let authorities = Authorities::Machine { file: None, directories: None };
        let network = Network { authorities, is_direct: true };
        let wait = Duration::from_secs(1);
        let timeouts =
            Timeouts { request: wait, connect: wait, read: wait, write: wait, tool: wait };
        let connections = Connections::new(network, &timeouts, false).unwrap();
        let lanes = || connections.shared.lock().unwrap().len();
        let mut taken: Vec<_> = (0..STREAMS).map(|_| connections.place().1).collect();
        assert_eq!(lanes(), 1);
        let further = connections.place().1;
        assert_eq!(lanes(), 2, "no request waits for a place");
        taken.pop();
        let again = connections.place().1;
        let in_use =
            |at: usize| connections.shared.lock().unwrap()[at].in_use.load(Ordering::Relaxed);
        assert_eq!((in_use(0), in_use(1)), (STREAMS, 1), "the first one with room");
        drop((taken, further, again));
        assert_eq!((in_use(0), in_use(1)), (0, 0));
    }
}
