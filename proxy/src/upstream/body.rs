//! A request body that reports how much of it the connection has accepted, for `--write-timeout`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

const PIECE: usize = 64 << 10;

/// The body, sent in parts.
#[derive(Debug)]
pub(super) struct Paced {
    rest: Bytes,
    progress: Progress,
}

/// How much of a body has been accepted.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Arc<Taken>);

#[derive(Debug, Default)]
struct Taken {
    bytes: AtomicUsize,
    more: Notify,
}

impl Progress {
    /// The number of accepted bytes.
    pub(super) fn taken(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Waits until more has been accepted since the last call.
    pub(super) async fn more(&self) {
        self.0.more.notified().await;
    }
}

/// `bytes` as a body, and its progress.
pub(super) fn paced(bytes: Bytes) -> (Paced, Progress) {
    let progress = Progress::default();
    (Paced { rest: bytes, progress: progress.clone() }, progress)
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(length);
        self.progress.0.bytes.fetch_add(length, Ordering::Relaxed);
        self.progress.0.more.notify_one();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
