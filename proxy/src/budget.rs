//! How much memory messages in transit may take, all together.
//!
//! A client that reads slowly must not make us hold what all its calls bring: a message may grow only
//! as far as its [`Share`] covers it, and waits, and with it the server that sends it, where there is
//! nothing left. Small messages are free. Large ones draw on a pool; when that is empty, one message
//! at a time may grow to the limit of all messages out of a reserve. So somebody can always finish,
//! and the bound is the sum of both (and what is free, times the number of requests).
//!
//! Each client has a part of the pool at most ([`Budget::of_client`]): what one of them doesn't read
//! leaves room for the others.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Messages up to this size are free: an answer of a tool is a few kilobytes.
const FREE: usize = 64 << 10;
/// What the pool is counted in.
const UNIT: usize = 64 << 10;

/// The memory that messages share.
#[derive(Debug, Clone)]
pub struct Budget {
    /// The most units that one client may have.
    limit: usize,
    /// What one client may have of the pool.
    own: Option<Arc<Semaphore>>,
    pool: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
}

/// Of a client's part, and of the pool.
type Permits = (Option<OwnedSemaphorePermit>, OwnedSemaphorePermit);

/// What one message holds of it, until it is dropped.
#[derive(Debug, Default)]
pub struct Share {
    own: Option<OwnedSemaphorePermit>,
    pooled: Option<OwnedSemaphorePermit>,
    reserve: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// A budget of `pool` bytes, beside the reserve.
    #[must_use]
    pub fn new(pool: usize) -> Self {
        let limit = pool / UNIT;
        let (pool, reserve) = (Arc::new(Semaphore::new(limit)), Arc::new(Semaphore::new(1)));
        Self { limit, own: None, pool, reserve }
    }

    /// The same for one client, of whose messages those in the pool take one of `parts` at most.
    #[must_use]
    pub fn of_client(&self, parts: usize) -> Self {
        let limit = self.limit / parts.max(1);
        Self { limit, own: Some(Arc::new(Semaphore::new(limit))), ..self.clone() }
    }

    async fn acquire(&self, units: u32) -> Option<Permits> {
        let own = match &self.own {
            Some(own) => Some(Arc::clone(own).acquire_many_owned(units).await.ok()?),
            None => None,
        };
        let pooled = Arc::clone(&self.pool).acquire_many_owned(units).await.ok()?;
        Some((own, pooled))
    }

    fn try_acquire(&self, units: u32) -> Option<Permits> {
        let own = match &self.own {
            Some(own) => Some(Arc::clone(own).try_acquire_many_owned(units).ok()?),
            None => None,
        };
        let pooled = Arc::clone(&self.pool).try_acquire_many_owned(units).ok()?;
        Some((own, pooled))
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
                (self.own, self.pooled) = (None, None);
            }
            // Neither semaphore is ever closed.
            else => {}
        }
    }

    /// Covers `bytes` out of the pool, if that is possible at once.
    pub fn try_cover(&mut self, budget: &Budget, bytes: usize) -> bool {
        let Some(missing) = self.missing(bytes, budget.limit) else { return true };
        budget.try_acquire(missing).map(|permits| self.add(permits)).is_some()
    }

    /// `bytes`, which hold on to the share.
    #[must_use]
    pub fn holding(self, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Held { bytes, _share: self })
    }

    /// How many units it takes to cover `bytes` out of at most `limit`; `None` if they are covered.
    fn missing(&self, bytes: usize, limit: usize) -> Option<u32> {
        let held = self.pooled.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = if bytes <= FREE { 0 } else { bytes.div_ceil(UNIT) };
        if self.reserve.is_some() || wanted <= held {
            return None;
        }
        // A message that grows asks in steps of its size, not at each piece.
        let step = (held / 4).min(limit.saturating_sub(held));
        let missing = (wanted - held).max(step);
        Some(u32::try_from(missing).unwrap_or(u32::MAX))
    }

    fn add(&mut self, (own, pooled): Permits) {
        merge(&mut self.own, own);
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
    /// A message that holds `share` while it lives.
    #[must_use]
    pub fn new(text: String, share: Share) -> Self {
        Self { text, share: Arc::new(share) }
    }

    /// A message that is a part of this one, and holds on to the same share.
    #[must_use]
    pub fn part(&self, text: &str) -> Self {
        Self { text: text.to_owned(), share: Arc::clone(&self.share) }
    }

    /// A message that is made of this one, and holds on to the same share.
    #[must_use]
    pub fn part_of(&self, text: String) -> Self {
        Self { text, share: Arc::clone(&self.share) }
    }

    /// The message with `change` made to its text.
    #[must_use]
    pub fn map(self, change: impl FnOnce(String) -> String) -> Self {
        Self { text: change(self.text), share: self.share }
    }

    /// The message with another text in its place.
    #[must_use]
    pub fn with(self, text: String) -> Self {
        Self { text, ..self }
    }

    /// The message with another text in its place, if there is one.
    #[must_use]
    pub fn changed(self, text: Option<String>) -> Self {
        match text {
            Some(text) => self.with(text),
            None => self,
        }
    }

    /// The text as bytes, which hold on to the share.
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
    /// A message of our own: they are small.
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
            [const { Share { own: None, pooled: None, reserve: None } }; 3];
        assert!(covers(&mut first, &budget, 3 * UNIT));
        assert!(covers(&mut second, &budget, 2 * UNIT), "the reserve is free");
        assert!(covers(&mut second, &budget, 1 << 40), "and has no end");
        assert!(!covers(&mut first, &budget, 5 * UNIT));
        assert!(!covers(&mut third, &budget, 2 * UNIT));
        assert!(covers(&mut third, &budget, FREE));
        drop(second);
        assert!(covers(&mut first, &budget, 5 * UNIT), "now it has the reserve");
        assert!(covers(&mut third, &budget, 4 * UNIT), "and gave the pool back");
    }

    #[test]
    fn one_client_leaves_room_for_the_others() {
        let budget = Budget::new(8 * UNIT);
        let (slow, other) = (budget.of_client(4), budget.of_client(4));
        let mut held: Vec<Share> = (0..3).map(|_| Share::default()).collect();
        assert!(covers(&mut held[0], &slow, 2 * UNIT));
        assert!(covers(&mut held[1], &slow, 1 << 30), "the reserve");
        assert!(!covers(&mut held[2], &slow, 2 * UNIT), "its part is used up");
        let mut share = Share::default();
        assert!(covers(&mut share, &other, 2 * UNIT));
        assert!(!share.try_cover(&other, 3 * UNIT));
        drop(held);
        assert!(covers(&mut share, &other, 1 << 20), "the reserve is there for it as well");
    }

    /// The steps in which a message grows must not ask for more than there is.
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
    fn what_must_not_wait_is_refused() {
        let budget = Budget::new(2 * UNIT);
        let (mut first, mut second) = (Share::default(), Share::default());
        assert!(first.try_cover(&budget, 2 * UNIT));
        assert!(!second.try_cover(&budget, FREE + 1));
        assert!(second.try_cover(&budget, FREE));
        drop(first);
        assert!(second.try_cover(&budget, FREE + 1));
    }
}
