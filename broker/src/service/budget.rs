//! Limits the bytes of requests that the broker holds at once.
//!
//! The attack: a caller sends many request heads and completes none. The bytes of a peer are
//! counted over all of its connections; beyond the limit its requests are refused, and requests of
//! other peers aren't.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Denial, Reason};
use crate::peer::PeerId;

/// The limits in bytes, for each peer and for all: request heads, and what is stored of bodies.
const EACH: usize = 8 << 20;
const ALL: usize = 24 << 20;
/// The advised wait until memory may be free.
const ROOM: Duration = Duration::from_secs(1);

/// The bytes held, by peer.
#[derive(Debug, Default)]
pub(crate) struct Budget(Mutex<HeldBytes>);

#[derive(Debug, Default)]
struct HeldBytes {
    all: usize,
    each: HashMap<PeerId, usize>,
}

/// The bytes that one request holds, released on drop.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    peer: PeerId,
    taken: usize,
}

impl Share {
    pub(crate) fn new(budget: &Arc<Budget>, peer: PeerId) -> Self {
        Self { budget: Arc::clone(budget), peer, taken: 0 }
    }

    /// Reserves more bytes for the request.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), Denial> {
        if bytes == 0 {
            return Ok(());
        }
        let mut held = self.budget.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = held.each.get(&self.peer).copied().unwrap_or_default();
        if bytes > EACH - of_peer || bytes > ALL - held.all {
            let why = "too many bytes of requests are held, of this peer or of all";
            return Err(Denial::new(Reason::TooMuchInFlight, why).retry_after(ROOM));
        }
        held.all += bytes;
        held.each.insert(self.peer.clone(), of_peer + bytes);
        self.taken += bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.budget.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.all -= self.taken;
        if let Some(of_peer) = held.each.get_mut(&self.peer) {
            *of_peer -= self.taken;
            if *of_peer == 0 {
                held.each.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_cannot_exceed_its_share() {
        let budget = Arc::new(Budget::default());
        let share = |uid| Share::new(&budget, PeerId::Uid(uid));
        let mut first = share(1);
        first.take(EACH).expect("room");
        let mut second = share(1);
        let denial = second.take(1).expect_err("the peer's share is used up");
        assert_eq!((denial.reason(), denial.wait()), (Reason::TooMuchInFlight, Some(ROOM)));
        // Other peers have the same share, until the total is reached.
        let mut others = [share(2), share(3), share(4)];
        assert!(others[0].take(EACH).is_ok() && others[1].take(EACH).is_ok());
        assert!(others[2].take(1).is_err());
        drop(first);
        assert!(others[2].take(EACH).is_ok() && second.take(0).is_ok());
        drop((second, others));
        let held = budget.0.lock().expect("a lock");
        assert!(held.all == 0 && held.each.is_empty());
    }
}
