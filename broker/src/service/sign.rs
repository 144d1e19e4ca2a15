//! A signature, phase by phase: *parse* the head, find the rules, read the body, *authorize*, *resolve*,
//! *sign*, *audit*, *reply*.

use std::sync::Arc;
use std::time::Instant;

use prost::Message as _;
use prost::bytes::{BufMut as _, Bytes, BytesMut};
use sigward_proto::v1;
use tonic::body::Body;
use tracing::Instrument;
use tracing::field::Empty;

use super::budget::Share;
use super::current::{Current, State};
use super::message::{Incoming, Payload};
use super::status;
use crate::audit::Record;
use crate::clock;
use crate::config::ProfileName;
use crate::error::{Denial, Reason};
use crate::metrics::{Metrics, Phase};
use crate::peer::Peer;
use crate::request::{CheckedRequest, Head};
use crate::sign;

/// Answers a call of `Sign`, whose message comes in `body`.
pub(crate) async fn sign(
    current: Arc<Current>,
    peer: Arc<Peer>,
    body: Body,
) -> http::Response<Body> {
    let record = current.audit.begin("sign", &peer, clock::now());
    // What is known of it later isn't logged before a rule is about it: a stranger's texts could be anything.
    let span = tracing::info_span!(
        "sign",
        id = record.id(),
        profile = Empty,
        endpoint = Empty,
        traceparent = Empty
    );
    answer(current, &peer, body, record).instrument(span).await
}

async fn answer(
    current: Arc<Current>,
    peer: &Peer,
    body: Body,
    mut record: Record,
) -> http::Response<Body> {
    let mut asked = Asked::default();
    let mut phases = Phases { metrics: &current.metrics, since: Instant::now() };
    let outcome = current.signed(peer, body, &mut record, &mut asked, &mut phases).await;
    let outcome = match outcome {
        // What can't be recorded isn't given out.
        Ok(answer) => {
            let recorded = current.audit.write(&record).await;
            phases.end(Phase::Audit);
            recorded.map(|()| answer)
        }
        Err(denial) => Err(denial),
    };
    let state = current.state();
    let profile = state.profiles.names().find(|name| name.as_str() == asked.profile);
    let profile = profile.map_or("", ProfileName::as_str);
    current.metrics.decided(profile, &asked.rule, outcome.as_ref().map(drop));
    match outcome {
        Ok(answer) => response(&answer),
        Err(denial) => {
            record.deny(&denial);
            tracing::info!(uid = peer.uid, %denial, "denied");
            let noted = current.note_denial(&record, false).await;
            let id = noted.then(|| record.id());
            status::of_credentials(&denial, peer.is_own_user(), id).into_http()
        }
    }
}

/// What was asked for, for the metrics.
#[derive(Default)]
struct Asked {
    profile: String,
    rule: String,
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
        peer: &Peer,
        body: Body,
        record: &mut Record,
        asked: &mut Asked,
        phases: &mut Phases<'_>,
    ) -> Result<v1::SignResponse, Denial> {
        let mut share = Share::new(&self.budget, peer.uid);
        let mut incoming = Incoming::new(body, &mut share);
        // parse
        let message = incoming.head().await?;
        record.asked(&message.profile, Some(&message.method));
        asked.profile.clone_from(&message.profile);
        let state = self.state();
        let (profile, headers) = (message.profile, &message.headers);
        let head = Head::check(profile, &message.method, &message.uri, headers, &state.endpoints)?;
        record.head(&head);
        // Nothing of the body is read for someone whom no rule allows the profile and the endpoint.
        let request = {
            let matched = state.policy.match_rules(peer, &head)?;
            let span = tracing::Span::current();
            span.record("profile", head.profile()).record("endpoint", &head.endpoint().name);
            if let Some(trace) = record.traceparent() {
                span.record("traceparent", trace);
            }
            matched.check_rate(&self.rates, Instant::now())?;
            match message.payload {
                Payload::Follows => {
                    let mut reader = head.body_reader(matched.want());
                    incoming.read_body(&mut reader).await?;
                    head.with_body(reader)?
                }
                Payload::Hash(hash) => head.with_hash(&hash)?,
                Payload::None => head.without_body()?,
            }
        };
        record.body(request.body_sha256(), request.content());
        phases.end(Phase::Parse);
        self.decided(peer, &request, record, asked, phases).await
    }

    /// Decides about a request by the rules of now, and signs it.
    async fn decided(
        &self,
        peer: &Peer,
        request: &CheckedRequest,
        record: &mut Record,
        asked: &mut Asked,
        phases: &mut Phases<'_>,
    ) -> Result<v1::SignResponse, Denial> {
        let mut charged = false;
        loop {
            let state = self.state();
            // authorize
            let matched = state.policy.match_rules(peer, request.head())?;
            is_still_there(&state, request.head())?;
            let decision = matched.decide(request);
            record.rule(decision.rule.as_deref());
            asked.rule = decision.rule.clone().unwrap_or_default();
            if !charged {
                let paid = matched.charge(&decision, &self.rates, Instant::now());
                // What is refused costs as much, and is refused for its own reason.
                if decision.outcome.is_ok() {
                    paid?;
                }
                charged = true;
            }
            let grant = decision.outcome?;
            phases.end(Phase::Authorize);
            // resolve
            let credentials = state.profiles.credentials(&grant, clock::now()).await?;
            phases.end(Phase::Resolve);
            // The attack: a rule is taken back while the call waits for a load, which may take a minute.
            if !Arc::ptr_eq(&state, &self.state()) {
                continue;
            }
            // sign: a load may have taken a while, and a signature is only good for minutes
            let signature = sign::sign(&grant, &credentials, clock::now())?;
            phases.end(Phase::Sign);
            record.allow(&grant, &credentials, &signature);
            let headers = signature.headers.into_iter().map(|(name, value)| v1::Header {
                name: name.to_owned(),
                value: value.into_bytes().into(),
            });
            return Ok(v1::SignResponse {
                headers: headers.collect(),
                path_and_query: request.head().path_and_query().to_owned(),
                access_key_id: credentials.access_key_id().to_owned(),
                credential_scope: signature.scope,
                credential_expiry: credentials.expiry().map(Into::into),
                credential_generation: credentials.generation(),
                audit_id: record.id().to_owned(),
            });
        }
    }
}

/// The endpoint of a request may have been changed since its head was read.
fn is_still_there(state: &State, head: &Head) -> Result<(), Denial> {
    let there = state.endpoints.iter().any(|endpoint| endpoint == head.endpoint());
    let gone = || Denial::new(Reason::EndpointNotAllowed, "the endpoint was changed meanwhile");
    if there { Ok(()) } else { Err(gone()) }
}

/// One message of gRPC, and the trailers that say that all is well.
fn response(answer: &v1::SignResponse) -> http::Response<Body> {
    let length = answer.encoded_len();
    let mut message = BytesMut::with_capacity(5 + length);
    message.put_u8(0);
    message.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    answer.encode_raw(&mut message);
    let mut trailers = http::HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let body = http_body_util::Full::new(Bytes::from(message));
    let trailers = async move { Some(Ok::<_, std::convert::Infallible>(trailers)) };
    let body = http_body_util::BodyExt::with_trailers(body, trailers);
    let mut response = http::Response::new(Body::new(body));
    let grpc = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    response
}
