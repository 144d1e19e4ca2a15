//! The body of a response: a gRPC message in frames, and the trailers with the status OK.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use prost::bytes::Bytes;

/// The longest frame, in bytes. h2 0.4 sends frames shorter than 1024 bytes
/// (`CHAIN_THRESHOLD_WITHOUT_VECTORED_IO`) together with the headers and the trailers, in one write
/// for which the caller wakes once; a longer frame is a write of its own, and so are the frames
/// after it.
const FRAME: usize = 1023;

/// A complete message to send.
pub(super) struct Answer {
    message: Bytes,
    ended: bool,
}

impl Answer {
    pub(super) fn new(message: Bytes) -> Self {
        Self { message, ended: false }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.message.is_empty() {
            let length = self.message.len().min(FRAME);
            return Poll::Ready(Some(Ok(Frame::data(self.message.split_to(length)))));
        }
        if std::mem::replace(&mut self.ended, true) {
            return Poll::Ready(None);
        }
        let status = (http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(HeaderMap::from_iter([status])))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn a_message_of_any_length_is_sent_completely_before_the_trailers() {
        for length in [0, 1, FRAME, FRAME + 1, 3 * FRAME, 100_000] {
            let message: Bytes = (0..length).map(|at| (at % 251) as u8).collect();
            let mut answer = Answer::new(message.clone());
            let (mut found, mut trailers) = (Vec::new(), None);
            while let Some(frame) = answer.frame().now_or_never().expect("it is all there") {
                assert!(!answer.is_end_stream() || trailers.is_none());
                match frame.expect("no error").into_data() {
                    Ok(data) => {
                        assert!(trailers.is_none() && (1..=FRAME).contains(&data.len()));
                        found.extend_from_slice(&data);
                    }
                    Err(frame) => trailers = frame.into_trailers().ok(),
                }
            }
            assert!(found == message, "{length}");
            assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
            assert!(answer.is_end_stream());
        }
    }
}
