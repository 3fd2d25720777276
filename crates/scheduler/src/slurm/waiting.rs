//! The jobs of all accounts that wait in Slurm's queue, and what the nodes have: where one of our
//! jobs stands.

use std::ffi::OsString;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::command::{Slurm, SlurmError};
use base::text::printable;
use domain::SlurmJobId;

/// A job in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Its number; for an array of jobs that of the first one.
    id: SlurmJobId,
    priority: u64,
    partitions: Vec<String>,
    /// When Slurm expects it to start; it often does not say.
    start: Option<Timestamp>,
}

impl Pending {
    /// A job of equal rank with all others of its partition.
    pub(crate) fn new(id: SlurmJobId, partition: &str) -> Self {
        Self { id, priority: 0, partitions: vec![partition.to_owned()], start: None }
    }
}

/// What one node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    name: String,
    memory_mb: u64,
    cpus: u64,
    partition: String,
}

/// Where a job stands in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub position: usize,
    /// How many jobs wait there, as far as this account may see them.
    pub of: usize,
    /// The partition, or several, separated by commas.
    pub partition: String,
    /// When Slurm expects it to start.
    pub start: Option<Timestamp>,
}

const SQUEUE_FORMAT: &str = "%A|%Q|%P|%S";
const SINFO_FORMAT: &str = "%N|%m|%c|%R";

impl Slurm {
    /// All waiting jobs that this account may see, in no order.
    ///
    /// # Errors
    /// When squeue fails or does not answer.
    pub async fn pending(&self) -> Result<Vec<Pending>, SlurmError> {
        let arguments = [
            OsString::from("--noheader"),
            "--states=PENDING".into(),
            format!("--format={SQUEUE_FORMAT}").into(),
        ];
        let output = self.in_utc().run("squeue", &arguments).await?;
        if !output.success {
            return Err(SlurmError::Failed { command: "squeue", detail: output.last_words() });
        }
        Ok(output.stdout.lines().filter_map(pending).collect())
    }

    /// All nodes, once for each of their partitions.
    ///
    /// # Errors
    /// When sinfo fails or does not answer.
    pub async fn nodes(&self) -> Result<Vec<Node>, SlurmError> {
        let arguments = [
            OsString::from("--noheader"),
            "--Node".into(),
            format!("--format={SINFO_FORMAT}").into(),
        ];
        let output = self.run("sinfo", &arguments).await?;
        if !output.success {
            return Err(SlurmError::Failed { command: "sinfo", detail: output.last_words() });
        }
        Ok(output.stdout.lines().filter_map(node).collect())
    }
}

/// Where a job stands among all that wait for its partitions. Jobs of higher priority come first;
/// among equal ones the older.
pub fn place(id: SlurmJobId, all: &[Pending]) -> Option<Place> {
    let own = all.iter().find(|job| job.id == id)?;
    let shares = |job: &&Pending| job.partitions.iter().any(|name| own.partitions.contains(name));
    let rank = |job: &Pending| (std::cmp::Reverse(job.priority), job.id);
    let others: Vec<&Pending> = all.iter().filter(shares).filter(|job| job.id != id).collect();
    Some(Place {
        position: 1 + others.iter().filter(|job| rank(job) < rank(own)).count(),
        of: 1 + others.len(),
        partition: own.partitions.join(","),
        start: own.start,
    })
}

/// The number of nodes in these partitions that have this much memory and this many cores, and the
/// number of all their nodes.
pub fn fitting(partition: &str, memory_mb: u64, cpus: u64, nodes: &[Node]) -> (usize, usize) {
    let names: Vec<&str> = partition.split(',').collect();
    let mut all: Vec<&Node> =
        nodes.iter().filter(|node| names.contains(&node.partition.as_str())).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all.dedup_by(|a, b| a.name == b.name);
    let fits = all.iter().filter(|node| node.memory_mb >= memory_mb && node.cpus >= cpus).count();
    (fits, all.len())
}

fn pending(line: &str) -> Option<Pending> {
    let fields: Vec<&str> = line.trim().split('|').map(str::trim).collect();
    let [id, priority, partitions, start] = fields[..] else { return None };
    Some(Pending {
        id: SlurmJobId(id.parse().ok()?),
        priority: priority.parse().ok()?,
        partitions: partitions.split(',').map(|name| printable(name, 60)).collect(),
        start: moment(start),
    })
}

/// A time as Slurm writes it, in UTC.
fn moment(text: &str) -> Option<Timestamp> {
    let time: DateTime = text.parse().ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// sinfo writes a `+` after a number that not all nodes of a line have.
fn node(line: &str) -> Option<Node> {
    let fields: Vec<&str> = line.trim().split('|').map(str::trim).collect();
    let [name, memory, cpus, partition] = fields[..] else { return None };
    let number = |text: &str| text.trim_end_matches('+').parse().ok();
    Some(Node {
        name: name.to_owned(),
        memory_mb: number(memory)?,
        cpus: number(cpus)?,
        partition: partition.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_goes_by_priority_and_then_by_age_within_the_partition() {
        let text = "Welcome\n17|100|gpu|N/A\n18|200|gpu,long|2026-11-25T03:00:00\n\
                    19|100|long|N/A\n20|100|gpu|N/A\n21|900|other|N/A\n";
        let all: Vec<Pending> = text.lines().filter_map(pending).collect();
        assert_eq!(all.len(), 5);
        let stands = |id| place(SlurmJobId(id), &all).map(|place| (place.position, place.of));
        assert_eq!(
            (stands(18), stands(17), stands(20)),
            (Some((1, 4)), Some((2, 3)), Some((3, 3)))
        );
        assert_eq!((stands(21), stands(99)), (Some((1, 1)), None));
        let start = |id| place(SlurmJobId(id), &all).and_then(|place| place.start);
        assert_eq!((start(18), start(17)), ("2026-11-25T03:00:00Z".parse().ok(), None));
        assert_eq!(["Unknown", "NONE", "", "2026-13-25T03:00:00"].map(moment), [None; 4]);
    }

    #[test]
    fn nodes_that_suffice_are_counted_once() {
        let text = "n1|300000|8|gpu\nn1|300000|8|long\nn2|128000+|8|gpu\nn3|300000|4|gpu\n\
                    n4|300000|8|other\nbanner\n";
        let nodes: Vec<Node> = text.lines().filter_map(node).collect();
        assert_eq!(fitting("gpu", 257_000, 6, &nodes), (1, 3));
        assert_eq!(fitting("gpu,long", 100_000, 4, &nodes), (3, 3));
        assert_eq!(fitting("nowhere", 1, 1, &nodes), (0, 0));
    }
}
