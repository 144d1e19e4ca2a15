//! The checks of every call before its message is read: who calls, whether a rule matches the
//! caller, and how many calls it has in progress.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::{Frame, SizeHint};
use sigward_proto::traces::Since;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::calls::Calls;
use super::counts::Place;
use super::timely::Timely;
use crate::error::Denial;
use crate::peer::{Caller, Peer};
use crate::service::{self, Accepted, Current};

const SIGN: &str = "/sigward.broker.v1.Broker/Sign";
const OVERVIEW: &str = "/sigward.broker.v1.Broker/Overview";
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// A layer in front of all services.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Calls>);

impl Gate {
    pub(super) fn new(calls: &Arc<Calls>) -> Self {
        Self(Arc::clone(calls))
    }
}

/// The services behind the gate.
#[derive(Clone)]
pub(crate) struct Gated<S> {
    inner: S,
    calls: Arc<Calls>,
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, calls: Arc::clone(&self.0) }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl<S> Service<http::Request<Body>> for Gated<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Answer {
        let path = request.uri().path();
        let caller = request.extensions().get::<Caller>();
        let connection = caller.map(|caller| caller.connection);
        let peer = caller.and_then(|caller| caller.peer.clone());
        let current = Arc::clone(self.calls.current());
        let is_overview = path == OVERVIEW && peer.as_deref().is_some_and(Peer::is_operator);
        let needs_rule = path != HEALTH && !is_overview;
        let begun = Since::now();
        let identified = self.calls.identify(peer.as_deref(), needs_rule);
        let accepted = Accepted { begun, identified: begun.ago() };
        let entered = identified.and_then(|()| self.calls.enter(peer.as_deref()));
        let place = match entered {
            Ok(place) => place,
            Err(denial) => return Box::pin(refuse(current, peer, denial)),
        };
        match (path, peer.zip(connection)) {
            (SIGN, Some((peer, connection))) => Box::pin(async move {
                let (head, body) = request.into_parts();
                let caller = (&*peer, connection);
                let response = service::sign(current, caller, accepted, &head.headers, body).await;
                drop(place);
                Ok(response)
            }),
            // Each health watcher would hold a stream, and keep the broker from draining. Clients
            // fall back to `Check`.
            (path, _) if path.starts_with("/grpc.health.v1.") && path != HEALTH => {
                Box::pin(async { Ok(Status::unimplemented("use Check").into_http()) })
            }
            (_, peer) => {
                if is_overview {
                    request.extensions_mut().insert(self.calls.callers());
                }
                let peer = peer.map(|(peer, _)| peer);
                let answer = self.inner.call(request.map(|body| Body::new(Timely::new(body))));
                Box::pin(async move {
                    let answer = async { Ok(answer.await) };
                    match current.unless_ending(answer).await {
                        // A streaming call is in progress until its response ends.
                        Ok(Ok(response)) => {
                            Ok(response
                                .map(|inner| Body::new(AdmittedBody { inner, _place: place })))
                        }
                        Err(denial) => refuse(current, peer, denial).await,
                    }
                })
            }
        }
    }
}

/// Refuses a call.
async fn refuse(
    current: Arc<Current>,
    peer: Option<Arc<Peer>>,
    denial: Denial,
) -> Result<http::Response<Body>, Infallible> {
    let status = current.turn_away(peer.as_deref(), denial).await;
    Ok(status.into_http())
}

/// A body that keeps its place until it is sent.
struct AdmittedBody {
    inner: Body,
    _place: Place,
}

impl http_body::Body for AdmittedBody {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
