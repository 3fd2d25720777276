//! How fast the finished jobs of this site were. From this the time limit of the next ones is
//! chosen.
//!
//! The file `paces.json` in the spool. A pass that is killed may lose or double the latest entry,
//! which changes an estimate a little and nothing else.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::progress::NotedPace;
use contract::wire::Pace;

/// At most so many jobs of each kind are remembered.
const MOST: usize = 20;

/// With fewer jobs nothing is estimated.
const ENOUGH: usize = 3;

/// A job that has learned less than so many megapixels says nothing about larger ones.
const LEAST_MEGAPIXELS: f64 = 1.0;

/// The kind of node that a job ran on, as far as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeKind {
    /// Cores.
    pub cpus: u32,
    /// Slurm's generic resource.
    pub gres: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    kind: NodeKind,
    seconds_per_megapixel: f64,
    at: Timestamp,
}

/// The paces of finished jobs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Paces {
    entries: Vec<Entry>,
}

impl Paces {
    /// Remembers a finished job; false where it tells nothing.
    pub fn add(&mut self, kind: &NodeKind, pace: NotedPace, now: Timestamp) -> bool {
        let NotedPace { megapixels, seconds } = pace;
        let per_megapixel = seconds / megapixels;
        if megapixels < LEAST_MEGAPIXELS || !per_megapixel.is_finite() || per_megapixel <= 0.0 {
            return false;
        }
        self.entries.push(Entry { kind: kind.clone(), seconds_per_megapixel: per_megapixel, at: now });
        let surplus = self.entries.iter().filter(|entry| entry.kind == *kind).count().saturating_sub(MOST);
        let mut gone = 0;
        self.entries.retain(|entry| {
            let goes = entry.kind == *kind && gone < surplus;
            gone += usize::from(goes);
            !goes
        });
        true
    }

    /// What a job on this kind of node can count on: the slowest but one in five of those that are
    /// remembered. `None` where there are too few.
    pub fn of(&self, kind: &NodeKind) -> Option<Pace> {
        let mut known: Vec<f64> = self
            .entries
            .iter()
            .filter(|entry| entry.kind == *kind)
            .map(|entry| entry.seconds_per_megapixel)
            .collect();
        if known.len() < ENOUGH {
            return None;
        }
        known.sort_by(f64::total_cmp);
        let at = (known.len() * 4 / 5).min(known.len() - 1);
        Some(Pace { seconds_per_megapixel: known[at] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(cpus: u32) -> NodeKind {
        NodeKind { cpus, gres: None }
    }

    fn pace(seconds: f64) -> NotedPace {
        NotedPace { megapixels: 10.0, seconds }
    }

    #[test]
    fn three_jobs_of_a_kind_tell_the_pace_of_the_next() {
        let now = Timestamp::UNIX_EPOCH;
        let mut paces = Paces::default();
        for seconds in [10.0, 30.0] {
            assert!(paces.add(&kind(4), pace(seconds), now));
        }
        assert_eq!(paces.of(&kind(4)), None);
        paces.add(&kind(4), pace(20.0), now);
        assert_eq!(paces.of(&kind(4)), Some(Pace { seconds_per_megapixel: 3.0 }));
        assert_eq!(paces.of(&kind(8)), None, "other nodes have other paces");
        let text = serde_json::to_vec(&paces).unwrap();
        assert_eq!(serde_json::from_slice::<Paces>(&text).unwrap(), paces);
    }

    #[test]
    fn the_latest_twenty_of_a_kind_are_remembered() {
        let mut paces = Paces::default();
        paces.add(&kind(1), pace(1.0), Timestamp::UNIX_EPOCH);
        for n in 0..50u8 {
            paces.add(&kind(2), pace(f64::from(n) + 1.0), Timestamp::UNIX_EPOCH);
        }
        assert_eq!(paces.entries.len(), 1 + MOST);
        // Of 31 to 50 the seventeenth.
        assert_eq!(paces.of(&kind(2)), Some(Pace { seconds_per_megapixel: 4.7 }));
    }

    #[test]
    fn what_can_not_be_a_pace_is_not_remembered() {
        let mut paces = Paces::default();
        for (megapixels, seconds) in
            [(0.0, 1.0), (0.5, 1.0), (10.0, 0.0), (10.0, -1.0), (10.0, f64::NAN), (f64::INFINITY, 1.0)]
        {
            assert!(!paces.add(&kind(1), NotedPace { megapixels, seconds }, Timestamp::UNIX_EPOCH));
        }
        assert_eq!(paces, Paces::default());
    }
}
