//! The RPCs. A signature's life, phase by phase: *accept* (in [`crate::listen`]), *identify*, *parse*,
//! *authorize*, *resolve*, *sign*, *audit*, *reply*.
//!
//! Invariant: every decision about a signature has its record before it is answered, and callers get
//! constant texts.

mod budget;
mod status;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use futures_util::{Stream, StreamExt, stream};
use sigward_proto::v1;
use sigward_proto::v1::broker_server::Broker;
use sigward_proto::v1::login_response::Event;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use crate::audit::{Audit, Record};
use crate::clock;
use crate::config::ProfileName;
use crate::endpoint::Endpoint;
use crate::error::Denial;
use crate::listen::Caller;
use crate::metrics::Metrics;
use crate::peer::Peer;
use crate::policy::Policy;
use crate::profile::{Done, Login, Profiles, Prompt, Stage, View};
use crate::request::CheckedRequest;
use crate::sign;

pub(crate) use self::budget::Meter;

/// The broker's service.
#[derive(Clone)]
pub(crate) struct Service {
    current: Arc<Current>,
}

/// What holds now: a reload puts another state in its place, as a whole.
pub(crate) struct Current {
    state: ArcSwap<State>,
    /// The configuration has changed, and has faults.
    rejected: AtomicBool,
    metrics: Metrics,
}

/// What all calls share.
pub(crate) struct State {
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    pub(crate) policy: Policy,
    pub(crate) profiles: Profiles,
    pub(crate) audit: Audit,
    /// Ends the streams when the broker drains.
    pub(crate) draining: watch::Receiver<bool>,
}

impl Current {
    pub(crate) fn new(state: State) -> Arc<Self> {
        Arc::new(Self {
            state: ArcSwap::from_pointee(state),
            rejected: AtomicBool::new(false),
            metrics: Metrics::default(),
        })
    }

    /// The state of this moment; whoever needs it for longer holds it.
    pub(crate) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Puts another state in place of the one that holds. Calls in flight end with the one that they
    /// began with.
    pub(crate) fn replace(&self, state: State) {
        let old = self.state.swap(Arc::new(state));
        self.rejected.store(false, Ordering::Relaxed);
        self.state.load().profiles.succeed(&old.profiles);
    }

    /// Turns away whom no rule is about, before anything of a message is read: by messages of their own they could fill
    /// the memory of a broker that isn't theirs to use.
    pub(crate) fn admit(&self, request: Request<()>) -> Result<Request<()>, Status> {
        let peer = identify(&request).map_err(|denial| status::of(&denial))?;
        let state = self.state();
        let Err(denial) = state.policy.admit(&peer) else { return Ok(request) };
        let mut record = state.audit.begin_call(&peer, clock::now());
        record.deny(&denial);
        tracing::info!(uid = peer.uid, id = record.id, %denial, "turned away");
        self.metrics.decided("", Err(&denial));
        // It is refused, recorded or not.
        state.audit.write(&record).ok();
        Err(status::of(&denial))
    }

    /// Takes note of a configuration with faults.
    pub(crate) fn reject(&self) {
        self.rejected.store(true, Ordering::Relaxed);
        self.state.load().profiles.announce();
    }

    /// All that is counted, for a collector.
    pub(crate) async fn metrics_text(&self, now: SystemTime) -> String {
        let state = self.state();
        let mut views = Vec::new();
        for name in state.profiles.names() {
            views.extend(state.profiles.view(name, now).await.ok());
        }
        self.metrics.text(&views, self.rejected())
    }

    fn rejected(&self) -> bool {
        self.rejected.load(Ordering::Relaxed)
    }
}

impl Service {
    pub(crate) fn new(current: Arc<Current>) -> Self {
        Self { current }
    }
}

#[tonic::async_trait]
impl Broker for Service {
    async fn sign(
        &self,
        request: Request<v1::SignRequest>,
    ) -> Result<Response<v1::SignResponse>, Status> {
        let peer = identify(&request).map_err(|denial| status::of(&denial))?;
        let request = request.into_inner();
        let now = clock::now();
        let asked = request.profile.clone();
        let state = self.current.state();
        let audit = &state.audit;
        let mut record = audit.begin(&peer, &request.profile, &request.method, now);
        let outcome = state.sign(&peer, request, &mut record, now).await;
        if let Err(denial) = &outcome {
            record.deny(denial);
            tracing::info!(uid = peer.uid, id = record.id, %denial, "denied");
        }
        let profile = state.profiles.names().find(|name| name.as_str() == asked);
        let counted = outcome.as_ref().map(drop);
        self.current.metrics.decided(profile.map_or("", ProfileName::as_str), counted);
        let written = audit.write(&record);
        // A denial is answered as it is, recorded or not; a signature isn't.
        let answer = outcome.and_then(|answer| written.map(|()| answer));
        let own_user = peer.is_own_user();
        answer.map(Response::new).map_err(|denial| status::of_credentials(&denial, own_user))
    }

    async fn list_profiles(
        &self,
        request: Request<v1::ListProfilesRequest>,
    ) -> Result<Response<v1::ListProfilesResponse>, Status> {
        let peer = self.admit(&request)?;
        let profiles = self.current.state().visible_profiles(&peer, clock::now()).await;
        let config_rejected = self.current.rejected();
        Ok(Response::new(v1::ListProfilesResponse { profiles, config_rejected }))
    }

    type WatchProfilesStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchProfilesResponse, Status>> + Send>>;

    async fn watch_profiles(
        &self,
        request: Request<v1::WatchProfilesRequest>,
    ) -> Result<Response<Self::WatchProfilesStream>, Status> {
        let peer = self.admit(&request)?;
        let current = Arc::clone(&self.current);
        let mut changes = current.state().profiles.changes();
        changes.mark_changed();
        let lists =
            stream::unfold((current, changes, None), move |(current, mut changes, last)| {
                let peer = peer.clone();
                async move {
                    loop {
                        let mut draining = current.state().draining.clone();
                        tokio::select! {
                            changed = changes.changed() => changed.ok()?,
                            _ = draining.wait_for(|draining| *draining) => return None,
                        }
                        let profiles = current.state().visible_profiles(&peer, clock::now()).await;
                        let config_rejected = current.rejected();
                        let list = v1::WatchProfilesResponse { profiles, config_rejected };
                        // A change of a profile that this caller doesn't see is none.
                        if last.as_ref() != Some(&list) {
                            return Some((Ok(list.clone()), (current, changes, Some(list))));
                        }
                    }
                }
            });
        Ok(Response::new(lists.boxed()))
    }

    type LoginStream = Pin<Box<dyn Stream<Item = Result<v1::LoginResponse, Status>> + Send>>;

    async fn login(
        &self,
        request: Request<v1::LoginRequest>,
    ) -> Result<Response<Self::LoginStream>, Status> {
        let peer = identify(&request).map_err(|denial| status::of(&denial))?;
        let v1::LoginRequest { profile } = request.into_inner();
        let state = self.current.state();
        let mut record = state.audit.begin_login(&peer, &profile, clock::now());
        let outcome = state.login(&peer, &profile, &mut record).await;
        if let Err(denial) = &outcome {
            record.deny(denial);
            tracing::info!(uid = peer.uid, id = record.id, %denial, "sign-in denied");
        }
        // As with signatures: what can't be recorded doesn't happen.
        let written = state.audit.write(&record);
        let login = outcome.and_then(|login| written.map(|()| login));
        let own_user = peer.is_own_user();
        let login = login.map_err(|denial| status::of_credentials(&denial, own_user))?;
        tracing::info!(uid = peer.uid, id = record.id, profile, "a sign-in begins");
        let draining = state.draining.clone();
        let state = Some((login.stage(), draining, None, login));
        let events = stream::unfold(state, move |state| async move {
            let (mut stage, mut draining, shown, login) = state?;
            // Whoever joins gets the prompt that is there.
            let news = |stage: &Stage| match stage {
                Stage::Asking => false,
                Stage::Prompted(prompt) => shown.as_ref() != Some(prompt),
                Stage::Over(_) => true,
            };
            let next = tokio::select! {
                next = stage.wait_for(news) => next.ok()?.clone(),
                _ = draining.wait_for(|draining| *draining) => return None,
            };
            match next {
                Stage::Asking => None,
                Stage::Prompted(prompt) => {
                    let event = prompted(&prompt);
                    Some((Ok(event), Some((stage, draining, Some(prompt), login))))
                }
                Stage::Over(outcome) => {
                    let over = outcome.map(done);
                    let over = over.map_err(|denial| status::of_credentials(&denial, own_user));
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
        let peer = self.admit(&request)?;
        let v1::ReportRejectionRequest { profile, credential_generation } = request.into_inner();
        let outcome = self.current.state().reject(&peer, &profile, credential_generation).await;
        let generation = outcome.map_err(|denial| {
            tracing::info!(uid = peer.uid, %denial, "a rejection led to no other credentials");
            status::of_credentials(&denial, peer.is_own_user())
        })?;
        let answer = v1::ReportRejectionResponse { credential_generation: generation };
        Ok(Response::new(answer))
    }
}

impl Service {
    fn admit<T>(&self, request: &Request<T>) -> Result<Peer, Status> {
        let admitted = identify(request)
            .and_then(|peer| self.current.state().policy.admit(&peer).map(|()| peer));
        admitted.map_err(|denial| status::of(&denial))
    }
}

/// Phase *identify*: the kernel named the peer when its connection was accepted, or nobody did.
fn identify<T>(request: &Request<T>) -> Result<Peer, Denial> {
    let peer = request.extensions().get::<Caller>().and_then(|caller| caller.peer.clone());
    peer.ok_or_else(|| {
        Denial::new(v1::Reason::PeerUnknown, "the connection has no peer credentials")
    })
}

impl State {
    async fn sign(
        &self,
        peer: &Peer,
        request: v1::SignRequest,
        record: &mut Record,
        now: SystemTime,
    ) -> Result<v1::SignResponse, Denial> {
        self.policy.admit(peer)?;
        // parse
        let request = CheckedRequest::parse(request, &self.endpoints)?;
        record.request(&request);
        // authorize
        let grant = self.policy.authorize(peer, &request, Instant::now())?;
        // resolve
        let resolve = self.profiles.credentials(&grant, now);
        let credentials = resolve.instrument(tracing::debug_span!("resolve")).await?;
        // sign: a load may have taken a while, and a signature is only good for minutes
        let signature = sign::sign(&grant, &credentials, clock::now())?;
        record.allow(&grant, &credentials, &signature);
        let headers = signature.headers.into_iter().map(|(name, value)| v1::Header {
            name: name.to_owned(),
            value: value.into_bytes().into(),
        });
        Ok(v1::SignResponse {
            headers: headers.collect(),
            path_and_query: request.path_and_query().to_owned(),
            access_key_id: credentials.access_key_id().to_owned(),
            credential_scope: signature.scope,
            credential_expiry: credentials.expiry().map(Into::into),
            credential_generation: credentials.generation(),
            audit_id: record.id.clone(),
        })
    }

    async fn login(
        &self,
        peer: &Peer,
        profile: &str,
        record: &mut Record,
    ) -> Result<Arc<Login>, Denial> {
        let grant = self.policy.authorize_login(peer, profile)?;
        let login = self.profiles.login(&grant).await?;
        record.allow_login(&grant);
        Ok(login)
    }

    async fn reject(&self, peer: &Peer, profile: &str, generation: u64) -> Result<u64, Denial> {
        let not_allowed =
            || Denial::new(v1::Reason::ProfileNotAllowed, "no rule allows the profile");
        let name = ProfileName::parse(profile).map_err(|_| not_allowed())?;
        if self.policy.endpoints_of(peer, &name).is_empty() {
            return Err(not_allowed());
        }
        self.profiles.reject(&name, generation).await
    }

    async fn visible_profiles(&self, peer: &Peer, now: SystemTime) -> Vec<v1::Profile> {
        let mut visible = Vec::new();
        for name in self.profiles.names() {
            let allowed = self.policy.endpoints_of(peer, name);
            if allowed.is_empty() {
                continue;
            }
            if let Ok(view) = self.profiles.view(name, now).await {
                let endpoints = self.endpoints.iter();
                let endpoints = endpoints.filter(|e| allowed.contains(&e.name.as_str()));
                visible.push(message(view, endpoints.map(|e| endpoint(e)).collect()));
            }
        }
        visible
    }
}

fn message(view: View, endpoints: Vec<v1::Endpoint>) -> v1::Profile {
    use v1::ProfileState::{Degraded, Fresh, Refreshing};
    // The reason is why the profile can't sign; these can.
    let signs = matches!(view.state, Fresh | Refreshing | Degraded);
    let last_error = view.failure.map_or("", |denial| denial.reason().name());
    let reason = if signs { "" } else { last_error };
    v1::Profile {
        name: view.name.to_string(),
        description: view.description,
        region: view.region.unwrap_or_default(),
        state: view.state.into(),
        reason: reason.to_owned(),
        last_error: last_error.to_owned(),
        credential_expiry: view.expiry.map(Into::into),
        endpoints,
        identity_arn: view.identity_arn,
        source: view.source.to_owned(),
        credential_generation: view.generation,
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

fn endpoint(endpoint: &Endpoint) -> v1::Endpoint {
    v1::Endpoint {
        name: endpoint.name.clone(),
        url: endpoint.url.to_string(),
        service: endpoint.scope.service.as_str().to_owned(),
        region: endpoint.scope.region.as_str().to_owned(),
    }
}
