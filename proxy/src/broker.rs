//! The gRPC channel to the broker: one connection, made when it is needed and again when it broke.
//!
//! Every call returns an answer or an [`Error`] that names the side that failed. If the connection breaks, the call is
//! repeated: asking for a signature has no side effect.

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
use sigward_proto::{MAX_MESSAGE_BYTES, traces, version};
use tokio::net::UnixStream;
use tokio::time::Instant;
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
    /// Over a socket in the file system.
    Unix(std::path::PathBuf),
    /// Over TLS.
    Tls(TlsBroker),
    /// To a process that we start.
    Private(Arc<PrivateBroker>),
}

impl Route {
    /// What it leads to.
    #[must_use]
    pub fn address(&self) -> BrokerAddress {
        match self {
            Self::Unix(path) => BrokerAddress::Unix(path.clone()),
            Self::Tls(broker) => BrokerAddress::Tls(broker.url().into()),
            Self::Private(_) => BrokerAddress::Private,
        }
    }
}

/// Which credentials made a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyId {
    /// Who the caller is to AWS with them; empty where the broker's rule doesn't say.
    pub agent: String,
    /// Which of those that were loaded one after the other.
    pub generation: u64,
}

/// The pauses before a question is asked again whose connection broke.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(5), Duration::from_millis(50), Duration::from_millis(250)];

/// How long a broker that has answered before may be away, and how often it is looked for: whoever runs it
/// (systemd, a kubelet) starts it again, and no call has to fail for that. One that never answered is a mistake in
/// the set-up, and told at once.
const AWAY: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(250);

/// How long the broker lets a signature wait for its turn at most.
const LONGEST_TURN: Duration = Duration::from_secs(300);
/// When there may be room again at a broker where too many wait.
const ROOM: Duration = Duration::from_secs(1);
/// How long a report may take.
const REPORT: Duration = Duration::from_secs(5);

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
    /// The profiles for which no rule looks at a body, as far as we know: its hash is enough.
    unread: Arc<Mutex<HashSet<String>>>,
    /// The profiles whose signatures are given by turns.
    pacing: Arc<Pacing>,
}

/// What is told of an exchange.
#[derive(Debug)]
pub struct Report {
    /// Where it went.
    pub uri: String,
    /// The broker's record of its signature.
    pub audit_id: String,
    /// The server throttled it; else, it is over.
    pub is_throttled: bool,
}

impl Broker {
    /// Nothing is connected yet. `timeout` bounds each question.
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
        // The origin is only what HTTP/2 wants to see in `:authority`.
        let client =
            BrokerClient::with_origin(channel.clone(), Uri::from_static("http://sigward-broker"))
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let (has_answered, unread, pacing) = Default::default();
        Self { client, channel, address, private, timeout, has_answered, unread, pacing }
    }

    /// Whom this asks.
    #[must_use]
    pub fn address(&self) -> &BrokerAddress {
        &self.address
    }

    /// The headers that sign one request, which is made anew where it has to be sent once more.
    pub async fn sign(
        &self,
        profile: &ProfileName,
        request: impl Fn() -> SignRequest,
    ) -> Result<SignResponse, Error> {
        let ask = || {
            let (mut client, request) = (self.client.clone(), traced(request()));
            async move { client.sign(request).await }
        };
        let signed = match self.pacing.is_paced(profile) {
            false => self.ask(profile, ask).await,
            true => Box::pin(self.by_turns(profile, ask)).await,
        };
        if let Ok(signed) = &signed {
            self.pacing.on_signed(profile, signed.pacing.is_some());
        }
        signed
    }

    /// Asks for a signature that may have to wait for its turn. Where too many wait at the broker, it is asked again.
    async fn by_turns<T, F>(&self, profile: &ProfileName, call: impl Fn() -> F) -> Result<T, Error>
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
                        tokio::time::sleep(Backoff::default().next(Some(ROOM))).await;
                    }
                    answer => return answer,
                }
            }
        };
        let late = |_| Error::BrokerSlow { broker: self.address.clone(), after: limit };
        tokio::time::timeout(limit, asking).await.map_err(late)?
    }

    /// Whether the broker gives the profile's signatures by turns, as far as it has said.
    #[must_use]
    pub fn is_paced(&self, profile: &ProfileName) -> bool {
        self.pacing.is_paced(profile)
    }

    /// Tells how an exchange went. Nothing depends on it: a broker that can't be told goes on as before.
    pub async fn report_exchange(&self, profile: &ProfileName, report: Report) {
        let Report { uri, audit_id, is_throttled } = report;
        let request = ReportExchangeRequest {
            profile: profile.as_str().to_owned(),
            uri,
            audit_id,
            throttled: is_throttled,
            ended: !is_throttled,
        };
        let told = self.ask_within(REPORT, profile, || {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.report_exchange(request).await }
        });
        if let Err(error) = told.await {
            tracing::debug!(%profile, %error, "the outcome of an exchange couldn't be reported to the broker");
        }
    }

    /// The profiles that the broker lets us use. `profile` is named in errors. Whoever asks for signatures has asked
    /// this first: a broker whose protocol isn't ours is noticed here.
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

    /// The same now, and after each change. To drop the stream is to give up.
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

    /// Whether the broker said that it reads no body of this profile's requests.
    #[must_use]
    pub fn reads_no_body(&self, profile: &ProfileName) -> bool {
        self.unread().contains(profile.as_str())
    }

    /// Takes note that it reads them now: its rules have changed.
    pub fn on_body_required(&self, profile: &ProfileName) {
        self.unread().remove(profile.as_str());
    }

    fn unread(&self) -> MutexGuard<'_, HashSet<String>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells that upstream refused a signature that was made with `key`. The generation to sign with now: a later one, if
    /// signing again can help.
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

    /// Begins to sign a person in. To drop the stream is to give up.
    pub async fn login(&self, profile: &ProfileName) -> Result<Streaming<LoginResponse>, Error> {
        self.ask(profile, || {
            let mut client = self.client.clone();
            let request = LoginRequest { profile: profile.as_str().to_owned() };
            async move { client.login(request).await }
        })
        .await
    }

    /// A refusal for a reason that this side knows by itself.
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
                    // A broker that has just died may fail more than one question: the first finds
                    // the connection broken, the next may still find it there.
                    Err(status) if is_transport(status) && !self.is_lost().await => {
                        let pause = pauses.next().or_else(|| self.may_come_back(begun));
                        let Some(pause) = pause else { return answer };
                        tracing::debug!(%status, "the broker's connection broke, asking once more");
                        tokio::time::sleep(pause).await;
                    }
                    // It takes no more calls. Behind its socket, or its name, is the next one, now or in a moment.
                    Err(status) if has_reason(status, Reason::BrokerEnding) => {
                        self.has_answered.store(true, Ordering::Relaxed);
                        let pause = pauses.next().or_else(|| self.may_come_back(begun));
                        let Some(pause) = pause else { return answer };
                        self.channel.replace();
                        tokio::time::sleep(pause).await;
                    }
                    // Our certificate has expired since the connection was opened: the next one shows what the files
                    // hold now.
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

    /// Whether the broker doesn't know us any more on this connection.
    fn is_outdated(&self, status: &Status) -> bool {
        matches!(self.address, BrokerAddress::Tls(_)) && has_reason(status, Reason::PeerUnknown)
    }

    /// Whether asking again at once is pointless: there is no broker any more, and we know why.
    async fn is_lost(&self) -> bool {
        match &self.private {
            Some(private) => private.failure().await.is_some(),
            None => false,
        }
    }

    /// The pause before a broker of others is looked for again that was away since `begun`.
    fn may_come_back(&self, begun: Instant) -> Option<Duration> {
        let known = self.private.is_none() && self.has_answered.load(Ordering::Relaxed);
        (known && begun.elapsed() < AWAY).then_some(LOOK)
    }

    /// What a status means.
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

/// Whether it is the broker's refusal for this reason.
fn has_reason(status: &Status, reason: Reason) -> bool {
    status.get_details_error_info().is_some_and(|info| info.reason == reason.name())
}

/// A question that the broker's spans go with, in the trace that the current span is of.
fn traced<T>(question: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(question);
    if let Some(context) = traces::traceparent().and_then(|context| context.parse().ok()) {
        request.metadata_mut().insert(traces::TRACEPARENT, context);
    }
    request
}

/// Whether a status is the channel's, not the broker's: those carry an `ErrorInfo`.
fn is_transport(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled)
        && status.get_details_error_info().is_none()
}

fn detail(address: &BrokerAddress, status: &Status) -> String {
    let cause =
        std::error::Error::source(status).map_or_else(|| "it hung up".to_owned(), innermost);
    let hint = match address {
        BrokerAddress::Private => return cause,
        // What concerns the certificates says so itself.
        BrokerAddress::Tls(_) if cause.contains("--broker-") => return cause,
        BrokerAddress::Tls(_) => {
            "is it running there, with [listen] tcp? Its log says whom it refuses"
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
