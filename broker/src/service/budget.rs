//! How much of its callers' messages the broker holds at once.
//!
//! The attack: a caller that may sign sends many large messages at once, and none of them to its end. What a user has
//! on the way is counted over all of its connections; beyond the limit its messages are refused, and nobody else's.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use sigward_proto::MAX_MESSAGE_BYTES;
use sigward_proto::v1::Reason;
use tonic::Status;
use tower::{Layer, Service};

use super::status;
use crate::error::Denial;
use crate::listen::Caller;

/// For each user: several of the largest messages there may be.
const LIMIT: usize = 4 * MAX_MESSAGE_BYTES;

/// The bytes on the way, by user.
#[derive(Debug, Default)]
struct Budget(Mutex<HashMap<u32, usize>>);

/// Has the messages of all requests counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter(Arc<Budget>);

/// A service behind it.
#[derive(Debug, Clone)]
pub(crate) struct Counted<S> {
    inner: S,
    budget: Arc<Budget>,
}

impl<S> Layer<S> for Meter {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, budget: Arc::clone(&self.0) }
    }
}

impl<S> Service<http::Request<tonic::body::Body>> for Counted<S>
where
    S: Service<http::Request<tonic::body::Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> S::Future {
        self.inner.call(self.budget.meter(request))
    }
}

/// A message on its way. What came of it counts until it is dropped.
struct Metered {
    inner: tonic::body::Body,
    uid: u32,
    taken: usize,
    budget: Arc<Budget>,
}

impl Budget {
    /// The same request, whose body is counted. Of one without a peer nothing will be read.
    fn meter(
        self: &Arc<Self>,
        request: http::Request<tonic::body::Body>,
    ) -> http::Request<tonic::body::Body> {
        let caller = request.extensions().get::<Caller>();
        let Some(uid) = caller.and_then(|caller| Some(caller.peer.as_ref()?.uid)) else {
            return request;
        };
        let budget = Arc::clone(self);
        request.map(|inner| tonic::body::Body::new(Metered { inner, uid, taken: 0, budget }))
    }

    /// Whether there is room for so much more.
    fn take(&self, uid: u32, bytes: usize) -> bool {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = users.entry(uid).or_default();
        let fits = bytes <= LIMIT - *held;
        if fits {
            *held += bytes;
        }
        fits
    }

    fn give_back(&self, uid: u32, bytes: usize) {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = users.get_mut(&uid) {
            *held -= bytes;
            if *held == 0 {
                users.remove(&uid);
            }
        }
    }
}

impl Body for Metered {
    type Data = <tonic::body::Body as Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(context)) else {
            return Poll::Ready(None);
        };
        let frame = frame?;
        let bytes = frame.data_ref().map_or(0, |data| data.len());
        if !self.budget.take(self.uid, bytes) {
            let why = "too much of this user's messages is on the way";
            let denial = Denial::new(Reason::RateLimited, why);
            tracing::warn!(uid = self.uid, %denial, "stopped reading a message");
            return Poll::Ready(Some(Err(status::of(&denial))));
        }
        self.taken += bytes;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.budget.give_back(self.uid, self.taken);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;
    use crate::peer::Peer;

    const PIECE: usize = 16 << 20;

    /// A message of so many pieces, which then doesn't come to an end.
    fn message(budget: &Arc<Budget>, uid: Option<u32>, pieces: usize) -> tonic::body::Body {
        let frame = |_| Ok::<_, Status>(Frame::data(bytes::Bytes::from(vec![0; PIECE])));
        let pieces = stream::iter((0..pieces).map(frame));
        let endless = futures_util::StreamExt::chain(pieces, stream::pending());
        let mut request = http::Request::new(tonic::body::Body::new(StreamBody::new(endless)));
        let peer = uid.map(|uid| Peer { uid, gid: 0, pid: None, exe: None });
        request.extensions_mut().insert(Caller { peer });
        budget.meter(request).into_body()
    }

    async fn read(body: &mut tonic::body::Body, pieces: usize) -> Result<(), tonic::Code> {
        for _ in 0..pieces {
            body.frame().await.expect("a piece").map_err(|status| status.code())?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_user_has_so_much_on_the_way_and_not_more() {
        let budget = Arc::new(Budget::default());
        let all = LIMIT / PIECE;
        let mut first = message(&budget, Some(1000), all / 2);
        let mut second = message(&budget, Some(1000), all);
        assert_eq!(read(&mut first, all / 2).await, Ok(()));
        assert_eq!(read(&mut second, all - all / 2).await, Ok(()));
        assert_eq!(read(&mut second, 1).await, Err(tonic::Code::ResourceExhausted));
        // Another one has as much.
        let mut other = message(&budget, Some(1001), all);
        assert_eq!(read(&mut other, all).await, Ok(()));
        // What is over doesn't count.
        drop((first, second));
        let mut third = message(&budget, Some(1000), all);
        assert_eq!(read(&mut third, all).await, Ok(()));
        drop((other, third));
        assert!(budget.0.lock().expect("a lock").is_empty());
    }
}
