//! Bodies of answers.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use tokio::sync::mpsc;

use crate::budget::Message;
use crate::sse;

/// Why a body ends early: the client sees a broken connection.
pub(crate) type Cut = Box<dyn std::error::Error + Send + Sync>;
/// A body of any kind.
pub(crate) type Body = UnsyncBoxBody<Bytes, Cut>;

/// A complete body.
pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that is sent in parts.
pub(super) fn streaming(pieces: impl Stream<Item = Result<Bytes, Cut>> + Send + 'static) -> Body {
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync()
}

/// `body`, which ends without an error at `end`.
pub(crate) fn until(body: Body, end: impl Future<Output = ()> + Send + 'static) -> Body {
    StreamBody::new(BodyStream::new(body).take_until(Box::pin(end))).boxed_unsync()
}

/// Larger messages are sent in parts.
const SMALL: usize = 64 << 10;

/// The longest idle time of an event stream of the proxy.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A message as an event. A large message is split, so that parts the client hasn't read keep their share of the
/// memory.
pub(super) fn framed(message: Message) -> Vec<Bytes> {
    if message.text.len() <= SMALL {
        return vec![sse::event(&message.text).into()];
    }
    let (before, after) = (&b"event: message\ndata: "[..], &b"\n\n"[..]);
    vec![Bytes::from_static(before), message.into_bytes(), Bytes::from_static(after)]
}

/// Sends `messages`, then `last`, as events. A comment is sent after each idle period, so that an
/// intermediary doesn't close the connection of a slow call.
pub(super) fn events<T: Send + 'static>(
    first: Option<Message>,
    messages: mpsc::Receiver<Message>,
    last: BoxFuture<'static, Option<Message>>,
    held: T,
) -> impl Stream<Item = Result<Bytes, Cut>> + Send {
    let state = (VecDeque::new(), first, messages, Some(last.fuse()), held);
    stream::unfold(state, |mut state| async {
        let (ready, first, messages, last, _) = &mut state;
        if let Some(piece) = ready.pop_front() {
            return Some((Ok(piece), state));
        }
        let message = match (first.take(), last.as_mut()) {
            (Some(message), _) => message,
            // Messages before the response are sent before it.
            (None, None) => messages.recv().await?,
            (None, Some(waiting)) => tokio::select! {
                biased;
                Some(message) = messages.recv() => message,
                response = waiting => {
                    *last = None;
                    messages.close();
                    match (messages.try_recv().ok(), response) {
                        (Some(earlier), response) => {
                            *last = response.map(|it| async { Some(it) }.boxed().fuse());
                            earlier
                        }
                        (None, response) => response?,
                    }
                }
                () = tokio::time::sleep(KEEP_ALIVE) => {
                    return Some((Ok(Bytes::from_static(b": \n\n")), state));
                }
            },
        };
        ready.extend(framed(message));
        Some((Ok(ready.pop_front()?), state))
    })
}
