//! The gRPC client of the broker. It uses one connection, which is opened on demand and reopened
//! when it breaks.
//!
//! Every call returns an answer or an [`Error`] that names the side that failed. If the connection breaks, the call is
//! repeated: requesting a signature has no side effect.

mod channel;
mod pacing;
mod private;
mod socket;
mod tls;

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use http::Uri;
use sigward_proto::remote::TlsBroker;
use sigward_proto::v1::broker_client::BrokerClient;
use sigward_proto::v1::{
    ListProfilesRequest, LoginRequest, LoginResponse, Profile, Reason, ReportExchangeRequest,
    ReportRejectionRequest, SignRequest, SignResponse, WatchProfilesRequest, WatchProfilesResponse,
};
use sigward_proto::{MAX_MESSAGE_BYTES, REPORTS_ENDS, traces, version};
use tokio::net::UnixStream;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use self::channel::Channel;
use self::pacing::Pacing;
pub use self::private::{PrivateBroker, Restart, Start, StartError, Started};
use self::socket::Connected;
use self::tls::Connector;
use crate::config::{BrokerAddress, ProfileName};
use crate::error::{Error, Refusal, innermost};
use crate::wait::Backoff;

/// How to reach the broker that [`BrokerAddress`] names.
#[derive(Debug)]
pub enum Route {
    /// A socket in the file system.
    Unix(std::path::PathBuf),
    /// A TCP connection with TLS.
    Tls(TlsBroker),
    /// A process that the proxy starts.
    Private(Arc<PrivateBroker>),
}

impl Route {
    /// The address for messages and logs.
    #[must_use]
    pub fn address(&self) -> BrokerAddress {
        match self {
            Self::Unix(path) => BrokerAddress::Unix(path.clone()),
            Self::Tls(broker) => BrokerAddress::Tls(broker.url().into()),
            Self::Private(_) => BrokerAddress::Private,
        }
    }
}

/// The credentials that made a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyId {
    /// The AWS identity that the broker's rule assigns to the caller; empty if the rule assigns
    /// none.
    pub agent: String,
    /// Counts the credentials that the broker loaded for a profile.
    pub generation: u64,
}

/// The pauses before a call is repeated whose connection broke.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(5), Duration::from_millis(50), Duration::from_millis(250)];

/// How long a broker that has answered before may be unavailable, and how often it is retried: its supervisor (systemd,
/// a kubelet) restarts it, and calls needn't fail in that time. A broker that never answered is probably misconfigured,
/// which is reported at once.
const OUTAGE_LIMIT: Duration = Duration::from_secs(10);
const OUTAGE_PAUSE: Duration = Duration::from_millis(250);

/// The longest time that the broker lets a paced signature wait.
const LONGEST_TURN: Duration = Duration::from_secs(300);
/// The pause before a call is repeated that the broker refused because too many wait there.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// The time limit of a report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// A handle to the broker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Broker {
    client: BrokerClient<Channel>,
    channel: Channel,
    address: BrokerAddress,
    private: Option<Arc<PrivateBroker>>,
    timeout: Duration,
    /// Whether the broker has ever answered.
    has_answered: Arc<AtomicBool>,
    /// The profiles for which no rule of the broker is known to read a body, so that the body's
    /// hash is sufficient.
    unread: Arc<Mutex<HashSet<String>>>,
    /// The profiles whose signatures the broker paces.
    pacing: Arc<Pacing>,
}

/// A report about an HTTP exchange.
#[derive(Debug)]
pub struct Report {
    /// The URI of the request.
    pub uri: String,
    /// The broker's audit id of its signature.
    pub audit_id: String,
    /// Whether the server throttled it; otherwise the exchange has ended.
    pub is_throttled: bool,
}

impl Broker {
    /// Makes a client that isn't connected yet. `timeout` is the limit of each call.
    #[must_use]
    pub fn new(route: Route, timeout: Duration) -> Self {
        let address = route.address();
        let (private, channel) = match route {
            Route::Unix(path) => {
                let connect = move || {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.and_then(Connected::local) }
                        .boxed()
                };
                (None, Channel::new(connect))
            }
            Route::Tls(broker) => {
                let connector = Connector::new(broker);
                (None, Channel::new(move || Arc::clone(&connector).connect().boxed()))
            }
            Route::Private(broker) => {
                let starter = Arc::clone(&broker);
                let channel = Channel::new(move || {
                    let starter = Arc::clone(&starter);
                    async move {
                        UnixStream::from_std(starter.connect().await?).and_then(Connected::local)
                    }
                    .boxed()
                });
                (Some(broker), channel)
            }
        };
        // The origin is used only for `:authority` in HTTP/2.
        let client =
            BrokerClient::with_origin(channel.clone(), Uri::from_static("http://sigward-broker"))
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let (has_answered, unread, pacing) = Default::default();
        Self { client, channel, address, private, timeout, has_answered, unread, pacing }
    }

    /// The broker's address.
    #[must_use]
    pub fn address(&self) -> &BrokerAddress {
        &self.address
    }

    /// The headers that sign one request. `request` is called again for each attempt.
    pub async fn sign(
        &self,
        profile: &ProfileName,
        request: impl Fn() -> SignRequest,
    ) -> Result<SignResponse, Error> {
        let ask = || {
            let (mut client, mut request) = (self.client.clone(), traced(request()));
            request.metadata_mut().insert(REPORTS_ENDS, MetadataValue::from_static("1"));
            async move { client.sign(request).await }
        };
        let signed = match self.pacing.is_paced(profile) {
            false => self.ask(profile, ask).await,
            true => Box::pin(self.sign_paced(profile, ask)).await,
        };
        if let Ok(signed) = &signed {
            self.pacing.on_signed(profile, signed.pacing.is_some());
        }
        signed
    }

    /// Requests a paced signature, which may have to wait. If too many wait at the broker, repeats the call.
    async fn sign_paced<T, F>(
        &self,
        profile: &ProfileName,
        call: impl Fn() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let limit = self.timeout.saturating_add(LONGEST_TURN);
        let asking = async {
            let _place = self.pacing.place(profile).await;
            loop {
                match self.ask_within(limit, profile, &call).await {
                    Err(Error::Refused(refusal))
                        if refusal.reason() == Some(Reason::TooMuchInFlight) =>
                    {
                        tokio::time::sleep(Backoff::default().next(Some(BUSY_PAUSE))).await;
                    }
                    answer => return answer,
                }
            }
        };
        let late = |_| Error::BrokerSlow { broker: self.address.clone(), after: limit };
        tokio::time::timeout(limit, asking).await.map_err(late)?
    }

    /// Whether the broker is known to pace the profile's signatures.
    #[must_use]
    pub fn is_paced(&self, profile: &ProfileName) -> bool {
        self.pacing.is_paced(profile)
    }

    /// Reports the outcome of an exchange. A failure is only logged, because nothing depends on it.
    pub async fn report_exchange(&self, profile: &ProfileName, report: Report) {
        let Report { uri, audit_id, is_throttled } = report;
        let request = ReportExchangeRequest {
            profile: profile.as_str().to_owned(),
            uri,
            audit_id,
            throttled: is_throttled,
            ended: !is_throttled,
        };
        let reported = self.ask_within(REPORT_TIMEOUT, profile, || {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.report_exchange(request).await }
        });
        if let Err(error) = reported.await {
            tracing::debug!(%profile, %error, "the outcome of an exchange couldn't be reported to the broker");
        }
    }

    /// The profiles that this process may use. `profile` is named in errors. This must be called before the first
    /// signature, because it checks the broker's protocol version.
    pub async fn profiles(&self, profile: &ProfileName) -> Result<Vec<Profile>, Error> {
        let answer = self
            .ask(profile, || {
                let mut client = self.client.clone();
                async move { client.list_profiles(ListProfilesRequest {}).await }
            })
            .await?;
        if let Err(outdated) = version::check(answer.version.as_ref()) {
            let program = answer.version.map(|version| version.program).unwrap_or_default();
            return Err(Error::outdated(outdated, self.address.clone(), &program));
        }
        let unread = answer.profiles.iter().filter(|profile| !profile.needs_body);
        *self.unread() = unread.map(|profile| profile.name.clone()).collect();
        Ok(answer.profiles)
    }

    /// The same, now and after each change. Dropping the stream ends the subscription.
    pub async fn watch(
        &self,
        profile: &ProfileName,
    ) -> Result<Streaming<WatchProfilesResponse>, Error> {
        self.ask(profile, || {
            let mut client = self.client.clone();
            async move { client.watch_profiles(WatchProfilesRequest {}).await }
        })
        .await
    }

    /// Whether the broker reads no body of this profile's requests, as far as is known.
    #[must_use]
    pub fn reads_no_body(&self, profile: &ProfileName) -> bool {
        self.unread().contains(profile.as_str())
    }

    /// Records that the broker's rules have changed, so that it now reads these bodies.
    pub fn on_body_required(&self, profile: &ProfileName) {
        self.unread().remove(profile.as_str());
    }

    fn unread(&self) -> MutexGuard<'_, HashSet<String>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports that upstream rejected a signature made with `key`. Returns the current generation of the credentials:
    /// if it is later, signing again may help.
    pub async fn report_rejection(&self, profile: &ProfileName, key: &KeyId) -> Result<u64, Error> {
        let request = ReportRejectionRequest {
            profile: profile.as_str().to_owned(),
            credential_generation: key.generation,
            agent: key.agent.clone(),
        };
        let answer = self
            .ask(profile, || {
                let (mut client, request) = (self.client.clone(), request.clone());
                async move { client.report_rejection(request).await }
            })
            .await?;
        Ok(answer.credential_generation)
    }

    /// Starts a sign-in. Dropping the stream cancels it.
    pub async fn login(&self, profile: &ProfileName) -> Result<Streaming<LoginResponse>, Error> {
        self.ask(profile, || {
            let mut client = self.client.clone();
            let request = LoginRequest { profile: profile.as_str().to_owned() };
            async move { client.login(request).await }
        })
        .await
    }

    /// A refusal that the proxy makes itself.
    #[must_use]
    pub fn refused(&self, reason: Reason, profile: &ProfileName) -> Error {
        Error::Refused(Refusal::new(reason, profile.clone(), self.address.clone()))
    }

    async fn ask<T, F>(&self, profile: &ProfileName, call: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.ask_within(self.timeout, profile, call).await
    }

    async fn ask_within<T, F>(
        &self,
        limit: Duration,
        profile: &ProfileName,
        call: impl Fn() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let attempts = async {
            let begun = Instant::now();
            let mut pauses = PAUSES.into_iter();
            loop {
                let answer = call().await;
                match &answer {
                    // If a broker has just died, more than one call may fail: even the second may
                    // still use the broken connection.
                    Err(status) if is_transport(status) && !self.is_lost().await => {
                        let pause = pauses.next().or_else(|| self.outage_pause(begun));
                        let Some(pause) = pause else { return answer };
                        tracing::debug!(%status, "the broker's connection broke, asking once more");
                        tokio::time::sleep(pause).await;
                    }
                    // The broker is shutting down. Its successor is reachable at the same address, now or soon.
                    Err(status) if has_reason(status, Reason::BrokerEnding) => {
                        self.has_answered.store(true, Ordering::Relaxed);
                        let pause = pauses.next().or_else(|| self.outage_pause(begun));
                        let Some(pause) = pause else { return answer };
                        self.channel.replace();
                        tokio::time::sleep(pause).await;
                    }
                    // The proxy's certificate has expired since the connection was opened. A new connection uses the
                    // current files.
                    Err(status) if self.is_outdated(status) => {
                        let Some(pause) = pauses.next() else { return answer };
                        self.channel.replace();
                        tokio::time::sleep(pause).await;
                    }
                    _ => return answer,
                }
            }
        };
        let answer = tokio::time::timeout(limit, attempts).await;
        if let Ok(answer) = &answer
            && answer.as_ref().err().is_none_or(|status| !is_transport(status))
        {
            self.has_answered.store(true, Ordering::Relaxed);
            if let Some(private) = &self.private {
                private.has_answered();
            }
        }
        match answer {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Box::pin(self.error(profile, &status)).await),
            Err(_) => Err(Error::BrokerSlow { broker: self.address.clone(), after: limit }),
        }
    }

    /// Whether the broker no longer recognises the peer of this connection.
    fn is_outdated(&self, status: &Status) -> bool {
        matches!(self.address, BrokerAddress::Tls(_)) && has_reason(status, Reason::PeerUnknown)
    }

    /// Whether an immediate retry is pointless, because the private broker has failed.
    async fn is_lost(&self) -> bool {
        match &self.private {
            Some(private) => private.failure().await.is_some(),
            None => false,
        }
    }

    /// The pause before the next attempt to reach a shared broker that has been unavailable since
    /// `begun`.
    fn outage_pause(&self, begun: Instant) -> Option<Duration> {
        let known = self.private.is_none() && self.has_answered.load(Ordering::Relaxed);
        (known && begun.elapsed() < OUTAGE_LIMIT).then_some(OUTAGE_PAUSE)
    }

    /// Converts a status to an error.
    pub async fn error(&self, profile: &ProfileName, status: &Status) -> Error {
        if is_transport(status) {
            let Some(private) = &self.private else {
                let detail = detail(&self.address, status);
                return Error::BrokerUnreachable { broker: self.address.clone(), detail };
            };
            let detail = private.failure().await.unwrap_or_else(|| {
                "doesn't answer: its connection broke several times; repeat the call".to_owned()
            });
            return Error::PrivateBroker { detail };
        }
        Error::Refused(Refusal::of(status, profile.clone(), self.address.clone()))
    }
}

/// Whether a status is the broker's refusal for this reason.
fn has_reason(status: &Status, reason: Reason) -> bool {
    status.get_details_error_info().is_some_and(|info| info.reason == reason.name())
}

/// A request with the trace context of the current span, so that the broker's spans belong to the
/// same trace.
fn traced<T>(question: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(question);
    if let Some(context) = traces::traceparent().and_then(|context| context.parse().ok()) {
        request.metadata_mut().insert(traces::TRACEPARENT, context);
    }
    request
}

/// Whether a status comes from the channel. A status of the broker has an `ErrorInfo`.
fn is_transport(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled)
        && status.get_details_error_info().is_none()
}

fn detail(address: &BrokerAddress, status: &Status) -> String {
    let cause = std::error::Error::source(status)
        .map_or_else(|| "it closed the connection".to_owned(), innermost);
    let hint = match address {
        BrokerAddress::Private => return cause,
        // Certificate errors contain their own advice.
        BrokerAddress::Tls(_) if cause.contains("--broker-") => return cause,
        BrokerAddress::Tls(_) => {
            "is it running there, with [listen] tcp? Its log names the clients that it refuses"
        }
        BrokerAddress::Unix(path) => hint(path).unwrap_or(
            "is it running? (`sigward-broker serve`, `systemctl status sigward-broker`)",
        ),
    };
    format!("{cause}; {hint}")
}

fn hint(path: &Path) -> Option<&'static str> {
    use std::io::ErrorKind::{NotFound, PermissionDenied};
    match std::os::unix::net::UnixStream::connect(path).err()?.kind() {
        PermissionDenied => {
            Some("this user may not open the socket: join the group that [listen] group names")
        }
        NotFound => Some("there is no such socket: start `sigward-broker serve`, or fix --broker"),
        _ => None,
    }
}
