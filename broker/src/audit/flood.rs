//! Limits how many denials of a peer have records of their own. Further denials are counted, and
//! one record has their number.
//!
//! The attack: denials cost the sender nothing, and each is a line: a stranger fills the disk, and
//! then no signature can be recorded.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant, SystemTime};

use crate::peer::PeerId;

/// A stranger's recorded denials: the burst, and the interval at which the allowance refills.
const STRANGER: Allowance = Allowance { burst: 20, interval: Duration::from_millis(500) };
/// The same for a peer that a rule matches.
const KNOWN: Allowance = Allowance { burst: 500, interval: Duration::from_millis(10) };
/// The most peers with counts of their own; further peers are counted together.
const MAX_PEERS: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Allowance {
    burst: u32,
    interval: Duration,
}

/// Denials without records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// The number of denials.
    pub count: u64,
    /// The number by reason.
    pub reasons: BTreeMap<&'static str, u64>,
    /// The time of the first denial.
    pub since: SystemTime,
}

/// The recent denials of each peer.
#[derive(Debug, Default)]
pub(super) struct Flood {
    /// When a peer's allowance is full again.
    full_at: HashMap<Option<PeerId>, Instant>,
    sums: HashMap<Option<PeerId>, Sum>,
    summed_up: u64,
}

impl Flood {
    /// Counts a denial. Returns whether it gets a record.
    pub(super) fn note(
        &mut self,
        peer: Option<PeerId>,
        stranger: bool,
        reason: &'static str,
        now: Instant,
        time: SystemTime,
    ) -> bool {
        let allowance = if stranger { STRANGER } else { KNOWN };
        if self.full_at.len() >= MAX_PEERS {
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        let room = self.full_at.len() < MAX_PEERS || self.full_at.contains_key(&peer);
        let peer = if room { peer } else { None };
        let full_at = self.full_at.entry(peer.clone()).or_insert(now);
        let next = (*full_at).max(now) + allowance.interval;
        if next.saturating_duration_since(now) <= allowance.interval * allowance.burst {
            *full_at = next;
            return true;
        }
        self.summed_up += 1;
        let room = self.sums.len() < MAX_PEERS || self.sums.contains_key(&peer);
        let peer = if room { peer } else { None };
        let sum = self.sums.entry(peer).or_insert_with(|| Sum {
            count: 0,
            reasons: BTreeMap::new(),
            since: time,
        });
        sum.count += 1;
        *sum.reasons.entry(reason).or_default() += 1;
        false
    }

    /// The denials that were only counted since the last call.
    pub(super) fn take(&mut self) -> Vec<(Option<PeerId>, Sum)> {
        self.sums.drain().collect()
    }

    pub(super) fn summed_up(&self) -> u64 {
        self.summed_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_a_bounded_number_of_records() {
        let mut flood = Flood::default();
        let (start, time) = (Instant::now(), SystemTime::UNIX_EPOCH);
        let mut note = |uid, stranger, millis| {
            let now = start + Duration::from_millis(millis);
            flood.note(Some(PeerId::Uid(uid)), stranger, "PEER_NOT_ALLOWED", now, time)
        };
        // 20,000 denials in two seconds.
        let recorded = (0..20_000).filter(|n| note(7, true, n / 10)).count();
        assert_eq!(recorded, 20 + 3);
        // Other peers have allowances of their own, and known peers larger ones.
        assert!(note(8, true, 0));
        assert_eq!((0..1000).filter(|_| note(9, false, 0)).count(), 500);
        assert!(note(7, true, 3000));
        let mut sums = flood.take();
        sums.sort_by_key(|(peer, _)| peer.clone());
        let counts: Vec<_> = sums.iter().map(|(peer, sum)| (peer.clone(), sum.count)).collect();
        let user = |uid| Some(PeerId::Uid(uid));
        assert_eq!(counts, [(user(7), 20_000 - 23), (user(9), 500)]);
        assert_eq!(sums[0].1.reasons["PEER_NOT_ALLOWED"], 20_000 - 23);
        assert!(flood.take().is_empty());
    }

    #[test]
    fn stored_peers_are_bounded() {
        let mut flood = Flood::default();
        let now = Instant::now();
        for uid in 0..100_000 {
            flood.note(
                Some(PeerId::Uid(uid)),
                true,
                "PEER_NOT_ALLOWED",
                now,
                SystemTime::UNIX_EPOCH,
            );
        }
        assert!(flood.full_at.len() <= MAX_PEERS + 1 && flood.sums.len() <= MAX_PEERS + 1);
    }
}
