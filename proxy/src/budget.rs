//! Limits the memory for all messages in transit.
//!
//! The proxy must not hold all data that is sent to a slow client: a message may grow only as far as its [`Share`]
//! covers it. If no memory is left, it waits, and with it the server that sends it. Small messages are free. Large ones
//! use a pool; when that is empty, one message at a time may use a reserve, and grow to the limit of all messages. So
//! one message can always finish, and the bound is the sum of both (and of the free messages, one for each request).
//!
//! Each client can use only a part of the pool ([`Budget::of_client`]), so that a client that doesn't read leaves room
//! for others.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Messages up to this size are free: a tool's answer has a few kilobytes.
const FREE: usize = 64 << 10;
/// The unit of the pool, in bytes.
const UNIT: usize = 64 << 10;

/// The memory that messages share.
#[derive(Debug, Clone)]
pub struct Budget {
    /// The most units of one client.
    limit: usize,
    /// The client's part of the pool.
    client: Option<Arc<Semaphore>>,
    pool: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
}

/// Permits of the client's part, and of the pool.
type Permits = (Option<OwnedSemaphorePermit>, OwnedSemaphorePermit);

/// The memory of one message, held until it is dropped.
#[derive(Debug, Default)]
pub struct Share {
    client: Option<OwnedSemaphorePermit>,
    pooled: Option<OwnedSemaphorePermit>,
    reserve: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// A budget of `pool` bytes, in addition to the reserve.
    #[must_use]
    pub fn new(pool: usize) -> Self {
        let limit = pool / UNIT;
        let (pool, reserve) = (Arc::new(Semaphore::new(limit)), Arc::new(Semaphore::new(1)));
        Self { limit, client: None, pool, reserve }
    }

    /// The same budget for one client, whose messages can use only one of `parts` equal parts of
    /// the pool.
    #[must_use]
    pub fn of_client(&self, parts: usize) -> Self {
        let limit = self.limit / parts.max(1);
        Self { limit, client: Some(Arc::new(Semaphore::new(limit))), ..self.clone() }
    }

    async fn acquire(&self, units: u32) -> Option<Permits> {
        let client = match &self.client {
            Some(client) => Some(Arc::clone(client).acquire_many_owned(units).await.ok()?),
            None => None,
        };
        let pooled = Arc::clone(&self.pool).acquire_many_owned(units).await.ok()?;
        Some((client, pooled))
    }

    fn try_acquire(&self, units: u32) -> Option<Permits> {
        let client = match &self.client {
            Some(client) => Some(Arc::clone(client).try_acquire_many_owned(units).ok()?),
            None => None,
        };
        let pooled = Arc::clone(&self.pool).try_acquire_many_owned(units).ok()?;
        Some((client, pooled))
    }
}

impl Share {
    /// Waits until `bytes` of the message are covered.
    pub async fn cover(&mut self, budget: &Budget, bytes: usize) {
        let Some(missing) = self.missing(bytes, budget.limit) else { return };
        let pool = budget.acquire(missing);
        let reserve = Arc::clone(&budget.reserve).acquire_owned();
        tokio::select! {
            biased;
            Some(permits) = pool => self.add(permits),
            Ok(permit) = reserve => {
                self.reserve = Some(permit);
                (self.client, self.pooled) = (None, None);
            }
            // The semaphores are never closed.
            else => {}
        }
    }

    /// Covers `bytes` out of the pool, if that is possible at once.
    pub fn try_cover(&mut self, budget: &Budget, bytes: usize) -> bool {
        let Some(missing) = self.missing(bytes, budget.limit) else { return true };
        budget.try_acquire(missing).map(|permits| self.add(permits)).is_some()
    }

    /// `bytes`, which hold the share until they are dropped.
    #[must_use]
    pub fn holding(self, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Held { bytes, _share: self })
    }

    /// The units that are missing to cover `bytes`, with at most `limit` in total; `None` if they
    /// are covered.
    fn missing(&self, bytes: usize, limit: usize) -> Option<u32> {
        let held = self.pooled.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = if bytes <= FREE { 0 } else { bytes.div_ceil(UNIT) };
        if self.reserve.is_some() || wanted <= held {
            return None;
        }
        // A growing message acquires units in steps of its size, not for each part.
        let step = (held / 4).min(limit.saturating_sub(held));
        let missing = (wanted - held).max(step);
        Some(u32::try_from(missing).unwrap_or(u32::MAX))
    }

    fn add(&mut self, (client, pooled): Permits) {
        merge(&mut self.client, client);
        merge(&mut self.pooled, Some(pooled));
    }
}

fn merge(held: &mut Option<OwnedSemaphorePermit>, more: Option<OwnedSemaphorePermit>) {
    match (held, more) {
        (Some(held), Some(more)) => held.merge(more),
        (held, more @ Some(_)) => *held = more,
        (_, None) => {}
    }
}

struct Held {
    bytes: Vec<u8>,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A message in transit, with its share of the memory.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// JSON text on one line.
    pub text: String,
    share: Arc<Share>,
}

impl Message {
    /// A message that holds `share` until it is dropped.
    #[must_use]
    pub fn new(text: String, share: Share) -> Self {
        Self { text, share: Arc::new(share) }
    }

    /// A message that is a part of this one, and shares its memory.
    #[must_use]
    pub fn part(&self, text: &str) -> Self {
        Self { text: text.to_owned(), share: Arc::clone(&self.share) }
    }

    /// A message that is made from this one, and shares its memory.
    #[must_use]
    pub fn part_of(&self, text: String) -> Self {
        Self { text, share: Arc::clone(&self.share) }
    }

    /// The message with `change` applied to its text.
    #[must_use]
    pub fn map(self, change: impl FnOnce(String) -> String) -> Self {
        Self { text: change(self.text), share: self.share }
    }

    /// The message with another text.
    #[must_use]
    pub fn with(self, text: String) -> Self {
        Self { text, ..self }
    }

    /// The message with another text, if there is one.
    #[must_use]
    pub fn changed(self, text: Option<String>) -> Self {
        match text {
            Some(text) => self.with(text),
            None => self,
        }
    }

    /// The text as bytes, which hold the share until they are dropped.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl From<String> for Message {
    /// A message of the proxy itself; these are small.
    fn from(text: String) -> Self {
        Self { text, share: Arc::default() }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn covers(share: &mut Share, budget: &Budget, bytes: usize) -> bool {
        share.cover(budget, bytes).now_or_never().is_some()
    }

    #[test]
    fn one_message_can_always_grow() {
        let budget = Budget::new(4 * UNIT);
        let [mut first, mut second, mut third] =
            [const { Share { client: None, pooled: None, reserve: None } }; 3];
        assert!(covers(&mut first, &budget, 3 * UNIT));
        assert!(covers(&mut second, &budget, 2 * UNIT), "the reserve is free");
        assert!(covers(&mut second, &budget, 1 << 40), "the reserve has no limit");
        assert!(!covers(&mut first, &budget, 5 * UNIT));
        assert!(!covers(&mut third, &budget, 2 * UNIT));
        assert!(covers(&mut third, &budget, FREE));
        drop(second);
        assert!(covers(&mut first, &budget, 5 * UNIT), "the first one now has the reserve");
        assert!(
            covers(&mut third, &budget, 4 * UNIT),
            "the first one has returned its part of the pool"
        );
    }

    #[test]
    fn one_client_leaves_room_for_the_others() {
        let budget = Budget::new(8 * UNIT);
        let (slow, other) = (budget.of_client(4), budget.of_client(4));
        let mut held: Vec<Share> = (0..3).map(|_| Share::default()).collect();
        assert!(covers(&mut held[0], &slow, 2 * UNIT));
        assert!(covers(&mut held[1], &slow, 1 << 30), "the reserve");
        assert!(!covers(&mut held[2], &slow, 2 * UNIT), "the client's part is used up");
        let mut share = Share::default();
        assert!(covers(&mut share, &other, 2 * UNIT));
        assert!(!share.try_cover(&other, 3 * UNIT));
        drop(held);
        assert!(covers(&mut share, &other, 1 << 20), "the reserve is available to it, too");
    }

    /// The steps in which a message grows must not exceed what is available.
    #[test]
    fn a_message_may_grow_to_the_whole_part_of_its_client() {
        let client = Budget::new(64 * UNIT).of_client(2);
        let mut share = Share::default();
        for units in 1..=32 {
            assert!(share.try_cover(&client, units * UNIT), "{units}");
        }
        assert!(!share.try_cover(&client, 33 * UNIT));
    }

    #[test]
    fn try_cover_refuses_instead_of_waiting() {
        let budget = Budget::new(2 * UNIT);
        let (mut first, mut second) = (Share::default(), Share::default());
        assert!(first.try_cover(&budget, 2 * UNIT));
        assert!(!second.try_cover(&budget, FREE + 1));
        assert!(second.try_cover(&budget, FREE));
        drop(first);
        assert!(second.try_cover(&budget, FREE + 1));
    }
}
