//! Answers `Sign`, phase by phase: *parse* the head, find the rules, read the body, *authorize*,
//! *resolve*, wait for a *turn* if the endpoint is paced, *sign*, *audit*, *reply*.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use prost::Message as _;
use prost::bytes::{BufMut as _, BytesMut};
use sigward_proto::traces::{AGO, Since};
use sigward_proto::{REPORTS_ENDS, traces, v1};
use tonic::body::Body;
use tracing::field::Empty;
use tracing::{Instrument, Level, Span};

use super::answer::Answer;
use super::budget::Share;
use super::current::{Current, State};
use super::message::{Incoming, Payload};
use super::status;
use crate::audit::Record;
use crate::clock;
use crate::config::Agent;
use crate::error::{Denial, Reason};
use crate::metrics::{Metrics, Phase};
use crate::pace::{self, Exchange, Lane, Requester};
use crate::peer::{ConnectionId, Peer};
use crate::policy::Grant;
use crate::request::{CheckedRequest, Head, Method};
use crate::sign;

/// When the intake accepted a call, and how many nanoseconds it took to identify the peer; empty if
/// traces are off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accepted {
    pub(crate) begun: Since,
    pub(crate) identified: Option<i64>,
}

/// Answers a call of `Sign`, whose message is in `body`. `headers` are those of the gRPC request.
pub(crate) async fn sign(
    current: Arc<Current>,
    (peer, connection): (&Peer, ConnectionId),
    accepted: Accepted,
    headers: &HeaderMap,
    body: Body,
) -> http::Response<Body> {
    let reports_ends = headers.contains_key(REPORTS_ENDS);
    let caller = CallOrigin { peer, connection, reports_ends };
    let record = current.audit.begin("sign", peer, clock::now());
    // A call that gets its signature is logged only at DEBUG: at other levels, formatting a span
    // would be wasted.
    let logged = if tracing::enabled!(Level::DEBUG) { span_of(record.id()) } else { Span::none() };
    let spans = Spans { logged, traced: traced(record.id(), headers, accepted) };
    let (outer, inner) = (spans.traced.clone(), spans.logged.clone());
    answer(current, caller, body, record, spans).instrument(inner).instrument(outer).await
}

/// The spans of a call: of the log, and of a trace.
struct Spans {
    logged: Span,
    traced: Span,
}

fn span_of(id: &str) -> Span {
    tracing::info_span!("sign", id, profile = Empty, endpoint = Empty, traceparent = Empty)
}

/// The broker's part of a trace, under the proxy's span that requests the signature.
fn traced(id: &str, headers: &HeaderMap, accepted: Accepted) -> Span {
    let span = tracing::info_span!(
        target: "trace",
        "sigward.broker.v1.Broker/Sign",
        otel.kind = "server",
        otel.status_code = Empty,
        sigward.audit_id = id,
        sigward.profile = Empty,
        sigward.endpoint = Empty,
        sigward.rule = Empty,
        sigward.decision = Empty,
        sigward.reason = Empty,
        sigward.ago_ns = Empty,
    );
    if span.is_disabled() {
        return span;
    }
    let parent = headers.get(traces::TRACEPARENT).and_then(|parent| parent.to_str().ok());
    if let Some(parent) = parent {
        traces::follow(&span, parent);
    }
    // The phases of the intake ended before the span existed.
    if let (Some(ago), Some(took)) = (accepted.begun.ago(), accepted.identified) {
        span.record(AGO, ago);
        drop(tracing::info_span!(target: "trace", parent: &span, "accept", sigward.ago_ns = ago));
        drop(tracing::info_span!(
            target: "trace",
            parent: &span,
            "identify",
            sigward.ago_ns = ago,
            sigward.took_ns = took,
        ));
    }
    span
}

impl Spans {
    /// Records the call's profile, endpoint and trace in the span of the log.
    fn describe(&self, record: &Record) {
        let span = &self.logged;
        span.record("profile", record.profile()).record("endpoint", record.endpoint());
        span.record("traceparent", record.traceparent());
    }

    /// Records the decision about a call in the span of its trace.
    fn decided(&self, record: &Record, asked: &Asked, denial: Option<&Denial>) {
        let span = &self.traced;
        if span.is_disabled() {
            return;
        }
        if asked.matched {
            span.record("sigward.profile", record.profile());
            span.record("sigward.endpoint", record.endpoint());
            span.record("sigward.rule", asked.rule.as_str());
        }
        span.record("sigward.decision", if denial.is_some() { "deny" } else { "allow" });
        if let Some(denial) = denial {
            span.record("sigward.reason", denial.reason().name())
                .record("otel.status_code", "ERROR");
        }
    }
}

/// The caller, and its connection.
#[derive(Clone, Copy)]
struct CallOrigin<'p> {
    peer: &'p Peer,
    connection: ConnectionId,
    /// Whether the caller reports the ends of exchanges if asked.
    reports_ends: bool,
}

async fn answer(
    current: Arc<Current>,
    caller: CallOrigin<'_>,
    body: Body,
    mut record: Record,
    mut spans: Spans,
) -> http::Response<Body> {
    let peer = caller.peer;
    let mut asked = Asked::default();
    let mut phases = Phases { metrics: &current.metrics, since: Instant::now() };
    let outcome = current.signed(caller, body, &mut record, &mut asked, &mut phases).await;
    let state = current.state();
    let profile = state.profiles.name(&asked.profile).unwrap_or_default();
    let agent = asked.agent.as_deref().map_or("", Agent::name);
    current.metrics.decided(profile, (&asked.rule, agent), outcome.as_ref().map(drop));
    spans.decided(&record, &asked, outcome.as_ref().err());
    match outcome {
        Ok(answer) => tracing::debug_span!("reply").in_scope(|| response(&answer)),
        Err(denial) => {
            record.deny(&denial);
            if spans.logged.is_none() {
                spans.logged = span_of(record.id());
            }
            if asked.matched {
                spans.describe(&record);
            }
            spans.logged.in_scope(|| tracing::info!(peer = %peer.id(), %denial, "denied"));
            let is_recorded = current.record_denial(&record, false).await;
            let id = is_recorded.then(|| record.id());
            status::of_credentials(&denial, peer.is_own_user(), id).into_http()
        }
    }
}

/// The request's data for the metrics and the log.
#[derive(Default)]
struct Asked {
    profile: String,
    rule: String,
    /// The agent of the rule.
    agent: Option<Arc<Agent>>,
    /// Whether a rule matches the request. A stranger's texts aren't logged: they could be anything.
    matched: bool,
}

/// Measures one phase after the other.
struct Phases<'m> {
    metrics: &'m Metrics,
    since: Instant,
}

impl Phases<'_> {
    fn end(&mut self, phase: Phase) {
        let now = Instant::now();
        self.metrics.passed(phase, now - self.since);
        self.since = now;
    }
}

impl Current {
    async fn signed(
        &self,
        caller: CallOrigin<'_>,
        body: Body,
        record: &mut Record,
        asked: &mut Asked,
        phases: &mut Phases<'_>,
    ) -> Result<v1::SignResponse, Denial> {
        // A message whose rest is never sent must not delay draining.
        let parsed = self.unless_ending(self.parsed(caller.peer, body, record, asked));
        let request = parsed.instrument(tracing::debug_span!("parse")).await?;
        phases.end(Phase::Parse);
        self.decided(caller, &request, record, asked, phases).await
    }

    /// Reads a request: its head, and its body if a rule matches.
    async fn parsed(
        &self,
        peer: &Peer,
        body: Body,
        record: &mut Record,
        asked: &mut Asked,
    ) -> Result<CheckedRequest, Denial> {
        let mut share = Share::new(&self.budget, peer.id());
        let mut incoming = Incoming::new(body, &mut share);
        let message = incoming.head().await?;
        record.asked(&message.profile, Some(&message.method));
        asked.profile.clone_from(&message.profile);
        let state = self.state();
        let (profile, headers) = (message.profile, &message.headers);
        let head = Head::check(profile, &message.method, &message.uri, headers, &state.endpoints)?;
        record.head(&head);
        // The body isn't read for a caller whom no rule allows the profile and the endpoint.
        let matched = state.policy.match_rules(peer, &head)?;
        asked.matched = true;
        matched.check_rate(&self.rates, Instant::now())?;
        let request = match message.payload {
            Payload::Follows => {
                let mut reader = head.body_reader(matched.want());
                incoming.read_body(&mut reader).await?;
                head.with_body(reader)?
            }
            Payload::Hash(hash) => head.with_hash(&hash)?,
            Payload::None => head.without_body()?,
        };
        record.body(request.body_sha256(), request.content());
        Ok(request)
    }

    /// Decides about a request by the current rules, and signs it.
    async fn decided(
        &self,
        caller: CallOrigin<'_>,
        request: &CheckedRequest,
        record: &mut Record,
        asked: &mut Asked,
        phases: &mut Phases<'_>,
    ) -> Result<v1::SignResponse, Denial> {
        let peer = caller.peer;
        let (mut charged, mut turn) = (false, None);
        let (grant, credentials, turn) = loop {
            let state = self.state();
            let authorized = tracing::debug_span!("authorize")
                .in_scope(|| self.authorized(&state, peer, request, record, asked, &mut charged));
            let (grant, lane) = authorized?;
            phases.end(Phase::Authorize);
            let loaded = self.unless_ending(state.profiles.credentials(&grant, clock::now()));
            let credentials = loaded.instrument(tracing::debug_span!("resolve")).await?;
            phases.end(Phase::Resolve);
            // The attack: a rule is removed while the call waits for credentials, which may take a
            // minute.
            if !Arc::ptr_eq(&state, &self.state()) {
                continue;
            }
            if !lane.is_limited() {
                break (grant, credentials, None);
            }
            let account = state.profiles.account(grant.profile());
            if let Some((_, turn)) = turn.take_if(|(of, _)| *of == account) {
                break (grant, credentials, Some(turn));
            }
            let requester = Requester { peer: peer.id(), connection: caller.connection };
            // A GET is a stream that may stay open for hours, and a DELETE ends what others hold.
            let takes_place = request.head().method() == Method::Post;
            let exchange = Exchange { takes_place, is_reported: caller.reports_ends };
            let waiting = match lane.ask(&account, requester, exchange)? {
                pace::Asked::Free => break (grant, credentials, None),
                pace::Asked::Now(turn) => break (grant, credentials, Some(turn)),
                pace::Asked::Later(waiting) => waiting,
            };
            // A waiting call holds no credentials, because they may be replaced, and is decided
            // again after the wait, for the same reason as after a load. A reload decides about
            // waiting calls, too: they keep their place, or are denied at once.
            drop(credentials);
            let refused = async {
                let mut known = Arc::clone(&state);
                loop {
                    self.until_replaced(&known).await;
                    known = self.state();
                    let again = self.authorized(&known, peer, request, record, asked, &mut charged);
                    if let Err(denial) = again {
                        return denial;
                    }
                }
            };
            let waits = self.unless_ending(waiting.turn());
            let next = tokio::select! {
                biased;
                next = waits.instrument(tracing::debug_span!("turn")) => next?,
                denial = refused => return Err(denial),
            };
            turn = next.map(|turn| (account, turn));
            phases.end(Phase::Turn);
        };
        // Loading or waiting may have taken a while: a certificate may have expired, and a
        // signature is valid only for minutes.
        let now = clock::now();
        peer.check(now)?;
        let scope = sign::credential_scope(&request.head().endpoint().scope, now);
        record.allow(&grant, &credentials, &scope);
        // The record is written while the signature is made; the signature is returned only after
        // the record is written.
        let submitted = self.audit.submit(record);
        let signed =
            tracing::debug_span!("sign").in_scope(|| sign::sign(&grant, &credentials, now));
        phases.end(Phase::Sign);
        // Only a bug makes the signer fail: then the record of the denial follows this one, with
        // the same id.
        let signature = signed?;
        self.audit.written(submitted).instrument(tracing::debug_span!("audit")).await?;
        phases.end(Phase::Audit);
        let pacing = turn.and_then(|turn| {
            let terms = turn.signed(record.id());
            self.paces().given(caller.connection);
            let report_end = terms.wants_end;
            (terms.is_paced || report_end).then_some(v1::Pacing { report_end })
        });
        let headers = signature.headers.into_iter().map(|(name, value)| v1::Header {
            name: name.to_owned(),
            value: value.into_bytes().into(),
        });
        Ok(v1::SignResponse {
            headers: headers.collect(),
            path_and_query: request.head().path_and_query().to_owned(),
            access_key_id: credentials.access_key_id().to_owned(),
            credential_scope: scope,
            credential_expiry: credentials.expiry().map(Into::into),
            credential_generation: credentials.generation(),
            audit_id: record.id().to_owned(),
            pacing,
            agent: grant.agent().map_or_else(String::new, |agent| agent.name().to_owned()),
        })
    }

    /// The grant by the rules of `state`, charged once, and the pace of its endpoint.
    fn authorized<'r, 's>(
        &self,
        state: &'s State,
        peer: &Peer,
        request: &'r CheckedRequest,
        record: &mut Record,
        asked: &mut Asked,
        charged: &mut bool,
    ) -> Result<(Grant<'r>, &'s Arc<Lane>), Denial> {
        let matched = state.policy.match_rules(peer, request.head())?;
        let lane = lane(state, request.head())?;
        let decision = matched.decide(request);
        record.rule(decision.rule.as_deref());
        asked.rule = decision.rule.clone().unwrap_or_default();
        asked.agent.clone_from(&decision.agent);
        if !std::mem::replace(charged, true) {
            let rate_checked = matched.charge(&decision, &self.rates, Instant::now());
            // A refused request costs as much, and is refused for its own reason.
            if decision.outcome.is_ok() {
                rate_checked?;
            }
        }
        Ok((decision.outcome?, lane))
    }
}

/// The pace of a request's endpoint, which may have been changed since its head was read.
fn lane<'s>(state: &'s State, head: &Head) -> Result<&'s Arc<Lane>, Denial> {
    let at = state.endpoints.iter().position(|endpoint| endpoint == head.endpoint());
    let gone =
        || Denial::new(Reason::EndpointNotAllowed, "the endpoint was changed during the call");
    at.and_then(|at| state.lanes.get(at)).ok_or_else(gone)
}

/// One gRPC message, and trailers with the status OK.
fn response(answer: &v1::SignResponse) -> http::Response<Body> {
    let length = answer.encoded_len();
    let mut message = BytesMut::with_capacity(5 + length);
    message.put_u8(0);
    message.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    answer.encode_raw(&mut message);
    let mut response = http::Response::new(Body::new(Answer::new(message.freeze())));
    let grpc = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    response
}
