//! The RPCs. A signature's life, phase by phase: *accept* and *identify* (in [`crate::intake`]), *parse*,
//! *authorize*, *resolve*, *sign*, *audit*, *reply* (in [`sign`]).
//!
//! Invariant: every decision about a signature is recorded before it is answered, and callers get
//! constant texts.

mod answer;
pub(crate) mod budget;
mod current;
pub(crate) mod message;
mod overview;
mod profiles;
mod recorder;
mod sign;
mod status;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::{Stream, StreamExt, stream};
use sigward_proto::v1;
use sigward_proto::v1::broker_server::Broker;
use sigward_proto::v1::login_response::Event;
use sigward_proto::version;
use tonic::{Request, Response, Status};

use crate::audit::{Event as AuditEvent, Record};
use crate::clock;
use crate::config::{Agent, ProfileName, Rate};
use crate::error::{Denial, Reason};
use crate::pace::Throttled;
use crate::peer::{Caller, Peer};
use crate::profile::{Done, Login, Prompt, Stage};
use crate::request;

pub(crate) use self::current::{Current, State};
pub(crate) use self::overview::Callers;
pub(crate) use self::recorder::Recorder;
pub(crate) use self::sign::{Accepted, sign};

/// The broker's service.
#[derive(Clone)]
pub(crate) struct Service {
    current: Arc<Current>,
}

impl Service {
    pub(crate) fn new(current: Arc<Current>) -> Self {
        Self { current }
    }
}

#[tonic::async_trait]
impl Broker for Service {
    /// The intake answers this call with [`sign`] before it gets here: a decoded message would hold
    /// the whole body.
    async fn sign(
        &self,
        _request: Request<v1::SignRequest>,
    ) -> Result<Response<v1::SignResponse>, Status> {
        Err(Status::internal("not answered by the intake"))
    }

    async fn list_profiles(
        &self,
        request: Request<v1::ListProfilesRequest>,
    ) -> Result<Response<v1::ListProfilesResponse>, Status> {
        let peer = self.admit(&request).await?;
        let profiles = self.current.state().visible_profiles(&peer, clock::now()).await;
        let config_rejected = self.current.rejected();
        let version = Some(version::of_broker(crate::VERSION));
        Ok(Response::new(v1::ListProfilesResponse { profiles, config_rejected, version }))
    }

    type WatchProfilesStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchProfilesResponse, Status>> + Send>>;

    async fn watch_profiles(
        &self,
        request: Request<v1::WatchProfilesRequest>,
    ) -> Result<Response<Self::WatchProfilesStream>, Status> {
        let peer = self.admit(&request).await?;
        let current = Arc::clone(&self.current);
        let mut changes = current.state().profiles.changes();
        changes.mark_changed();
        let lists =
            stream::unfold((current, changes, None), move |(current, mut changes, last)| {
                let peer = peer.clone();
                async move {
                    loop {
                        let mut draining = current.draining.clone();
                        tokio::select! {
                            changed = changes.changed() => changed.ok()?,
                            _ = draining.wait_for(|draining| *draining) => return None,
                        }
                        let profiles = current.state().visible_profiles(&peer, clock::now()).await;
                        let config_rejected = current.rejected();
                        let list = v1::WatchProfilesResponse { profiles, config_rejected };
                        // Changes of profiles that this caller doesn't see aren't sent.
                        if last.as_ref() != Some(&list) {
                            return Some((Ok(list.clone()), (current, changes, Some(list))));
                        }
                    }
                }
            });
        Ok(Response::new(lists.boxed()))
    }

    async fn overview(
        &self,
        mut request: Request<v1::OverviewRequest>,
    ) -> Result<Response<v1::OverviewResponse>, Status> {
        let peer = self.admit(&request).await?;
        let callers = request.extensions_mut().remove::<Callers>();
        let of = (!request.get_ref().all).then_some(&*peer);
        overview::overview(&self.current, callers, of, clock::now()).await.map(Response::new)
    }

    type LoginStream = Pin<Box<dyn Stream<Item = Result<v1::LoginResponse, Status>> + Send>>;

    async fn login(
        &self,
        request: Request<v1::LoginRequest>,
    ) -> Result<Response<Self::LoginStream>, Status> {
        let peer = self.admit(&request).await?;
        let v1::LoginRequest { profile } = request.into_inner();
        let current = &self.current;
        self.charge(&peer, SIGNING_IN).await?;
        let mut record = current.audit.begin("login", &peer, clock::now());
        record.asked(&profile, None);
        let login = self.begin_login(&peer, &profile, &mut record).await;
        let own_user = peer.is_own_user();
        let login = match login {
            Ok(login) => login,
            Err(denial) => {
                record.deny(&denial);
                tracing::info!(peer = %peer.id(), id = record.id(), %denial, "sign-in denied");
                let is_recorded = current.record_denial(&record, false).await;
                let id = is_recorded.then(|| record.id());
                return Err(status::of_credentials(&denial, own_user, id));
            }
        };
        tracing::info!(peer = %peer.id(), id = record.id(), profile, "a sign-in started");
        let end = LoginEnd { current: Arc::clone(current), of: record.id().to_owned(), profile };
        let draining = current.draining.clone();
        let state = Some((login.stage(), draining, None, login, end));
        let events = stream::unfold(state, move |state| async move {
            let (mut stage, mut draining, shown, login, end) = state?;
            // A caller that joins a sign-in gets the existing prompt.
            let is_new = |stage: &Stage| match stage {
                Stage::Asking => false,
                Stage::Prompted(prompt) => shown.as_ref() != Some(prompt),
                Stage::Over(_) => true,
            };
            let next = tokio::select! {
                next = stage.wait_for(is_new) => next.ok()?.clone(),
                _ = draining.wait_for(|draining| *draining) => return None,
            };
            match next {
                Stage::Asking => None,
                Stage::Prompted(prompt) => {
                    let event = prompted(&prompt);
                    Some((Ok(event), Some((stage, draining, Some(prompt), login, end))))
                }
                Stage::Over(outcome) => {
                    end.is(outcome.as_ref().map(drop));
                    let over = outcome.map(done);
                    let over =
                        over.map_err(|denial| status::of_credentials(&denial, own_user, None));
                    Some((over, None))
                }
            }
        });
        Ok(Response::new(events.boxed()))
    }

    async fn report_rejection(
        &self,
        request: Request<v1::ReportRejectionRequest>,
    ) -> Result<Response<v1::ReportRejectionResponse>, Status> {
        let peer = self.admit(&request).await?;
        let rejected = request.into_inner();
        let state = self.current.state();
        let rejection = state.reject(&peer, &rejected);
        let outcome = self.current.unless_ending(rejection).await;
        let generation = outcome.map_err(|denial| {
            tracing::info!(peer = %peer.id(), %denial, "no new credentials after a rejection");
            status::of_credentials(&denial, peer.is_own_user(), None)
        })?;
        let answer = v1::ReportRejectionResponse { credential_generation: generation };
        Ok(Response::new(answer))
    }

    async fn report_exchange(
        &self,
        request: Request<v1::ReportExchangeRequest>,
    ) -> Result<Response<v1::ReportExchangeResponse>, Status> {
        let peer = peer_of(&request)?;
        let v1::ReportExchangeRequest { profile, uri, audit_id, throttled, ended } =
            request.into_inner();
        let report = Report { profile, uri, audit_id };
        let state = self.current.state();
        // A report about a signature that the peer was given was charged with that signature, and
        // counts once. When a server begins to throttle, many older signatures may be reported at
        // once; such reports aren't recorded one by one.
        let of_end = ended && state.ended(&peer, &report);
        let of_throttling = if throttled { state.throttled(&peer, &report) } else { Ok(false) };
        let refused = |denial: Denial| status::of(&denial, None);
        if !of_end && !matches!(of_throttling, Ok(true)) {
            let (name, rate) = ASKING;
            let charged = self.current.rates.take_for(name, peer.id(), rate, Instant::now());
            charged.map_err(refused)?;
        }
        of_throttling.map_err(refused)?;
        Ok(Response::new(v1::ReportExchangeResponse {}))
    }
}

/// A caller's report about an exchange that it had a signature for.
struct Report {
    profile: String,
    uri: String,
    audit_id: String,
}

/// How often one peer may ask for lists, watch, report and sign in.
const ASKING: Bucket = ("\0asking", Rate { per_second: 50, burst: 200 });
/// How often one peer may start a sign-in: each one requests a code from AWS, even if the caller
/// hangs up.
const SIGNING_IN: Bucket = ("\0signing in", Rate { per_second: 1, burst: 20 });

/// A rate, under a name that no rule can have, because rule names contain no control characters.
type Bucket = (&'static str, Rate);

impl Service {
    /// The admitted peer of a request, after charging it.
    async fn admit<T>(&self, request: &Request<T>) -> Result<Arc<Peer>, Status> {
        let peer = peer_of(request)?;
        self.charge(&peer, ASKING).await?;
        Ok(peer)
    }

    /// Charges a call to its peer's rate.
    async fn charge(&self, peer: &Peer, (name, rate): Bucket) -> Result<(), Status> {
        match self.current.rates.take_for(name, peer.id(), rate, Instant::now()) {
            Ok(()) => Ok(()),
            Err(denial) => Err(self.current.turn_away(Some(peer), denial).await),
        }
    }

    /// Starts a sign-in, or joins the one in progress for the same session.
    async fn begin_login(
        &self,
        peer: &Peer,
        profile: &str,
        record: &mut Record,
    ) -> Result<Arc<Login>, Denial> {
        let current = &self.current;
        let sign_in = loop {
            let state = current.state();
            let grant = state.policy.authorize_login(peer, profile)?;
            let sign_in = current.unless_ending(state.profiles.sign_in(&grant)).await?;
            // The files may be read slowly, and the rules may have changed since.
            if Arc::ptr_eq(&state, &current.state()) {
                record.allow_login(&grant);
                break sign_in;
            }
        };
        // As with signatures, the record comes first: without it nothing is sent to AWS.
        current.audit.write(record).await?;
        Ok(sign_in.begin())
    }
}

/// Records once how a sign-in ended; if it is dropped before, that the caller hung up.
struct LoginEnd {
    current: Arc<Current>,
    of: String,
    profile: String,
}

impl LoginEnd {
    fn is(mut self, outcome: Result<(), &Denial>) {
        let of = std::mem::take(&mut self.of);
        let profile = std::mem::take(&mut self.profile);
        let event = AuditEvent::LoginEnd { of, profile, outcome: outcome.map_err(Clone::clone) };
        self.current.audit.event(event, clock::now());
    }
}

impl Drop for LoginEnd {
    fn drop(&mut self) {
        if self.of.is_empty() {
            return;
        }
        let abandoned = Denial::new(Reason::LoginExpired, "the caller hung up");
        let (of, profile) = (std::mem::take(&mut self.of), std::mem::take(&mut self.profile));
        let event = AuditEvent::LoginEnd { of, profile, outcome: Err(abandoned) };
        self.current.audit.event(event, clock::now());
    }
}

/// The peer that the intake has admitted.
fn peer_of<T>(request: &Request<T>) -> Result<Arc<Peer>, Status> {
    let caller = request.extensions().get::<Caller>();
    caller.and_then(|caller| caller.peer.clone()).ok_or_else(|| {
        let why = "the connection has no peer credentials";
        status::of(&Denial::new(Reason::PeerUnknown, why), None)
    })
}

impl State {
    /// The profile and the index of the endpoint that a report is about, if the peer may use both.
    /// The attack: a peer that can't get signatures for an endpoint slows others down with reports.
    fn reported(&self, peer: &Peer, report: &Report) -> Result<(ProfileName, usize), Denial> {
        let not_allowed = || Denial::new(Reason::ProfileNotAllowed, "no rule allows the profile");
        let profile = ProfileName::parse(&report.profile).map_err(|_| not_allowed())?;
        let allowed = self.policy.endpoints_of(peer, &profile);
        if allowed.is_empty() {
            return Err(not_allowed());
        }
        let endpoint = request::endpoint_of(&report.uri, &self.endpoints)?;
        let at = self.endpoints.iter().position(|it| Arc::ptr_eq(it, &endpoint));
        at.filter(|_| allowed.contains(&endpoint.name.as_str()))
            .map(|at| (profile, at))
            .ok_or_else(|| Denial::new(Reason::EndpointNotAllowed, "no rule allows the endpoint"))
    }

    /// Frees the place of an exchange that has ended. Returns false if the peer had none.
    fn ended(&self, peer: &Peer, report: &Report) -> bool {
        let reported = self.reported(peer, report).ok();
        let lane = reported.and_then(|(_, at)| self.lanes.get(at));
        lane.is_some_and(|lane| lane.ended(&peer.id(), &report.audit_id))
    }

    /// Records that the server of an endpoint throttled a request. Returns false if the report has
    /// no effect.
    fn throttled(&self, peer: &Peer, report: &Report) -> Result<bool, Denial> {
        let (profile, at) = self.reported(peer, report)?;
        let (Some(lane), Some(endpoint)) = (self.lanes.get(at), self.endpoints.get(at)) else {
            return Ok(false);
        };
        let account = self.profiles.account(&profile);
        let (peer, endpoint) = (peer.id(), &endpoint.name);
        let throttled = lane.throttled(&account, &peer, &report.audit_id);
        match throttled {
            Throttled::Begins => {
                tracing::info!(%peer, %profile, endpoint, "the server throttles: its signatures are now paced");
                self.profiles.announce();
            }
            Throttled::Known => tracing::debug!(%peer, %profile, endpoint, "the server throttles"),
            Throttled::NotYours => {
                tracing::debug!(%peer, %profile, endpoint, "a throttling report without a recent signature of the peer");
            }
        }
        Ok(throttled != Throttled::NotYours)
    }

    /// Loads the credentials again that AWS rejected. The attack: a caller has the credentials of
    /// other callers' agents reloaded again and again. It may name only those that it signs with.
    async fn reject(
        &self,
        peer: &Peer,
        rejected: &v1::ReportRejectionRequest,
    ) -> Result<u64, Denial> {
        let not_allowed = || Denial::new(Reason::ProfileNotAllowed, "no rule allows the profile");
        let name = ProfileName::parse(&rejected.profile).map_err(|_| not_allowed())?;
        let agents = self.policy.agents_of(peer, &name);
        let named = |agent: &Option<&Agent>| agent.map_or("", Agent::name) == rejected.agent;
        let agent = agents.into_iter().find(named).ok_or_else(not_allowed)?;
        self.profiles.reject(&name, agent, rejected.credential_generation).await
    }
}

fn prompted(prompt: &Prompt) -> v1::LoginResponse {
    let prompt = v1::LoginPrompt {
        verification_uri: prompt.uri.clone(),
        verification_uri_complete: prompt.uri_complete.clone(),
        user_code: prompt.code.clone(),
        expiry: Some(prompt.expiry.into()),
    };
    v1::LoginResponse { event: Some(Event::Prompt(prompt)) }
}

fn done(done: Done) -> v1::LoginResponse {
    let done = v1::LoginDone { expiry: Some(done.expiry.into()), in_memory: done.in_memory };
    v1::LoginResponse { event: Some(Event::Done(done)) }
}
