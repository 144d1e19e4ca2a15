//! How many denials of a peer have records of their own. The rest is counted, and one record says how many
//! there were.
//!
//! The attack: denials are free for whoever sends them, and each is a line: a stranger fills the disk, and
//! then nobody gets a signature.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant, SystemTime};

use crate::peer::PeerId;

/// A stranger's denials that have records: so many at once, and so many a second.
const STRANGER: Allowance = Allowance { burst: 20, interval: Duration::from_millis(500) };
/// Those of a peer that a rule matches.
const KNOWN: Allowance = Allowance { burst: 500, interval: Duration::from_millis(10) };
/// More peers than this at a time are counted together.
const MAX_PEERS: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Allowance {
    burst: u32,
    interval: Duration,
}

/// Denials that have no records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub count: u64,
    /// By reason.
    pub reasons: BTreeMap<&'static str, u64>,
    /// When the first was.
    pub since: SystemTime,
}

/// What each peer was denied lately.
#[derive(Debug, Default)]
pub(super) struct Flood {
    /// When a peer's allowance is whole again.
    whole_at: HashMap<Option<PeerId>, Instant>,
    sums: HashMap<Option<PeerId>, Sum>,
    summed_up: u64,
}

impl Flood {
    /// Takes note of a denial: whether it gets a record.
    pub(super) fn note(
        &mut self,
        peer: Option<PeerId>,
        stranger: bool,
        reason: &'static str,
        now: Instant,
        time: SystemTime,
    ) -> bool {
        let allowance = if stranger { STRANGER } else { KNOWN };
        if self.whole_at.len() >= MAX_PEERS {
            self.whole_at.retain(|_, whole_at| *whole_at > now);
        }
        let room = self.whole_at.len() < MAX_PEERS || self.whole_at.contains_key(&peer);
        let peer = if room { peer } else { None };
        let whole_at = self.whole_at.entry(peer.clone()).or_insert(now);
        let next = (*whole_at).max(now) + allowance.interval;
        if next.saturating_duration_since(now) <= allowance.interval * allowance.burst {
            *whole_at = next;
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

    /// What was only counted since the last time.
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
        // 20,000 in two seconds.
        let recorded = (0..20_000).filter(|n| note(7, true, n / 10)).count();
        assert_eq!(recorded, 20 + 3);
        // Others have their own, and a peer with a rule has more.
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
    fn what_is_kept_is_bounded() {
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
        assert!(flood.whole_at.len() <= MAX_PEERS + 1 && flood.sums.len() <= MAX_PEERS + 1);
    }
}
