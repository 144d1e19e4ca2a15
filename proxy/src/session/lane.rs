//! Orders the client's messages that expect no response.
//!
//! Notifications and responses are sent one after the other, each once the server has accepted the
//! one before. A request waits for those that the client sent before it. So progress doesn't go
//! backwards, and a call doesn't overtake a notification that it depends on. The queue is bounded;
//! a task runs only while it isn't empty.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::budget::Message;
use crate::config::ProfileName;

/// The most notifications that wait; further ones are dropped. Responses, cancellations and `notifications/initialized`
/// are never dropped: each belongs to one of a bounded number of requests.
const MAX_WAITING: usize = 4096;
/// The limit for the bytes of all waiting messages.
const MAX_BYTES: usize = 4 << 20;

/// How long a request waits for the server to accept one notification.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a request waits for all of them.
const PATIENCE_MAX: Duration = Duration::from_secs(30);

/// A message for the lane.
#[derive(Debug)]
pub(crate) struct Parcel {
    /// The text, with its share of the memory.
    message: Message,
    /// The session that it is sent over.
    route: Route,
    /// Whether it is dropped if the lane is full.
    may_be_dropped: bool,
}

/// The session that a message of the lane is sent over.
#[derive(Debug)]
pub(super) enum Route {
    /// The session that is open when the message is sent.
    Bound,
    /// Only the session with this epoch: a later one doesn't know the request that the message is about.
    Epoch(u64),
    /// The session whose handshake this message ends; its server may then send unsolicited
    /// messages.
    Initialized,
    /// No session, with these headers (2026-07-28).
    Unbound(HeaderMap),
}

impl Parcel {
    /// A notification for the session that is open when it is sent.
    pub(crate) fn bound(message: Message) -> Self {
        Self { message, route: Route::Bound, may_be_dropped: true }
    }

    /// The cancellation of a request that was sent over the session.
    pub(crate) fn cancellation(message: Message) -> Self {
        Self { message, route: Route::Bound, may_be_dropped: false }
    }

    /// A message about a question of the session with this epoch.
    pub(crate) fn of_epoch(epoch: u64, message: Message) -> Self {
        Self { message, route: Route::Epoch(epoch), may_be_dropped: false }
    }

    /// The client's `notifications/initialized`.
    pub(crate) fn initialized(message: Message) -> Self {
        Self { message, route: Route::Initialized, may_be_dropped: false }
    }

    /// A notification of 2026-07-28.
    pub(crate) fn unbound(headers: HeaderMap, message: Message) -> Self {
        Self { message, route: Route::Unbound(headers), may_be_dropped: true }
    }
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    queue: Mutex<Queue>,
    /// The number of messages that have been sent or have failed.
    done: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Parcel>,
    bytes: usize,
    /// The number of messages that were added.
    added: u64,
    /// The value of `added` after the last `notifications/initialized`.
    handshake: u64,
    is_running: bool,
}

impl Lane {
    /// Appends a message. Returns true if the caller must start the task that sends them.
    pub(super) fn enqueue(&self, parcel: Parcel, profile: &ProfileName) -> bool {
        let mut queue = self.lock();
        let bytes = queue.bytes + parcel.message.text.len();
        let is_full = queue.waiting.len() >= MAX_WAITING || (bytes > MAX_BYTES && queue.bytes > 0);
        if is_full && parcel.may_be_dropped {
            tracing::warn!(%profile, "dropped a notification: the server is slow to take those before it");
            return false;
        }
        queue.added += 1;
        queue.bytes = bytes;
        if matches!(parcel.route, Route::Initialized) {
            queue.handshake = queue.added;
        }
        queue.waiting.push_back(parcel);
        !std::mem::replace(&mut queue.is_running, true)
    }

    pub(super) async fn wait_for_delivery(&self) {
        let (added, handshake) = {
            let queue = self.lock();
            (queue.added, queue.handshake)
        };
        if *self.done.borrow() >= added {
            return;
        }
        let mut done = self.done.subscribe();
        // The sender lives in `self`. Servers accept no request before the handshake is complete.
        let _ = done.wait_for(|done| *done >= handshake).await;
        let last = Instant::now() + PATIENCE_MAX;
        while *done.borrow_and_update() < added {
            let limit = last.min(Instant::now() + PATIENCE);
            if tokio::time::timeout_at(limit, done.changed()).await.is_err() {
                return;
            }
        }
    }

    /// The next message to send; the caller calls [`Lane::delivered`] after it. `None` if none
    /// waits.
    pub(super) fn next(&self) -> Option<(Message, Route)> {
        let mut queue = self.lock();
        let next = queue.waiting.pop_front();
        queue.is_running = next.is_some();
        queue.bytes -= next.as_ref().map_or(0, |parcel| parcel.message.text.len());
        next.map(|parcel| (parcel.message, parcel.route))
    }

    /// Records that the last message was sent or has failed.
    pub(super) fn delivered(&self) {
        self.done.send_modify(|done| *done += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(notes: usize) -> Lane {
        let (lane, profile) = (Lane::default(), ProfileName::parse("dev").unwrap());
        for _ in 0..notes {
            lane.enqueue(Parcel::bound("{}".to_owned().into()), &profile);
        }
        lane
    }

    /// The server accepts each notification in time, although all of them together take long.
    #[tokio::test(start_paused = true)]
    async fn a_request_waits_while_notifications_are_taken() {
        let lane = lane(20);
        let taking = async {
            while lane.next().is_some() {
                tokio::time::sleep(PATIENCE / 2).await;
                lane.delivered();
            }
        };
        let waiting = async {
            lane.wait_for_delivery().await;
            assert_eq!(*lane.done.borrow(), 20);
        };
        tokio::join!(taking, waiting);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_server_delays_a_request_only_for_a_limited_time() {
        let (stuck, begun) = (lane(1), Instant::now());
        stuck.wait_for_delivery().await;
        assert_eq!(begun.elapsed(), PATIENCE);
        let (slow, begun) = (lane(1000), Instant::now());
        let taking = async {
            while slow.next().is_some() {
                tokio::time::sleep(PATIENCE / 2).await;
                slow.delivered();
            }
        };
        tokio::select! {
            () = slow.wait_for_delivery() => {}
            () = taking => panic!("the request waited for all notifications"),
        }
        assert_eq!(begun.elapsed(), PATIENCE_MAX);
    }
}
