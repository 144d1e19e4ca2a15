//! A deadline for the messages of calls other than `Sign`, which the gRPC library reads.
//!
//! The attack: calls whose message never ends, until all places are taken.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Frame, SizeHint};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;

/// The time from the headers of a call to the end of its message.
const WHOLE: Duration = Duration::from_secs(10);

/// A body that is refused if it isn't complete in time.
pub(super) struct Timely {
    inner: Body,
    late: Pin<Box<Sleep>>,
}

impl Timely {
    pub(super) fn new(inner: Body) -> Self {
        Self { inner, late: Box::pin(tokio::time::sleep(WHOLE)) }
    }
}

impl http_body::Body for Timely {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) {
            return Poll::Ready(frame);
        }
        let late = || Some(Err(Status::deadline_exceeded("the message was sent too slowly")));
        self.late.as_mut().poll(context).map(|()| late())
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt as _, stream};
    use http_body_util::{BodyExt as _, StreamBody};
    use prost::bytes::Bytes;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_endless_message_is_refused_though_pieces_arrive() {
        let pieces = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x"))), ()))
        });
        let started = Instant::now();
        let mut body = Timely::new(Body::new(StreamBody::new(pieces.boxed())));
        for _ in 0..3 {
            body.frame().await.expect("a piece").expect("in time");
        }
        let status = body.frame().await.expect("no end").expect_err("too late");
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert_eq!(started.elapsed(), WHOLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_ends_in_time_is_unchanged() {
        let mut body =
            Timely::new(Body::new(http_body_util::Full::new(Bytes::from_static(b"all"))));
        tokio::time::sleep(2 * WHOLE).await;
        let whole = body.frame().await.expect("a frame").expect("in time");
        assert_eq!(whole.into_data().expect("data"), "all");
        assert!(body.frame().await.is_none());
    }
}
