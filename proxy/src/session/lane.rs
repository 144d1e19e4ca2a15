//! The order of what a client sends without waiting for an answer.
//!
//! Notifications and responses go out one after the other, each once the server has taken the one
//! before, and a request waits for those that the client sent before it: progress doesn't go
//! backwards, and a call doesn't overtake a notification that it depends on. The queue is bounded;
//! there is a task only while it isn't empty.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::budget::Message;
use crate::config::ProfileName;

/// Notifications that wait. Beyond these, new ones are dropped. Responses, cancellations and the end
/// of the handshake never are: each belongs to one of a bounded number of requests.
const MAX_WAITING: usize = 4096;
/// The bytes that they may have together.
const MAX_BYTES: usize = 4 << 20;

/// How long a request waits for a server that is late to take one notification.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it waits for all of them.
const PATIENCE_MAX: Duration = Duration::from_secs(30);

/// One message for the lane.
#[derive(Debug)]
pub(crate) struct Parcel {
    /// The text, with its share of the memory.
    message: Message,
    /// How it goes.
    route: Route,
    /// Whether the server can do without it.
    may_be_dropped: bool,
}

/// How a message of the lane goes.
#[derive(Debug)]
pub(super) enum Route {
    /// Over whichever session is open then.
    Bound,
    /// Only over this one of the profile's sessions: another one doesn't know the request that it is
    /// about.
    Epoch(u64),
    /// The end of the client's handshake, after which the server may speak on its own account.
    Initialized,
    /// Over none, with these headers (2026-07-28).
    Unbound(HeaderMap),
}

impl Parcel {
    /// A notification for whichever session is open.
    pub(crate) fn bound(message: Message) -> Self {
        Self { message, route: Route::Bound, may_be_dropped: true }
    }

    /// The cancellation of a request that was sent over the session.
    pub(crate) fn cancellation(message: Message) -> Self {
        Self { message, route: Route::Bound, may_be_dropped: false }
    }

    /// What concerns a question of one of the profile's sessions.
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
    /// How many of those that came have been dealt with.
    done: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Parcel>,
    bytes: usize,
    /// How many came.
    came: u64,
    /// How many had come with the end of the last handshake.
    handshake: u64,
    is_running: bool,
}

impl Lane {
    /// Puts a message behind those that wait. True if nobody sends them yet.
    pub(super) fn enqueue(&self, parcel: Parcel, profile: &ProfileName) -> bool {
        let mut queue = self.lock();
        let bytes = queue.bytes + parcel.message.text.len();
        let is_full = queue.waiting.len() >= MAX_WAITING || (bytes > MAX_BYTES && queue.bytes > 0);
        if is_full && parcel.may_be_dropped {
            tracing::warn!(%profile, "dropped a notification: the server is slow to take those before it");
            return false;
        }
        queue.came += 1;
        queue.bytes = bytes;
        if matches!(parcel.route, Route::Initialized) {
            queue.handshake = queue.came;
        }
        queue.waiting.push_back(parcel);
        !std::mem::replace(&mut queue.is_running, true)
    }

    pub(super) async fn caught_up(&self) {
        let (came, handshake) = {
            let queue = self.lock();
            (queue.came, queue.handshake)
        };
        if *self.done.borrow() >= came {
            return;
        }
        let mut done = self.done.subscribe();
        // The sender lives in `self`. Before the handshake is complete, servers take no request.
        let _ = done.wait_for(|done| *done >= handshake).await;
        let last = Instant::now() + PATIENCE_MAX;
        while *done.borrow_and_update() < came {
            let limit = last.min(Instant::now() + PATIENCE);
            if tokio::time::timeout_at(limit, done.changed()).await.is_err() {
                return;
            }
        }
    }

    /// The next message to send, after which [`Lane::delivered`] is called; `None` if none waits.
    pub(super) fn next(&self) -> Option<(Message, Route)> {
        let mut queue = self.lock();
        let next = queue.waiting.pop_front();
        queue.is_running = next.is_some();
        queue.bytes -= next.as_ref().map_or(0, |parcel| parcel.message.text.len());
        next.map(|parcel| (parcel.message, parcel.route))
    }

    /// The message that was taken last has been dealt with.
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

    /// A busy server takes each of them in time, and all together take long.
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
            lane.caught_up().await;
            assert_eq!(*lane.done.borrow(), 20);
        };
        tokio::join!(taking, waiting);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_takes_none_or_too_many_holds_no_request_up() {
        let (stuck, begun) = (lane(1), Instant::now());
        stuck.caught_up().await;
        assert_eq!(begun.elapsed(), PATIENCE);
        let (slow, begun) = (lane(1000), Instant::now());
        let taking = async {
            while slow.next().is_some() {
                tokio::time::sleep(PATIENCE / 2).await;
                slow.delivered();
            }
        };
        tokio::select! {
            () = slow.caught_up() => {}
            () = taking => panic!("it waited for all"),
        }
        assert_eq!(begun.elapsed(), PATIENCE_MAX);
    }
}
